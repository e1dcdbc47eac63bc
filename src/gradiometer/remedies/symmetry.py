"""Random weights for layers whose units are copies of each other, or zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.draws import Draw
from gradiometer.remedies.flow import Flow
from gradiometer.remedies.gains import gain
from gradiometer.remedies.weights import Weight, normal, stored, weights, zero_bias
from gradiometer.remedies.whole import whole

MOST = 0.5
"""Share of different units up to which a layer has copies: just half of them differ where each is drawn twice with
opposite signs behind it, on purpose (Chizat, Oyallon and Bach, 2019), so that it must be less."""


def alike(p: Tensor, chunks: int = 1) -> bool:
    """Whether most rows of a weight, or of one gate's part of it, are copies of others."""
    return any(_copies(part) for part in p.detach().chunk(chunks))


def _copies(p: Tensor) -> bool:
    rows = p.flatten(1).double()
    if len(rows) == 1:
        return rows.numel() > 1 and bool((rows == rows[0, 0]).all())
    # Each row by two numbers that other rows do not have: rows themselves take long to sort.
    place = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64, device=rows.device)
    sums = torch.stack(((rows * place.sin()).sum(1), (rows * (place * 0.7).cos()).sum(1)), 1)
    distinct = len(torch.unique(sums, dim=0))
    return distinct == 1 or distinct < MOST * len(rows)


def scheme(weight: Weight) -> tuple[Draw, ...]:
    """He's, with the gain of the activation behind."""
    return (normal(weight, gain(weight.activation)), *zero_bias(weight))


def plan(model: nn.Module, seen: Flow) -> list[Draw]:
    """The draws of the weights with copies.

    Raises:
        UnusableError: if no layer but the last has any.
    """
    found: list[Draw] = []
    for draw in whole(model, seen, scheme, all_zeros=True):
        p = stored(model.get_submodule(draw.path), draw.parameter)
        if p is not None and p.ndim > 1 and draw.rows is None and alike(p, draw.chunks):
            found.append(draw)
    outputs = {(w.path, w.parameter) for w in weights(model, seen) if w.output}
    if all((draw.path, draw.parameter) in outputs for draw in found):
        raise UnusableError("No hidden layer of this network has units that are copies of each other.")
    return found
