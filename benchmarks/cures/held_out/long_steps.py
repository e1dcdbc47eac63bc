"""Steps that are too long: losses that swing instead of falling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, bounded, drawn, explained, house_recipe, language_recipe
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.held_out.b_long_steps import SWINGS, Factors
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick(*SWINGS)
def lstm_language_model_with_adam_at_the_rate_of_sgd(sick: bool) -> Recipe:
    """A rate of 10, which papers have for SGD with clipped gradients, given to Adam."""
    return language_recipe(
        lambda: RecurrentText(nn.LSTM), lambda parameters: torch.optim.Adam(parameters, 10.0 if sick else 5e-3), 200
    )


@CASES.sick(*SWINGS)
def leaky_cnn_with_adamw_at_three_tenths(sick: bool) -> Recipe:
    """A convolutional network with leaky units, whose AdamW makes steps of 0.3. The score is the share of the
    cross-entropy of a uniform guess that is gone.
    """
    x, y = images()

    def model() -> nn.Module:
        body = [nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(16, 16, 3, 2, 1), nn.LeakyReLU(0.1)]
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(256, 10))

    return Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 0.3 if sick else 2e-3),
        loss=F.cross_entropy,
        batches=drawn(x[HELD:], y[HELD:], 32),
        evaluate=lambda model: bounded(1 - F.cross_entropy(model(x[:HELD]), y[:HELD]).item() / 2.3026),
        steps=200,
    )


@CASES.sick(*SWINGS, "nonfinite")
def matrix_factorization_with_adam_at_one(sick: bool) -> Recipe:
    """Ratings from factors of users and items, with Adam's rate at 1 instead of 0.03."""
    g = torch.Generator().manual_seed(3)
    u, v = torch.randn(60, 3, generator=g), torch.randn(50, 3, generator=g)
    pairs = torch.cartesian_prod(torch.arange(60), torch.arange(50))
    ratings = ((u[pairs[:, 0]] * v[pairs[:, 1]]).sum(1) + 0.2 * torch.randn(len(pairs), generator=g)) / 1.7
    order = torch.randperm(len(pairs), generator=g)
    pairs, ratings = pairs[order], ratings[order]
    return Recipe(
        model=lambda: Factors(60, 50, 4),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1.0 if sick else 0.03),
        loss=F.mse_loss,
        batches=drawn(pairs[500:], ratings[500:], 128),
        evaluate=explained(pairs[:500], ratings[:500]),
        steps=300,
    )


@CASES.sick(*SWINGS, "nonfinite")
def price_regression_with_heavy_momentum_and_a_long_step(sick: bool) -> Recipe:
    """Momentum of 0.99 on top of a rate that was found without it: the steps are a hundred times as long."""
    return house_recipe(
        lambda: dense(6, 48, 48, 1, activation=nn.Tanh),
        lambda parameters: torch.optim.SGD(parameters, 0.15, momentum=0.99 if sick else 0.0),
        250,
        batch=128,
        loss=F.smooth_l1_loss,
    )
