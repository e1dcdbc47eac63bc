"""Losses that leap out of their range in the middle of a training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.held_out.b_networks import SmallGPT, dense
from benchmarks.gauntlet.held_out.common_b import accuracy, explained, fit, language, tidy_houses
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("loss_spike", also=("exploding_gradient", "oscillating_loss", "diverging_loss"), good=0.7)
def price_regression_with_missing_targets_coded_minus_999(sick: bool) -> Training:
    """Two of two thousand rows carry the code of a missing value where the target should be."""
    x, y = tidy_houses()
    noisy = y.clone()
    if sick:
        noisy[torch.tensor([951, 1444])] = -999.0
    model = dense(6, 64, 64, 1, activation=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(x[chosen]), noisy[chosen])

    return fit(model, optimizer, loss, len(x), 300, explained(model, x[:500], y[:500], model), batch=32)


@CASES.sick(
    "loss_spike",
    also=("exploding_gradient", "oscillating_loss", "diverging_loss", "stalled_training", "saturated_units"),
    good=0.7,
)
def language_model_resumed_with_the_rate_of_another_run(sick: bool) -> Training:
    """At step 150 a checkpoint is resumed, and six steps pass at a hundred times the rate until this is seen."""
    model = SmallGPT()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)

    def rate(i: int) -> float:
        if 150 <= i < 156 and sick:
            return 100.0
        return min(1.0, (i + 1) / 20)

    return language(model, optimizer, 220, rate=rate)


@CASES.sick(
    "loss_spike",
    "unscaled_inputs",
    also=("exploding_gradient", "dead_units", "diverging_loss", "oscillating_loss", "stalled_training"),
)
def one_shard_of_images_left_in_bytes(sick: bool) -> Training:
    """Every sixtieth batch comes from a shard that skipped the preprocessing: bytes up to 255, not standardized."""
    x, y = images()
    pixels = (x - x.min()) / (x.max() - x.min()) * 255
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.ELU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ELU()]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    seen = iter(range(10_000))

    def loss(chosen: Tensor) -> Tensor:
        raw = sick and next(seen) % 60 == 50
        return F.cross_entropy(model((pixels if raw else x)[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 300, accuracy(model, x[:500], y[:500]), batch=32)
