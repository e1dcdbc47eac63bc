"""Clipping that holds every step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, digit_recipe, drawn, explained, language_recipe
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("clipping_bound", "stalled_training")
def lstm_language_model_clipped_at_a_thousandth(sick: bool) -> Recipe:
    """SGD with a limit of 0.001 for the norm of the gradient, which is a few tenths; the twin's limit is 5."""
    return language_recipe(
        lambda: RecurrentText(nn.LSTM),
        lambda parameters: torch.optim.SGD(parameters, 1.0, momentum=0.9),
        300,
        clip=1e-3 if sick else 5.0,
    )


@CASES.sick("clipping_bound", "stalled_training")
def cnn_with_every_entry_clipped_at_a_hundred_thousandth(sick: bool) -> Recipe:
    """``clip_grad_value_`` with 1e-5: of every gradient hardly more than its sign is left, and that short."""
    limit = 1e-5 if sick else 1.0

    def model() -> nn.Module:
        body = [nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*body, nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, batch: Any) -> Tensor:
        x, y = batch
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        nn.utils.clip_grad_value_(model.parameters(), limit)
        optimizer.step()
        return value.detach()

    return digit_recipe(
        model,
        lambda parameters: torch.optim.SGD(parameters, 0.02, momentum=0.9),
        250,
        shape=(1, 8, 8),
        batch=32,
        step=step,
    )


@CASES.sick("clipping_bound", "stalled_training")
def summed_loss_with_the_clipping_of_a_mean(sick: bool) -> Recipe:
    """The squared error is summed over pixels and batch, its gradient has a norm of hundreds, and the usual limit of
    one holds every step; the rate was chosen for the sum.
    """
    x, _ = digits()
    return Recipe(
        model=lambda: dense(64, 48, 16, 48, 64, activation=nn.ELU),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 3e-5, momentum=0.9),
        loss=lambda outputs, targets: F.mse_loss(outputs, targets, reduction="sum"),
        batches=drawn(x[HELD:], x[HELD:]),
        evaluate=explained(x[:HELD], x[:HELD]),
        steps=400,
        clip=1.0 if sick else 5e3,
    )
