"""Successive halving: all candidates for a few steps, the better ones for more, the best to the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from gradiometer.remedies.choice import Names
from gradiometer.trials.executors import Executor
from gradiometer.trials.worker import Job, Outcome

FIRST, SECOND = 1 / 10, 1 / 3
"""Shares of the steps after which the field is thinned out. Li et al. (2018), Hyperband, thin by a factor of three to
four at each rung."""


@dataclass
class Tournament:
    """Trains arms, and knows how each of them stands.

    ``told`` is called with every outcome. ``standing`` has the newest of each arm on the first seed, ``ended`` those of
    trainings to the end, by first seed. ``deadline`` is a time of `time.monotonic` after which nothing is begun.
    """

    executor: Executor
    steps: int
    deadline: float
    told: Callable[[Outcome], None]
    standing: dict[Names, Outcome] = field(default_factory=dict)
    ended: dict[Names, dict[int, Outcome]] = field(default_factory=dict)
    _spent: dict[tuple[Names, tuple[int, ...], bool], float] = field(default_factory=dict)

    def rung(
        self, arms: Sequence[Names], share: float, besides: Sequence[Job] = (), deadline: float = math.inf
    ) -> list[Names]:
        """Takes arms on to a share of the steps on the first seed, and returns them, the best first.

        ``besides`` are jobs for workers that have nothing else to do, with a ``deadline`` of their own if they are
        alone.
        """
        until = max(1, round(self.steps * share))
        self.run([*(Job(arm, (0,), until) for arm in arms), *besides], deadline if besides else None)
        return self.ranked(arms)

    def to_the_end(self, names: Names, seeds: Sequence[int]) -> list[Job]:
        """Jobs that train an arm to the end from some seeds, shared out evenly among the workers."""
        size = max(1, -(-len(seeds) // max(1, self.executor.workers)))
        return [Job(names, tuple(seeds[i : i + size]), self.steps) for i in range(0, len(seeds), size)]

    def run(self, jobs: Sequence[Job], deadline: float | None = None) -> None:
        """Has jobs done."""
        for outcome in self.executor.run(jobs, self.deadline if deadline is None else deadline):
            self.told(outcome)
            job = outcome.job
            # An outcome has the time of its job; what is told of an arm is that of all its steps.
            held = (job.arm, job.seeds, job.watched)
            self._spent[held] = self._spent.get(held, 0.0) + outcome.seconds
            outcome = replace(outcome, seconds=self._spent[held])
            if job.seeds[0] == 0 and job.arm:
                self.standing[job.arm] = outcome
            if job.until == self.steps:
                self.ended.setdefault(job.arm, {})[job.seeds[0]] = outcome

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
    if outcome.failure or score is None or math.isnan(score):
        return -math.inf
    return score
