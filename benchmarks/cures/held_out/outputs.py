"""Outputs, targets and losses that do not fit each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import (
    HELD,
    HELD_HOUSES,
    accuracy,
    bounded,
    drawn,
    explained,
    house_recipe,
    language_recipe,
    next_symbol,
)
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense
from benchmarks.gauntlet.held_out.common_b import tidy_houses
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("output_mismatch")
def language_model_with_a_softmax_before_cross_entropy(sick: bool) -> Recipe:
    """A softmax ends a GRU language model, and cross-entropy takes another one of it."""

    class Text(RecurrentText):
        def forward(self, tokens: Tensor) -> Tensor:
            logits = super().forward(tokens)
            return logits.softmax(-1) if sick else logits

    return language_recipe(lambda: Text(nn.GRU), lambda parameters: torch.optim.Adam(parameters, 5e-3), 200)


@CASES.sick("output_mismatch")
def cross_entropy_over_time_instead_of_symbols(sick: bool) -> Recipe:
    """Twenty positions and twenty symbols: the logits (batch, time, symbol) go into cross-entropy as they are, which
    takes the softmax over time.
    """
    return language_recipe(
        lambda: RecurrentText(nn.LSTM),
        lambda parameters: torch.optim.Adam(parameters, 5e-3),
        200,
        length=20,
        loss=F.cross_entropy if sick else next_symbol,
    )


@CASES.sick("output_mismatch")
def prices_of_both_signs_out_of_a_relu(sick: bool) -> Recipe:
    """The last layer has the activation of all others, and the standardized prices are negative half of the time."""
    return house_recipe(
        lambda: nn.Sequential(*dense(6, 64, 64, 1), *([nn.ReLU()] if sick else [])),
        lambda parameters: torch.optim.Adam(parameters, 3e-3),
        300,
    )


@CASES.sick("output_mismatch", "saturated_units")
def prices_in_thousands_out_of_a_tanh(sick: bool) -> Recipe:
    """A tanh ends the network, but the prices lie around five, give or take two."""
    x, y = tidy_houses()
    return house_recipe(
        lambda: nn.Sequential(*dense(6, 64, 64, 1), *([nn.Tanh()] if sick else [])),
        lambda parameters: torch.optim.Adam(parameters, 5e-3),
        300,
        data=(x, 5 + 2 * y),
    )


@CASES.sick("output_mismatch", "stalled_training")
def column_of_outputs_against_a_row_of_targets(sick: bool) -> Recipe:
    """Outputs ``(N, 1)`` and targets ``(N,)`` broadcast to all pairs, and the best answer is the mean for everyone."""
    x, y = tidy_houses()
    targets = y[:, 0] if sick else y
    return house_recipe(
        lambda: dense(6, 48, 48, 1, activation=nn.GELU),
        lambda parameters: torch.optim.AdamW(parameters, 5e-3),
        250,
        batches=drawn(x[HELD_HOUSES:], targets[HELD_HOUSES:], 32),
    )


@CASES.sick("output_mismatch", "saturated_units")
def two_sigmoids_before_the_multi_label_loss(sick: bool) -> Recipe:
    """A sigmoid ends the network, and ``binary_cross_entropy_with_logits`` takes another: no label is denied."""
    x, y = digits()
    labels = torch.stack([y % 2 == 0, y >= 5, y % 3 == 0, (y == 1) | (y == 7), (y == 0) | (y == 8)], 1).float()
    guess = F.binary_cross_entropy(labels.mean(0).expand(HELD, 5), labels[:HELD]).item()
    score = nn.BCEWithLogitsLoss()
    return Recipe(
        model=lambda: nn.Sequential(*dense(64, 64, 5, activation=nn.LeakyReLU), *([nn.Sigmoid()] if sick else [])),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3),
        loss=nn.BCEWithLogitsLoss(),
        batches=drawn(x[HELD:], labels[HELD:]),
        evaluate=lambda model: bounded(1 - score(model(x[:HELD]), labels[:HELD]).item() / guess),
        steps=250,
    )


@CASES.sick("output_mismatch")
def softmax_over_the_batch(sick: bool) -> Recipe:
    """``LogSoftmax(dim=0)``: the chances of one class over the images of a batch, not of the classes of one image."""
    x, y = images()

    def model() -> nn.Module:
        body = [nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(192, 10), nn.LogSoftmax(0 if sick else 1))

    def evaluate(model: nn.Module) -> float:
        """One image at a time, as it will be used."""
        said = torch.cat([model(x[k : k + 1]) for k in range(HELD)]).argmax(1)
        return bounded(((said == y[:HELD]).float().mean().item() - 0.1) / 0.9)

    return Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 5e-3),
        loss=nn.NLLLoss(),
        batches=drawn(x[HELD:], y[HELD:], 32),
        evaluate=evaluate,
        steps=200,
    )


@CASES.sick("output_mismatch", "stalled_training")
def poisson_loss_of_rates_read_as_logarithms(sick: bool) -> Recipe:
    """Counts with a softplus output, and a Poisson loss that still has ``log_input=True``."""
    g = torch.Generator().manual_seed(6)
    x = torch.randn(2000, 5, generator=g)
    mean = (1.2 + 0.7 * x[:, :1] + 0.5 * x[:, 1:2] * x[:, 2:3]).clamp(-3, 3.5).exp()
    counts = torch.poisson(mean, generator=g)
    return Recipe(
        model=lambda: nn.Sequential(*dense(5, 48, 48, 1), nn.Softplus()),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 5e-3),
        loss=nn.PoissonNLLLoss(log_input=sick),
        batches=drawn(x[500:], counts[500:]),
        evaluate=explained(x[:500], mean[:500]),
        steps=300,
    )


@CASES.sick("output_mismatch", "diverging_loss")
def likelihood_of_probabilities_without_their_logarithm(sick: bool) -> Recipe:
    """``nll_loss`` is fed with a softmax instead of a log-softmax, in a deep network under SGD."""
    x, y = digits()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.nll_loss(outputs.softmax(1) if sick else outputs.log_softmax(1), targets)

    return Recipe(
        model=lambda: dense(64, 64, 64, 64, 10, activation=nn.Tanh),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.5),
        loss=loss,
        batches=drawn(x[HELD:], y[HELD:]),
        evaluate=accuracy(x[:HELD], y[:HELD]),
        steps=250,
    )
