"""Whether the loss gives cause for a closer look: it does not fall, it jumps, or it is not finite any more."""

from __future__ import annotations

import math
from statistics import median

JUMP = 3.0
"""A loss so many times what it was lately, and at first, is worth a look at the step that follows."""

FALLEN = 0.8
"""Share of the first losses below which a training learns, and is left in peace."""

WILD = 10.0
"""Fall from the first losses that says that these were the fault of the output's scale."""

FIRST = 5
_OFTEN = 1.5  # a training that does not fall is looked at each time it has become longer by a half
_JUMPS = 5  # looks taken at jumps, at most


class Unrest:
    """Follows the losses of one optimizer; `seen` says whether the next step should be sampled.

    A training that learns is never disturbed. One that does not has less to lose by being measured than by going on
    unexplained: it is looked at a few times more, each of them at a longer distance.

    Example:
        >>> unrest = Unrest()
        >>> [i for i in range(100) if unrest.seen(2.3)]
        [20, 30, 45, 67]
        >>> unrest.seen(float("nan"))
        True
    """

    def __init__(self) -> None:
        """Nothing has been seen yet."""
        self._first: list[float] = []
        self._smooth = self._level = 0.0
        self._count = 0
        self._next = 20.0
        self._jumps = _JUMPS

    def seen(self, loss: float) -> bool:
        """Takes the loss of a step."""
        self._count += 1
        if not math.isfinite(loss):
            return self._jump()
        if len(self._first) < FIRST:
            self._first.append(loss)
            self._smooth = self._level = median(self._first)
            return False
        jumped = loss > JUMP * max(abs(self._smooth), abs(self._level))
        self._smooth += 0.1 * (loss - self._smooth)
        if jumped:
            return self._jump()
        if self._count <= self._next:
            return False
        self._next *= _OFTEN
        if self._smooth < self._level / WILD:  # a wild start that came down is no measure of what is learned
            self._level = self._smooth
            return True
        return self._level - self._smooth < (1 - FALLEN) * abs(self._level)

    def _jump(self) -> bool:
        self._jumps -= 1
        return self._jumps >= 0
