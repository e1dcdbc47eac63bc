"""Sum of squares, sum and non-finite counts of one tensor, exact in one or two passes over it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Scalar = float | Tensor

# A sum of squares in float32 is trusted inside these bounds only. Below, squares have fallen under the
# smallest float32 (1.2e-38: a gradient of 1e-20 squares to nothing, and vanishing is what we are here for);
# above, or NaN, the sum has overflowed or the tensor holds non-finite values. Outside, float64 is used.
_TRUSTED = (1e-24, 1e36)


class Moments(NamedTuple):
    """``squares`` and ``total`` are sums over the finite elements of ``count``; see `moments`."""

    count: int
    squares: Scalar
    total: Scalar
    nonfinite: Scalar
    masked: Scalar


def moments(x: Tensor, *, total: bool = True) -> Moments:
    """Sum of squares and sum of a tensor, and how many of its elements are not finite.

    Formula: ``squares = sum x_i^2``, ``total = sum x_i``, both over finite ``x_i``.

    Args:
        x: any real or complex tensor; its graph is not extended.
        total: whether the sum is wanted as well (0 otherwise).

    Returns:
        `Moments`. ``masked`` counts the elements that are minus infinity; they are in ``nonfinite`` too.

    Raises:
        nothing of its own; an empty tensor has zero moments.

    Example:
        >>> m = moments(torch.tensor([3.0, -4.0, float("nan")]))
        >>> m.squares, m.total, m.nonfinite
        (25.0, -1.0, 1.0)
    """
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    if x.device.type != "cpu":
        return _careful(x)
    if not x.numel():
        return Moments(0, 0.0, 0.0, 0.0, 0.0)
    squares = _cpu_squares(x)
    if not _TRUSTED[0] < squares < _TRUSTED[1]:
        return Moments(x.numel(), *(float(v) for v in _careful(x)[1:]))
    return Moments(x.numel(), squares, _cpu_sum(x) if total else 0.0, 0.0, 0.0)


def _cpu_squares(x: Tensor) -> float:
    if x.dtype in (torch.float32, torch.float64):
        # On the CPU the dot product of a tensor with itself takes half the time of its norm.
        if x.is_contiguous():
            flat = x.view(-1)
            return torch.dot(flat, flat).item()
        norm = torch.linalg.vector_norm(x)
    elif x.is_floating_point():
        norm = torch.linalg.vector_norm(x, dtype=torch.float32)
    else:
        norm = torch.linalg.vector_norm(x.double())
    value = norm.item()
    return value * value


def _cpu_sum(x: Tensor) -> float:
    return x.sum(dtype=torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else None).item()


def _careful(x: Tensor) -> Moments:
    """The same without reading a value back, and without trusting float32 with a square."""
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    finite = torch.isfinite(x)
    kept = torch.where(finite, x, torch.zeros((), dtype=x.dtype, device=x.device))
    return Moments(
        x.numel(),
        torch.linalg.vector_norm(kept, dtype=wide).square() if x.is_floating_point() else kept.to(wide).square().sum(),
        kept.sum(dtype=wide),
        torch.logical_not(finite).sum(dtype=wide),
        torch.isneginf(x).sum(dtype=wide) if x.is_floating_point() else finite.sum(dtype=wide) * 0,
    )


def resolve(values: Iterable[Scalar]) -> list[float]:
    """Reads many scalars with one transfer for each device and type.

    Args:
        values: floats and 0-dim tensors, on any devices, of any types.

    Returns:
        The same as floats, in the same order.

    Example:
        >>> resolve([1.0, torch.tensor(2), torch.tensor(3.0, dtype=torch.float64)])
        [1.0, 2.0, 3.0]
    """
    values = list(values)
    waiting: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, v in enumerate(values):
        if isinstance(v, Tensor):
            waiting.setdefault((v.device, v.dtype), []).append(i)
    for places in waiting.values():
        stacked = torch.stack([values[i] for i in places])  # type: ignore[misc]
        for i, v in zip(places, stacked.tolist(), strict=True):
            values[i] = v
    return [float(v) for v in values]
