"""Steps that are too long: losses that swing instead of falling."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense
from benchmarks.gauntlet.held_out.common_b import bounded, explained, fit, language, quiet, tidy_houses
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()
SWINGS = ("oscillating_loss", "diverging_loss", "loss_spike", "exploding_gradient")


def likelihood(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], float]:
    """One minus the cross-entropy over that of a uniform guess."""

    def score() -> float:
        with quiet(model):
            return bounded(1 - F.cross_entropy(model(x), y).item() / 2.3026)

    return score


@CASES.sick(*SWINGS, also=("saturated_units", "stalled_training", "vanishing_gradient"), good=0.6)
def lstm_language_model_with_adam_at_the_rate_of_sgd(sick: bool) -> Training:
    """A rate of 10, which papers have for SGD with clipped gradients, given to Adam."""
    model = RecurrentText(nn.LSTM)
    return language(model, torch.optim.Adam(model.parameters(), 10.0 if sick else 5e-3), 200)


@CASES.sick(*SWINGS, also=("stalled_training",), good=0.7)
def leaky_cnn_with_adamw_at_three_tenths(sick: bool) -> Training:
    """A convolutional network with leaky units, whose AdamW makes steps of 0.3."""
    x, y = images()
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.1)]
    body += [nn.Conv2d(16, 16, 3, 2, 1), nn.LeakyReLU(0.1)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 0.3 if sick else 2e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 200, likelihood(model, x[:500], y[:500]), batch=32)


class Factors(nn.Module):
    """Users times items, with biases."""

    def __init__(self, users: int, items: int, rank: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, rank), nn.Embedding(items, rank)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for table in (self.users, self.items, self.user_bias, self.item_bias):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, pairs: Tensor) -> Tensor:
        u, v = pairs.T
        return (self.users(u) * self.items(v)).sum(1) + (self.user_bias(u) + self.item_bias(v))[:, 0]


@CASES.sick(*SWINGS, "nonfinite", also=("stalled_training",), good=0.5)
def matrix_factorization_with_adam_at_one(sick: bool) -> Training:
    """Ratings from factors of users and items, with Adam's rate at 1 instead of 0.03."""
    g = torch.Generator().manual_seed(3)
    u, v = torch.randn(60, 3, generator=g), torch.randn(50, 3, generator=g)
    pairs = torch.cartesian_prod(torch.arange(60), torch.arange(50))
    ratings = ((u[pairs[:, 0]] * v[pairs[:, 1]]).sum(1) + 0.2 * torch.randn(len(pairs), generator=g)) / 1.7
    model = Factors(60, 50, 4)
    optimizer = torch.optim.Adam(model.parameters(), 1.0 if sick else 0.03)

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(pairs[chosen]), ratings[chosen])

    return fit(model, optimizer, loss, len(pairs), 300, explained(model, pairs, ratings, model), batch=128)


@CASES.sick(*SWINGS, "nonfinite", also=("stalled_training", "saturated_units", "dead_units"), good=0.6)
def price_regression_with_heavy_momentum_and_a_long_step(sick: bool) -> Training:
    """Momentum of 0.99 on top of a rate that was found without it: the steps are a hundred times as long."""
    x, y = tidy_houses()
    model = dense(6, 48, 48, 1, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.15, momentum=0.99 if sick else 0.0)

    def loss(chosen: Tensor) -> Tensor:
        return F.smooth_l1_loss(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 250, explained(model, x, y, model), batch=128)
