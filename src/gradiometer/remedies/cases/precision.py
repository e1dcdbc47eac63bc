"""Sick recipes that another number format cures."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.remedies.cases.examples import layers, telling_digits
from gradiometer.remedies.recipe import Recipe


def faint(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss of small weight, whose gradients float16 cannot hold."""
    return 1e-6 * F.cross_entropy(outputs.float(), targets)


def autocast_without_scaler() -> Recipe:
    """float16, and no scale of the loss."""
    recipe = telling_digits(partial(layers, 64, 10, 32, 2), partial(torch.optim.Adam, lr=3e-3, eps=1e-15), loss=faint)
    return replace(recipe, autocast=torch.float16)


def half_by_hand() -> Recipe:
    """The same in a step of one's own."""

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            value = loss(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
        return value.item()

    return replace(autocast_without_scaler(), autocast=None, step=step)


class Short(nn.Module):
    """A network whose weights are in bfloat16, and all of one size."""

    def __init__(self) -> None:
        """Two layers."""
        super().__init__()
        self.body = layers(64, 10, 128)
        for layer in self.body:
            if isinstance(layer, nn.Linear):
                nn.init.constant_(layer.bias, 0.0)
                layer.weight.data = 0.12 * layer.weight.data.sign()
        self.body.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        first: Any = self.body[0]
        return self.body(x.to(first.weight.dtype))


def weights_in_bfloat16() -> Recipe:
    """Steps that are below the spacing of bfloat16."""
    optimizer = partial(torch.optim.Adam, lr=2e-4, eps=1e-6)
    return telling_digits(Short, optimizer, 300, loss=lambda y, t: F.cross_entropy(y.float(), t))
