"""Sum of squares, sum and non-finite counts of one tensor, exact in one or two passes over it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Scalar = float | Tensor

_SINGLE = frozenset((torch.float32, torch.float64))
_HALF = frozenset((torch.float16, torch.bfloat16))

# A sum of squares is trusted inside these bounds only. Below, squares have fallen under the smallest number of
# the format (1.2e-38 in float32: a gradient of 1e-20 squares to nothing, and vanishing is what we are here for);
# above, or NaN, the sum has overflowed or the tensor holds non-finite values.
_TRUSTED = (1e-24, 1e36)
_TRUSTED_DOUBLE = (1e-270, 1e300)
_LIFT = 2.0**64
"""What float32 is multiplied with where its squares are lost; a power of two leaves every digit as it is."""

_CHUNK = 1 << 18
"""Elements that are added up in one float32. A sum of equal squares, the worst case, is off by 5e-4 after that
many, and by 10 % after a hundred million."""


class Moments(NamedTuple):
    """``squares`` and ``total`` are sums over the finite ones of ``count`` elements; see `moments`."""

    count: int  # type: ignore[assignment]  # hides a method of tuples, which nobody asks of these
    squares: Scalar
    total: Scalar
    nonfinite: Scalar
    masked: Scalar


def moments(x: Tensor, *, total: bool = True) -> Moments:
    """Sum of squares and sum of a tensor, and how many of its elements are not finite.

    Formula: ``squares = sum |x_i|^2``, ``total = sum Re x_i``, both over finite ``x_i``.

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
    if x.device.type != "cpu":
        return _careful(x, total)
    if not x.numel():
        return Moments(0, 0.0, 0.0, 0.0, 0.0)
    squares = trusted_squares(x)
    if squares is None:
        return Moments(x.numel(), *(float(v) for v in _careful(x, total)[1:]))
    return Moments(x.numel(), squares, _cpu_sum(x) if total else 0.0, 0.0, 0.0)


def trusted_squares(x: Tensor) -> float | None:
    """Sum of squares of a tensor on the CPU by the fast way, ``None`` where that cannot be trusted."""
    low, high = _TRUSTED_DOUBLE if x.dtype is torch.float64 else _TRUSTED
    squares = _cpu_squares(x)
    if low < squares < high:
        return squares
    if x.dtype is torch.float32 and squares <= low:
        lifted = _cpu_squares(x * _LIFT)
        if low < lifted < high:
            return lifted / _LIFT**2
    return None


def _cpu_squares(x: Tensor) -> float:
    if x.dtype in _SINGLE:
        # On the CPU the dot product of a tensor with itself takes half the time of its norm.
        if x.is_contiguous():
            flat = x.view(-1)
            if x.numel() > _CHUNK:
                return sum(torch.dot(part, part).item() for part in flat.split(_CHUNK))
            return torch.dot(flat, flat).item()
    elif x.dtype not in _HALF:  # complex, integer, 8 bit: rare, and not worth a path of its own
        return math.nan
    if x.numel() > _CHUNK:
        longest = max(x.shape)
        parts = x.split(max(1, longest * _CHUNK // x.numel()), x.shape.index(longest))
        return sum(_cpu_squares(part) for part in parts)
    value = torch.linalg.vector_norm(x, dtype=torch.float32 if x.dtype in _HALF else None).item()
    return value * value


def _cpu_sum(x: Tensor) -> float:
    return x.sum(dtype=torch.float32 if x.dtype in _HALF else None).item()


def _careful(x: Tensor, total: bool = True) -> Moments:
    """The same without reading a value back, and without trusting float32 with a square."""
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    if x.element_size() == 1:  # 8 bit floats can be converted, and little else
        x = x.float()
    finite = torch.isfinite(x)
    kept = torch.where(finite, x, torch.zeros((), dtype=x.dtype, device=x.device))
    real, size = kept, kept
    if x.is_complex():
        real, size = kept.real, kept.abs()
    elif not x.is_floating_point():
        size = kept.to(wide)
    return Moments(
        x.numel(),
        torch.linalg.vector_norm(size, dtype=wide).square(),
        real.sum(dtype=wide) if total else 0.0,
        torch.logical_not(finite).sum(dtype=wide),
        finite.sum(dtype=wide) * 0 if x.is_complex() else torch.isneginf(x).sum(dtype=wide),
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
