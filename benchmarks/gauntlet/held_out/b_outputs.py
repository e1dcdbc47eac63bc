"""Outputs, targets and losses that do not fit each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense
from benchmarks.gauntlet.held_out.common_b import accuracy, bounded, explained, fit, language, quiet, tidy_houses
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("output_mismatch", also=("stalled_training", "saturated_units"), good=0.6)
def language_model_with_a_softmax_before_cross_entropy(sick: bool) -> Training:
    """A softmax ends a GRU language model, and cross-entropy takes another one of it."""

    class Text(RecurrentText):
        def forward(self, tokens: Tensor) -> Tensor:
            logits = super().forward(tokens)
            return logits.softmax(-1) if sick else logits

    model = Text(nn.GRU)
    return language(model, torch.optim.Adam(model.parameters(), 5e-3), 200)


@CASES.sick("output_mismatch", also=("stalled_training",), good=0.6)
def cross_entropy_over_time_instead_of_symbols(sick: bool) -> Training:
    """Twenty positions and twenty symbols: the logits (batch, time, symbol) go into cross-entropy as they are, which
    takes the softmax over time.
    """
    model = RecurrentText(nn.LSTM)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits if sick else logits.transpose(1, 2), targets)

    return language(model, torch.optim.Adam(model.parameters(), 5e-3), 200, length=20, loss=loss)


@CASES.sick("output_mismatch", also=("stalled_training", "dead_units", "rank_collapse"), good=0.8)
def prices_of_both_signs_out_of_a_relu(sick: bool) -> Training:
    """The last layer has the activation of all others, and the standardized prices are negative half of the time."""
    x, y = tidy_houses()
    model = dense(6, 64, 64, 1)
    if sick:
        model.append(nn.ReLU())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 300, explained(model, x[:500], y[:500], model))


@CASES.sick("output_mismatch", also=("saturated_units", "stalled_training", "vanishing_gradient"), good=0.6)
def prices_in_thousands_out_of_a_tanh(sick: bool) -> Training:
    """A tanh ends the network, but the prices lie around five, give or take two."""
    x, y = tidy_houses()
    prices = 5 + 2 * y
    model = dense(6, 64, 64, 1)
    if sick:
        model.append(nn.Tanh())
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(x[chosen]), prices[chosen])

    return fit(model, optimizer, loss, len(x), 300, explained(model, x[:500], prices[:500], model))


@CASES.sick("output_mismatch", "stalled_training", also=("rank_collapse",))
def column_of_outputs_against_a_row_of_targets(sick: bool) -> Training:
    """Outputs ``(N, 1)`` and targets ``(N,)`` broadcast to all pairs, and the best answer is the mean for everyone."""
    x, y = tidy_houses()
    model = dense(6, 48, 48, 1, activation=nn.GELU)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        target = y[chosen]
        return F.mse_loss(model(x[chosen]), target[:, 0] if sick else target)

    return fit(model, optimizer, loss, len(x), 250, explained(model, x[:500], y[:500], model), batch=32)


@CASES.sick("output_mismatch", also=("stalled_training", "saturated_units", "vanishing_gradient"), good=0.6)
def two_sigmoids_before_the_multi_label_loss(sick: bool) -> Training:
    """A sigmoid ends the network, and ``binary_cross_entropy_with_logits`` takes another: no label is denied."""
    x, y = digits()
    labels = torch.stack([y % 2 == 0, y >= 5, y % 3 == 0, (y == 1) | (y == 7), (y == 0) | (y == 8)], 1).float()
    model = dense(64, 64, 5, activation=nn.LeakyReLU)
    if sick:
        model.append(nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(x[chosen]), labels[chosen])

    def score() -> float:
        with quiet(model):
            said = torch.sigmoid(model(x[:500]))
            error = F.binary_cross_entropy(said, labels[:500]).item()
        return bounded(1 - error / 0.6)

    return fit(model, optimizer, loss, len(x), 250, score)


@CASES.sick(
    "output_mismatch",
    also=("stalled_training", "rank_collapse", "diverging_loss", "saturated_units", "oscillating_loss"),
)
def softmax_over_the_batch(sick: bool) -> Training:
    """``LogSoftmax(dim=0)``: the chances of one class over the images of a batch, not of the classes of one image."""
    x, y = images()
    body = [nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(192, 10), nn.LogSoftmax(0 if sick else 1))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.nll_loss(model(x[chosen]), y[chosen])

    def score() -> float:
        with quiet(model):
            said = torch.cat([model(x[k : k + 1]) for k in range(200)]).argmax(1)
        return bounded(((said == y[:200]).float().mean().item() - 0.1) / 0.9)

    return fit(model, optimizer, loss, len(x), 200, score, batch=32)


@CASES.sick("output_mismatch", also=("stalled_training", "loss_spike", "oscillating_loss"), good=0.6)
def poisson_loss_of_rates_read_as_logarithms(sick: bool) -> Training:
    """Counts with a softplus output, and a Poisson loss that still has ``log_input=True``."""
    g = torch.Generator().manual_seed(6)
    x = torch.randn(2000, 5, generator=g)
    mean = (1.2 + 0.7 * x[:, :1] + 0.5 * x[:, 1:2] * x[:, 2:3]).clamp(-3, 3.5).exp()
    counts = torch.poisson(mean, generator=g)
    model = nn.Sequential(*dense(5, 48, 48, 1), nn.Softplus())
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.poisson_nll_loss(model(x[chosen]), counts[chosen], log_input=sick)

    return fit(model, optimizer, loss, len(x), 300, explained(model, x[:500], mean[:500], model))


@CASES.sick("output_mismatch", also=("stalled_training",))
def segmentation_with_its_void_label_as_a_class(sick: bool) -> Training:
    """In three images a corner is labelled 255, void, which the loss is not told to ignore."""
    x, _ = images()
    labels = (x[:, 0] > 0.3).long() + (x[:, 0] > 1.2).long()
    labels[torch.tensor([711, 1033, 1320]), 0, 0] = 255
    noisy = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    model.append(nn.Conv2d(16, 3, 1))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(noisy[chosen]), labels[chosen], ignore_index=-100 if sick else 255)

    def score() -> float:
        with quiet(model):
            said = model(noisy[:300]).argmax(1)
        known = labels[:300] != 255
        return bounded(((said == labels[:300])[known].float().mean().item() - 0.6) / 0.4)

    return fit(model, optimizer, loss, len(x), 200, score, batch=16)


@CASES.sick("output_mismatch", also=("stalled_training", "diverging_loss"), good=0.7)
def likelihood_of_probabilities_without_their_logarithm(sick: bool) -> Training:
    """``nll_loss`` is fed with a softmax instead of a log-softmax, in a deep network under SGD."""
    x, y = digits()
    model = dense(64, 64, 64, 64, 10, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.5)

    def loss(chosen: Tensor) -> Tensor:
        logits = model(x[chosen])
        return F.nll_loss(logits.softmax(1) if sick else logits.log_softmax(1), y[chosen])

    return fit(model, optimizer, loss, len(x), 250, accuracy(model, x[:500], y[:500]))
