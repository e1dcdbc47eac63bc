"""Gradients that explode by depth or by time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import bounded, digit_recipe, regression_recipe
from benchmarks.gauntlet.held_out.a_exploding import LOUD, Block, Flow, Messages, Rows
from benchmarks.gauntlet.held_out.common_a import communities, he_
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("exploding_gradient", *LOUD)
def graph_network_that_adds_instead_of_averaging(sick: bool) -> Recipe:
    """A number for every node, by sums over twenty neighbours without a norm in each of five layers."""
    _, x, group = communities()
    values = torch.tensor([-1.2, -0.5, 0.4, 1.3])[group]
    half = len(values) // 2

    def evaluate(model: nn.Module) -> float:
        error = (model(x)[half:, 0] - values[half:]).square().mean()
        return bounded(1 - (error / values[half:].var(correction=0)).item())

    return Recipe(
        model=lambda: he_(Messages(5, mean=not sick)),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3),
        loss=lambda outputs, targets: F.mse_loss(outputs[:half, 0], targets),
        batches=lambda _: [(x, values[:half])],
        evaluate=evaluate,
        steps=100,
    )


@CASES.sick("exploding_gradient", *LOUD)
def neural_ode_without_its_step_length(sick: bool) -> Recipe:
    """The factor 1/12 of Euler's method forgotten: twelve steps of length one."""

    def model() -> nn.Module:
        made = he_(Flow(32, 12, 1.0 if sick else 1 / 12))
        nn.init.normal_(made.head.weight, std=0.05)
        return made

    return regression_recipe(model, lambda parameters: torch.optim.Adam(parameters, 3e-3), None, 250)


@CASES.sick("exploding_gradient", *LOUD)
def recurrent_relus_beyond_the_identity(sick: bool) -> Recipe:
    """A recurrent matrix that begins at two and a half times the identity, over sixteen steps."""
    return digit_recipe(
        lambda: Rows(2.5 if sick else 1.0), lambda parameters: torch.optim.Adam(parameters, 2e-3), 300, shape=(16, 4)
    )


@CASES.sick("exploding_gradient", *LOUD)
def residual_net_whose_norms_were_taken_out(sick: bool) -> Recipe:
    """Twenty-four residual blocks at He's initialization, each doubling the variance of what it is given."""

    def model() -> nn.Module:
        body = [Block(32, norm=not sick) for _ in range(24)]
        last = nn.Identity() if sick else nn.BatchNorm1d(32)
        made = he_(nn.Sequential(nn.Linear(8, 32), *body, last, nn.ReLU(), nn.Linear(32, 1)))
        nn.init.normal_(made[-1].weight, std=0.05)
        return made

    return regression_recipe(model, lambda parameters: torch.optim.Adam(parameters, 1e-3), None, 200)
