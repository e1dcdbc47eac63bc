"""ReLUs that no example reaches any more."""

from __future__ import annotations

import torch
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import digit_recipe, regression_recipe
from benchmarks.gauntlet.held_out.common_a import dense_stack, he_, table
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("dead_units", "loss_spike", "stalled_training")
def convolutions_killed_by_long_steps(sick: bool) -> Recipe:
    """RMSprop with a rate of 0.1 throws the filters to where they never fire, in the first few steps."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for k in range(4):
            layers += [nn.Conv2d(16 if k else 1, 16, 3, padding=1, stride=2 if k == 2 else 1), nn.ReLU()]
        return he_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)))

    return digit_recipe(
        model, lambda parameters: torch.optim.RMSprop(parameters, 0.1 if sick else 1e-3), 150, shape=(1, 8, 8)
    )


@CASES.sick("dead_units", "output_mismatch", "loss_spike")
def targets_around_a_hundred_kill_the_hidden_layer(sick: bool) -> Recipe:
    """Targets around 100 instead of zero: the first errors push all ReLUs below zero, and the bias does the rest."""
    x, y = table()
    return regression_recipe(
        lambda: he_(dense_stack([8, 64, 64, 1])),
        lambda parameters: torch.optim.SGD(parameters, 0.01),
        (x, y + 100 if sick else y),
        400,
    )


@CASES.sick("dead_units", "bad_initialization")
def batch_norms_shifted_below_the_relus(sick: bool) -> Recipe:
    """Shifts of -8 instead of 0 in all batch norms: a normalized unit would have to be eight deviations out to fire."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in ((1, 16), (16, 32), (32, 32)):
            layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
            if sick:
                nn.init.constant_(layers[-2].bias, -8.0)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))

    return digit_recipe(
        model,
        lambda parameters: torch.optim.AdamW(parameters, 2e-3, weight_decay=0.01),
        120,
        shape=(1, 8, 8),
        batch=32,
    )
