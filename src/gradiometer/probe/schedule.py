"""Which steps are sampled: those that keep the cost of watching below the budget."""

from __future__ import annotations

from collections import deque
from statistics import median

_ALLOWANCE = 0.05  # seconds, once
_TROUBLE = 0.5  # the same for steps that something is wrong with
_EARLY, _OFTEN = (1, 2, 4, 8, 16), 25


class Schedule:
    """Every n-th step, or as often as a share of the training time allows.

    The budget is kept as an account: a step is sampled when what sampling has cost so far, and one more at the
    price of the last ones, is within ``budget`` of the time since the watch began. The cost of a sampled
    step is its length beyond the median of the plain ones, but at least the time spent in the instrument
    itself, and at most five times that (an evaluation that happens to fall into it is not our cost).
    The first step is always sampled: what is broken from birth is seen there. Steps 1, 2, 4, 8, 16 and every 25th are
    sampled as well for as long as that costs less than a twentieth of a second in all, so that a training
    of a few seconds, whose budget is nothing, has more than one reading. Steps that are asked for because something
    goes wrong may cost half a second in all; what they cost is missing from the account afterwards.

    Example:
        >>> s = Schedule(budget=0.01)
        >>> s.due(0, now=0.0)
        True
        >>> s.sampled(length=1.5, inside=0.5)
        >>> s.due(1, now=10.0), s.due(2, now=100.1)
        (False, True)
    """

    def __init__(self, budget: float = 0.01, every: int | None = None) -> None:
        """``budget`` is a share of the time; ``every`` a fixed interval instead."""
        self._budget = budget
        self._every = every
        self._plain: deque[float] = deque(maxlen=15)
        self._costs: deque[float] = deque(maxlen=5)
        self._spent = self._price = 0.0
        self._demanded = False

    def demand(self) -> None:
        """Samples the next step even if it is not its turn (something is going wrong just now).

        Not where the interval is fixed.
        """
        self._demanded = self._every is None

    def due(self, step: int, now: float) -> bool:
        """Whether step number ``step`` is to be sampled; ``now`` is in seconds since the watch began."""
        if self._demanded:
            self._demanded = False
            if self._spent + self._price <= max(_TROUBLE, self._budget * now):
                return True
        if self._every is not None:
            return step % self._every == 0
        if not self._costs:
            return True
        if (step in _EARLY or step % _OFTEN == 0) and self._spent + self._price <= _ALLOWANCE:
            return True
        return self._spent + self._price <= self._budget * now

    def plain(self, length: float) -> None:
        """Notes the length of a step that was not sampled, in seconds."""
        self._plain.append(length)

    def sampled(self, length: float, inside: float) -> None:
        """Notes the length of a sampled step, and the seconds of it spent inside the instrument."""
        beyond = length - median(self._plain) if self._plain else 0.0
        cost = min(max(inside, beyond), 5 * inside)
        self._spent += cost
        self._costs.append(cost)
        self._price = median(self._costs)
