"""Losses that leap out of their range in the middle of a training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import (
    HELD,
    HELD_HOUSES,
    accuracy,
    drawn,
    house_recipe,
    language_recipe,
)
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.held_out.b_networks import SmallGPT, dense
from benchmarks.gauntlet.held_out.common_b import tidy_houses
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("loss_spike", "exploding_gradient")
def price_regression_with_missing_targets_coded_minus_999(sick: bool) -> Recipe:
    """Two of two thousand rows carry the code of a missing value where the target should be."""
    x, y = tidy_houses()
    noisy = y.clone()
    if sick:
        noisy[torch.tensor([951, 1444])] = -999.0
    return house_recipe(
        lambda: dense(6, 64, 64, 1, activation=nn.Tanh),
        lambda parameters: torch.optim.Adam(parameters, 5e-3),
        300,
        batches=drawn(x[HELD_HOUSES:], noisy[HELD_HOUSES:], 32),
    )


@CASES.sick("loss_spike", "diverging_loss", "stalled_training")
def language_model_resumed_with_the_rate_of_another_run(sick: bool) -> Recipe:
    """At step 150 a checkpoint is resumed, and six steps pass at a hundred times the rate until this is seen."""

    def rate(step: int) -> float:
        return 100.0 if sick and 150 <= step < 156 else min(1.0, (step + 1) / 20)

    return language_recipe(
        SmallGPT,
        lambda parameters: torch.optim.AdamW(parameters, 3e-3),
        220,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
    )


@CASES.sick("loss_spike", "unscaled_inputs", "dead_units")
def one_shard_of_images_left_in_bytes(sick: bool) -> Recipe:
    """Every sixtieth batch comes from a shard that skipped the preprocessing: bytes up to 255, not standardized."""
    x, y = images()
    pixels = (x - x.min()) / (x.max() - x.min()) * 255

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(1000 + seed)
        for k in range(300):
            chosen = torch.randint(HELD, len(y), (32,), generator=g)
            yield (pixels if sick and k % 60 == 50 else x)[chosen], y[chosen]

    def model() -> nn.Module:
        body = [nn.Conv2d(1, 16, 3, padding=1), nn.ELU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ELU()]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))

    return Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.05),
        loss=F.cross_entropy,
        batches=batches,
        evaluate=accuracy(x[:HELD], y[:HELD]),
        steps=300,
    )
