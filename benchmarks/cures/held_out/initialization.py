"""Weights that begin at the wrong scale."""

from __future__ import annotations

import copy
import math
from functools import cache

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, accuracy, digit_recipe, drawn, regression_recipe
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.a_initialization import Adapted, Handmade, Sine
from benchmarks.gauntlet.held_out.common_a import dense_stack, he_, seeded
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@cache
def _classifier() -> nn.Sequential:
    """A perceptron that knows the upright digits."""
    x, y = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = dense_stack([64, 64, 64, 10])
        optimizer = torch.optim.Adam(base.parameters(), 3e-3)
        for first in range(HELD, HELD + 1280, 32):
            optimizer.zero_grad()
            F.cross_entropy(base(x[first : first + 32]), y[first : first + 32]).backward()
            optimizer.step()
    optimizer.zero_grad()
    return base


@CASES.sick("bad_initialization", "frozen_parameters", "vanishing_gradient", "stalled_training")
def low_rank_adapters_with_both_factors_zero(sick: bool) -> Recipe:
    """Fine-tuning by adapters of which both factors begin at zero: each waits for ever for the other."""
    x, y = digits()
    turned = x.view(-1, 8, 8).flip(2).flatten(1)

    def model() -> nn.Module:
        parts = copy.deepcopy(_classifier())
        return nn.Sequential(*[Adapted(part, 8, sick) if isinstance(part, nn.Linear) else part for part in parts])

    return Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.AdamW([p for p in parameters if p.requires_grad], 5e-3),
        loss=F.cross_entropy,
        batches=drawn(turned[HELD:], y[HELD:]),
        evaluate=accuracy(turned[:HELD], y[:HELD]),
        steps=200,
    )


@CASES.sick("bad_initialization", "vanishing_gradient")
def deep_convolutions_at_a_hundredth(sick: bool) -> Recipe:
    """Ten convolutions drawn at a standard deviation of 0.01, as was done before there were deep networks."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for k in range(10):
            layers += [nn.Conv2d(16 if k else 1, 16, 3, padding=1, stride=2 if k == 3 else 1), nn.ReLU()]
        made = he_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)))
        for part in made:
            if sick and isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(part.weight, std=0.01)
        return made

    return digit_recipe(
        model,
        lambda parameters: torch.optim.SGD(parameters, 0.02, momentum=0.9, weight_decay=5e-4),
        200,
        shape=(1, 8, 8),
        batch=32,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20),
    )


@CASES.sick("bad_initialization", "exploding_gradient", "diverging_loss", "loss_spike", "nonfinite")
def handmade_layers_straight_from_randn(sick: bool) -> Recipe:
    """``torch.randn(a, b)`` as it comes, in five layers of a hundred units; the twin scales it by the fan."""
    return regression_recipe(
        lambda: Handmade([8, 100, 100, 100, 100, 1], scaled=not sick),
        lambda parameters: torch.optim.Adam(parameters, 1e-3),
        None,
        300,
    )


@CASES.sick("bad_initialization", "exploding_gradient")
def sine_network_drawn_like_any_other(sick: bool) -> Recipe:
    """An implicit picture by sines (Sitzmann et al., 2020) whose weights are torch's own, twelve times too large."""
    x = torch.rand(3000, 2, generator=seeded(51)) * 2 - 1
    y = (4 * x[:, :1] * x[:, 1:]).sin() + (3 * math.pi * x[:, :1]).cos() * 0.5
    hidden = None if sick else (6 / 64) ** 0.5 / 30
    return regression_recipe(
        lambda: nn.Sequential(Sine(2, 64, 0.5), Sine(64, 64, hidden), Sine(64, 64, hidden), nn.Linear(64, 1)),
        lambda parameters: torch.optim.Adam(parameters, 3e-4),
        (x, y),
        300,
    )
