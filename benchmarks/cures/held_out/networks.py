"""Networks of more than one file; no cases."""

from __future__ import annotations

import copy
from functools import cache
from typing import Self

import torch
import torch.nn.functional as F
from benchmarks.cures.held_out.common import HELD
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.held_out.b_networks import small_cnn
from torch import nn


class Resting(nn.Sequential):
    """Layers that are not trained and stay in evaluation mode."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - evaluation mode whatever is asked
        return super().train(False)


@cache
def _trained() -> nn.Sequential:
    x, y = images()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_cnn()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for first in range(HELD, HELD + 1300, 25):
            optimizer.zero_grad()
            F.cross_entropy(model(x[first : first + 25]), (y[first : first + 25] >= 5).long()).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model[:8]


def trunk() -> nn.Sequential:
    """Convolutions, without a head, that were trained to tell small digits from large ones; a fresh copy."""
    return copy.deepcopy(_trained())
