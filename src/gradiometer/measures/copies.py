"""Units that are copies of each other."""

from __future__ import annotations

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar

ALIKE = 1e-5
"""Relative difference below which two units are one: a hundred roundings of float32, and far below what the first
step of a training makes of units that started differently."""


def copies(weight: Tensor, unit_dim: int = 0) -> Scalar | None:
    """Share of the units of a weight that are copies of another one.

    Formula: ``1 - distinct / units``; two units are taken as one if both their norms and their projections onto
    ``cos(1 + i)`` agree to `ALIKE` of the largest norm.

    Args:
        weight: of a layer, units along ``unit_dim``.
        unit_dim: which dimension.

    Returns:
        From 0 (all different) to ``1 - 1 / units`` (all the same); ``None`` of vectors, and of fewer than two units.

    Example:
        >>> copies(torch.ones(4, 3)), copies(torch.eye(3))
        (0.75, 0.0)
    """
    if weight.dim() < 2 or weight.shape[unit_dim] < 2 or not weight.is_floating_point():
        return None
    rows = weight.detach().movedim(unit_dim, 0).flatten(1).float()
    if rows.shape[1] < 1:
        return None
    direction = torch.cos(torch.arange(1.0, rows.shape[1] + 1, device=rows.device))
    norms = torch.linalg.vector_norm(rows, dim=1)
    tolerance = ALIKE * norms.amax()
    seen, order = (rows @ direction).sort()
    norms = norms[order]
    same = ((seen.diff().abs() <= tolerance) & (norms.diff().abs() <= tolerance)).sum()
    share = same / len(rows)
    return share.item() if share.device.type == "cpu" else share
