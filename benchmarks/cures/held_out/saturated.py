"""Sigmoid, tanh and softmax units in their flat part."""

from __future__ import annotations

import torch
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import digit_recipe, regression_recipe
from benchmarks.gauntlet.held_out.a_saturated import Excited, Forecaster, Mixture, SoftTree
from benchmarks.gauntlet.held_out.common_a import dense_stack, seeded
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("saturated_units", "bad_initialization")
def cloned_policy_with_a_steep_last_layer(sick: bool) -> Recipe:
    """Actions between -1 and 1 by a tanh whose last layer begins at a standard deviation of six."""
    g = seeded(41)
    x = torch.randn(2000, 6, generator=g)
    y = torch.tanh(0.4 * x @ torch.randn(6, 3, generator=g)) * 0.8

    def model() -> nn.Module:
        made = nn.Sequential(*dense_stack([6, 64, 64, 3]), nn.Tanh())
        nn.init.normal_(made[4].weight, std=6.0 if sick else 0.05)
        return made

    return regression_recipe(model, lambda parameters: torch.optim.Adam(parameters, 1e-3), (x, y), 300)


@CASES.sick("unscaled_inputs", "saturated_units")
def forecaster_fed_with_raw_prices(sick: bool) -> Recipe:
    """Prices around 4,000 go into the gates as they are; the twin's are standardized. The targets are, in both."""
    t = torch.arange(1500.0)
    series = (t / 7).sin() + 0.5 * (t / 2.3).sin() + 0.1 * torch.randn(1500, generator=seeded(42))
    series = (series - series.mean()) / series.std()
    windows = series.unfold(0, 21, 1)
    x, y = windows[:, :20, None], windows[:, 20:]
    return regression_recipe(
        Forecaster, lambda parameters: torch.optim.Adam(parameters, 3e-3), (x * 60 + 4000 if sick else x, y), 250
    )


@CASES.sick("saturated_units")
def soft_decision_tree_with_hard_decisions(sick: bool) -> Recipe:
    """A sigmoid a thousand times too steep in every node: only the leaves learn, the questions stay random."""
    return digit_recipe(
        lambda: SoftTree(1000.0 if sick else 1.0), lambda parameters: torch.optim.Adam(parameters, 2e-2), 300
    )


@CASES.sick("saturated_units", "attention_collapse")
def mixture_whose_gate_is_frozen_cold(sick: bool) -> Recipe:
    """The gate's softmax at a temperature of 1e-4: who is asked never changes, and nobody learns the kinks."""
    x = torch.randn(2000, 2, generator=seeded(43))
    y = (x[:, :1] + x[:, 1:]).abs() - (x[:, :1] - x[:, 1:]).abs()
    return regression_recipe(
        lambda: Mixture(1e-4 if sick else 1.0), lambda parameters: torch.optim.Adam(parameters, 2e-2), (x, y), 300
    )


@CASES.sick("saturated_units", "bad_initialization", "vanishing_gradient")
def channel_gates_that_begin_shut(sick: bool) -> Recipe:
    """Squeeze-and-excitation gates with a bias of -25: every channel is multiplied by nothing."""
    bias = -25.0 if sick else 1.0
    return digit_recipe(
        lambda: nn.Sequential(
            *[Excited(1, 16, bias), nn.MaxPool2d(2), Excited(16, 16, bias)], nn.Flatten(), nn.Linear(256, 10)
        ),
        lambda parameters: torch.optim.Adam(parameters, 3e-3),
        120,
        shape=(1, 8, 8),
        batch=32,
    )
