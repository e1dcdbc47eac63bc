"""The shape of a loss curve, by medians: neither the noise of small batches nor one odd batch makes a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

MAD = 1.4826
"""Standard deviation over median distance from the median, of normal noise."""


@dataclass(frozen=True, slots=True)
class Curve:
    """``parts`` are the medians of the four quarters, ``level`` that of the last tenth.

    ``swing`` is the standard deviation within the last half, by its quartiles, in the unit of the loss.
    """

    parts: tuple[float, float, float, float]
    level: float
    swing: float

    @property
    def growing(self) -> bool:
        """Whether it has risen from each of the last three quarters to the next, and doubled on the way."""
        return self.parts[1] < self.parts[2] < self.parts[3] and self.parts[3] > self.parts[1] + abs(self.parts[1])


def curve(values: Sequence[float]) -> Curve | None:
    """The curve of these losses, ``None`` of fewer than eight."""
    n = len(values)
    if n < 8:
        return None
    cuts = [round(i * n / 4) for i in range(5)]
    parts = [median(values[a:b]) for a, b in pairwise(cuts)]
    half = values[n // 2 :]
    middle = median(half)
    return Curve(
        (parts[0], parts[1], parts[2], parts[3]),
        median(values[-max(5, n // 10) :]),
        MAD * median(abs(v - middle) for v in half),
    )


def finite(losses: Sequence[tuple[int, float]]) -> list[float]:
    """The values that are finite, in order."""
    return [value for _, value in losses if math.isfinite(value)]
