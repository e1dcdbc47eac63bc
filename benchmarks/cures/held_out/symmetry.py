"""Units of one layer that begin as copies of each other and stay so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import digit_recipe, drawn, explained
from benchmarks.gauntlet.held_out.a_symmetry import Factors, Reader
from benchmarks.gauntlet.held_out.common_a import seeded
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("symmetric_units", "bad_initialization", "rank_collapse")
def recommender_whose_factors_begin_equal(sick: bool) -> Recipe:
    """All eight factors of all users and items begin at 0.3: the eight stay one."""
    g = seeded(61)
    users, items = torch.randn(80, 4, generator=g), torch.randn(60, 4, generator=g)
    pairs = torch.stack([torch.randint(80, (5000,), generator=g), torch.randint(60, (5000,), generator=g)], 1)
    ratings = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(1) / 2 + 0.1 * torch.randn(5000, generator=g)

    def model() -> nn.Module:
        made = Factors(80, 60, 8)
        for part in (made.users, made.items):
            if sick:
                nn.init.constant_(part.weight, 0.3)
            else:
                nn.init.normal_(part.weight, std=0.3)
        return made

    return Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 2e-2),
        loss=F.mse_loss,
        batches=drawn(pairs[:4000], ratings[:4000], 256),
        evaluate=explained(pairs[4000:], ratings[4000:]),
        steps=300,
    )


@CASES.sick("symmetric_units", "bad_initialization", "rank_collapse")
def gru_filled_with_one_number(sick: bool) -> Recipe:
    """``constant_`` for every weight of a GRU and of its head: 48 units, all the same one."""

    def model() -> nn.Module:
        made = Reader()
        if sick:
            for weight in made.parameters():
                nn.init.constant_(weight, 0.05)
        return made

    return digit_recipe(model, lambda parameters: torch.optim.Adam(parameters, 5e-3), 250, shape=(8, 8))


@CASES.sick("symmetric_units", "bad_initialization", "rank_collapse")
def widened_convolutions_without_noise(sick: bool) -> Recipe:
    """A net of one channel, widened to sixteen by copying it (Chen et al., 2016) without noise to tell them apart."""

    def model() -> nn.Module:
        made = nn.Sequential(
            *[nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.MaxPool2d(2)],
            *[nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.MaxPool2d(2)],
            *[nn.Conv2d(16, 16, 3, padding=1), nn.SiLU()],
            *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)],
        )
        if sick:
            for part in (made[0], made[4], made[8]):
                part.weight.data.copy_(part.weight.data[:1, :1].clone())
                part.bias.data.zero_()
            made[12].weight.data.copy_(made[12].weight.data[:, :1].clone())
        return made

    return digit_recipe(model, lambda parameters: torch.optim.Adam(parameters, 3e-3), 150, shape=(1, 8, 8), batch=32)
