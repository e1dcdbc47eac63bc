"""Successive halving: all candidates for a few steps, the better ones for more, the best to the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from gradiometer.remedies.choice import Names
from gradiometer.trials.executors import Executor
from gradiometer.trials.worker import Job, Outcome

FIRST, SECOND = 1 / 8, 1 / 3
"""Shares of the steps after which the field is thinned out. Li et al. (2018), Hyperband, thin by a factor of three to
four at each rung."""

THROUGH = 3
"""Candidates that are trained on to the second rung."""


@dataclass
class Tournament:
    """Trains arms on one seed, and knows how each of them stands.

    ``told`` is called with every outcome. ``standing`` has the newest of each arm, ``deadline`` is a time of
    `time.monotonic` after which nothing is begun.
    """

    executor: Executor
    steps: int
    deadline: float
    told: Callable[[Outcome], None]
    standing: dict[Names, Outcome] = field(default_factory=dict)

    def rung(self, arms: Sequence[Names], share: float) -> list[Names]:
        """Takes arms on to a share of the steps, and returns them, the best first."""
        until = max(1, round(self.steps * share))
        jobs = [Job(arm=arm, seeds=(0,), until=until, watched=False) for arm in arms]
        for outcome in self.executor.run(jobs, self.deadline):
            self.standing[outcome.job.arm] = outcome
            self.told(outcome)
        return self.ranked(arms)

    def ranked(self, arms: Iterable[Names]) -> list[Names]:
        """The arms that have not failed, the best first; of equal ones the one that was asked for first."""
        alive = [arm for arm in arms if arm in self.standing and value(self.standing[arm]) > -math.inf]
        return sorted(alive, key=lambda arm: -value(self.standing[arm]))

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return monotonic() >= self.deadline


def value(outcome: Outcome) -> float:
    """How good an arm is so far: its score on the first seed, minus infinity if it failed or has none."""
    score = outcome.scores[0] if outcome.scores else None
    failed = any(outcome.failures) or score is None or math.isnan(score)
    return -math.inf if failed or score is None else score
