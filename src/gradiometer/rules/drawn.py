"""Are these weights as they were drawn? What is frozen on purpose was trained before, as a rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gradiometer.records import Parameter, ParameterReading

_UNIFORM = 5
_NORMAL = 2
"""``1 / sqrt(k n)`` is the relative standard error of the rms of n numbers drawn like this."""

ENOUGH = 1000
"""Elements below which chance alone may bring trained weights to one of these values (their error is then 2 %)."""

ERRORS = 4
"""Standard errors of the root mean square that a drawn weight may be off: one in ten thousand is."""


def _torch(p: Parameter) -> list[tuple[float, int]]:
    """What torch's modules draw: uniform by the fan in; recurrent layers by their width; embeddings unit normal."""
    if p.unit_dim == 1 and len(p.shape) == 2:
        return [(1.0, _NORMAL)]
    if "weight_ih" in p.name:
        return [(math.sqrt(gates / (3 * p.shape[0])), _UNIFORM) for gates in (1, 3, 4)]
    if "in_proj_weight" in p.name:
        return [(_glorot(p), _UNIFORM)]
    return [(1 / math.sqrt(3 * p.fan_in), _UNIFORM)]


def _glorot(p: Parameter) -> float:
    return math.sqrt(2 / (p.fan_in + _fan_out(p)))


_SCHEMES: dict[str, Callable[[Parameter], list[tuple[float, int]]]] = {
    "torch": _torch,
    "He": lambda p: [(math.sqrt(2 / p.fan_in), _NORMAL)],
    "LeCun": lambda p: [(math.sqrt(1 / p.fan_in), _NORMAL)],
    "Glorot": lambda p: [(_glorot(p), _NORMAL)],
}
"""Root mean square that an initialization draws, and how far off chance may bring it."""


def as_drawn(readings: Sequence[ParameterReading], *, enough: int = ENOUGH) -> str | None:
    """The initialization whose scale all of these weights have to within its error of sampling, ``None`` if none does.

    Formula: the rms of n numbers drawn from a normal distribution has a relative standard error of ``1 / sqrt(2 n)``
    (``1 / sqrt(5 n)`` from a uniform one). Training moves weights of thousands of elements by far more than that.

    Example:
        >>> from gradiometer.rules.cases import tasks
        >>> as_drawn([tasks.weight("body", rms=0.577)]), as_drawn([tasks.weight("body", rms=0.9)])
        ('torch', None)
    """
    matrices = [p for p in readings if len(p.parameter.shape) > 1]
    if sum(math.prod(p.parameter.shape) for p in matrices) < enough:
        return None
    for name, drawn in _SCHEMES.items():
        if all(any(_is_near(p, *one) for one in drawn(p.parameter)) for p in matrices):
            return name
    return None


def _is_near(p: ParameterReading, expected: float, spread: int) -> bool:
    return abs(p.weight_rms / expected - 1) <= ERRORS / math.sqrt(spread * max(p.measured, 1))


def _fan_out(parameter: Parameter) -> int:
    return math.prod(parameter.shape) // max(parameter.shape[1 - parameter.unit_dim], 1)
