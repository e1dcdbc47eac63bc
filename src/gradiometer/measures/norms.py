"""The Euclidean norm of one tensor, right also where squares do not fit into the format."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar, trusted_squares


def norm(x: Tensor) -> Scalar:
    """Euclidean norm of all elements, NaN or infinite if one of them is.

    Formula: ``sqrt(sum |x_i|^2)``, and ``m sqrt(sum |x_i / m|^2)`` with ``m = max |x_i|`` where the first loses digits.

    Args:
        x: any tensor, sparse ones included; its graph is not extended.

    Returns:
        A float on the CPU, a 0-dim tensor elsewhere. Zero for an empty tensor.

    Example:
        >>> norm(torch.tensor([3e-200, 4e-200], dtype=torch.float64))
        5e-200
    """
    x = x.detach()
    if x.is_nested:
        x = x.values()
    if x.layout is not torch.strided:
        x = x.coalesce().values() if x.layout is torch.sparse_coo else x.to_dense()
    if not x.numel():
        return 0.0
    if x.device.type != "cpu":
        return _scaled(x)
    squares = trusted_squares(x)
    return float(_scaled(x)) if squares is None else math.sqrt(squares)


def _scaled(x: Tensor) -> Tensor:
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    size = x.abs().to(wide) if x.is_complex() or x.element_size() > 1 else x.float().abs().to(wide)
    peak = size.amax()
    divisor = torch.where((peak > 0) & torch.isfinite(peak), peak, torch.ones_like(peak))
    return divisor * torch.linalg.vector_norm(size / divisor)
