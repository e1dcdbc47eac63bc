"""Are these weights as they were drawn? What is frozen on purpose was trained before, as a rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gradiometer.records import Parameter, ParameterReading

_UNIFORM = 5
_NORMAL = 2
"""``1 / sqrt(k n)`` is the relative standard error of the rms of n numbers drawn like this."""

_SCHEMES: dict[str, Callable[[int, int], float]] = {
    "torch": lambda fan_in, _: 1 / math.sqrt(3 * fan_in),
    "He": lambda fan_in, _: math.sqrt(2 / fan_in),
    "LeCun": lambda fan_in, _: math.sqrt(1 / fan_in),
    "Glorot": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
}
"""Root mean square that an initialization draws."""

ENOUGH = 1000
"""Elements below which chance alone may bring trained weights to one of these values (their error is then 2 %)."""

ERRORS = 4
"""Standard errors of the root mean square that a drawn weight may be off: one in ten thousand is."""


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
    for name, rms in _SCHEMES.items():
        if all(_is_near(p, rms) for p in matrices):
            return name
    return None


def _is_near(p: ParameterReading, rms: Callable[[int, int], float]) -> bool:
    expected = rms(p.parameter.fan_in, _fan_out(p.parameter))
    spread = _UNIFORM if rms is _SCHEMES["torch"] else _NORMAL  # the others are drawn either way
    return abs(p.weight_rms / expected - 1) <= ERRORS / math.sqrt(spread * max(p.measured, 1))


def _fan_out(parameter: Parameter) -> int:
    return math.prod(parameter.shape) // max(parameter.shape[1 - parameter.unit_dim], 1)
