"""Inputs in the units they were measured in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, accuracy, drawn, explained, house_recipe
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.held_out.b_inputs import Forecast
from benchmarks.gauntlet.held_out.b_networks import dense, small_cnn
from benchmarks.gauntlet.held_out.common_b import houses, tidy_houses, weather
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("unscaled_inputs")
def house_prices_from_a_register_as_it_is(sick: bool) -> Recipe:
    """Years, incomes and metres enter a network of ReLUs as numbers up to a hundred thousand."""
    return house_recipe(
        lambda: dense(6, 64, 64, 1),
        lambda parameters: torch.optim.Adam(parameters, 3e-3),
        300,
        data=houses() if sick else tidy_houses(),
    )


@CASES.sick("unscaled_inputs", "saturated_units")
def temperatures_in_kelvin(sick: bool) -> Recipe:
    """A GRU reads temperatures of 285 kelvin, give or take four: its gates see the offset alone."""
    x, y = weather()
    x = x if sick else (x - x.mean()) / x.std()
    return Recipe(
        model=Forecast,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2),
        loss=nn.MSELoss(),
        batches=drawn(x[HELD:], y[HELD:], 32),
        evaluate=explained(x[:HELD], y[:HELD]),
        steps=200,
    )


@CASES.sick("unscaled_inputs")
def bytes_into_a_cnn_under_sgd(sick: bool) -> Recipe:
    """Pixels from 0 to 255 enter a small convolutional network at a rate that suits standardized ones."""
    x, y = images()
    if sick:
        x = ((x - x.min()) / (x.max() - x.min()) * 255).round()
    return Recipe(
        model=lambda: small_cnn(norm=False),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.02, momentum=0.9),
        loss=F.cross_entropy,
        batches=drawn(x[HELD:], y[HELD:]),
        evaluate=accuracy(x[:HELD], y[:HELD]),
        steps=250,
    )


@CASES.sick("unscaled_inputs")
def one_column_in_cents_among_standardized_ones(sick: bool) -> Recipe:
    """Of eight measured columns one was left in cents, a thousand times the others, and drowns them."""
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(17))
    y = ((x[:, 0] + x[:, 1] * x[:, 2] + 0.8 * x[:, 3] - 0.5 * x[:, 7]) > 0).long()
    if sick:
        x = torch.cat([x[:, :7], 2000 * x[:, 7:] + 8000], 1)
    return Recipe(
        model=lambda: dense(8, 48, 48, 2, activation=nn.Tanh),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9),
        loss=F.cross_entropy,
        batches=drawn(x[500:], y[500:]),
        evaluate=accuracy(x[:500], y[:500], 2),
        steps=350,
    )
