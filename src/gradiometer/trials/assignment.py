"""Which job goes to which worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import monotonic

from gradiometer.trials.worker import Job, Outcome

Key = tuple[tuple[str, ...], int, bool]


@dataclass(eq=False)
class Task:
    """A job on its way, since when it is under way, and how often its worker was lost."""

    job: Job
    began: float = 0.0
    lost: int = 0


class Assignment:
    """Knows who holds which trainings, and how fast they go.

    A job goes to the worker that holds its trainings. Where that one is at work, another takes it if it comes to its
    end earlier although it begins at step 0.

    Example:
        >>> jobs = [Task(Job(("relu",), (0,), 10)), Task(Job(("he",), (0,), 10))]
        >>> who = Assignment()
        >>> first = who.choose(0, jobs, {})
        >>> who.given(0, first.job)
        >>> who.choose(1, jobs, {0: first}) is jobs[1]  # the first one is held by worker 0
        True
    """

    def __init__(self) -> None:
        """Nobody holds anything."""
        self._held: dict[Key, tuple[int, int]] = {}  # who holds a training, and at which step
        self._pace: dict[tuple[str, ...], float] = {}  # seconds that one step of one seed takes

    def holder(self, job: Job) -> int | None:
        """Who holds most of a job's trainings."""
        held = [self._held[key] for key in _keys(job) if key in self._held]
        return max(held, key=lambda one: one[1])[0] if held else None

    def choose(
        self, worker: int, waiting: Sequence[Task], under_way: Mapping[int, Task], *, anew: bool = True
    ) -> Task | None:
        """What a worker that is free does next, ``None`` if everything is better left to others.

        Without ``anew`` it is only what the worker has begun before.
        """
        holders = [self.holder(task.job) for task in waiting]
        for wanted in (worker, None) if anew else (worker,):
            if wanted in holders:
                return waiting[holders.index(wanted)]
        if not anew:
            return None
        for task, holder in zip(waiting, holders, strict=True):
            if (
                holder is not None
                and holder in under_way
                and self._sooner_here(task, holder, waiting, under_way[holder])
            ):
                return task
        return None

    def given(self, worker: int, job: Job) -> None:
        """A worker begins a job: what it does not hold it begins at step 0."""
        for key in _keys(job):
            if self._held.get(key, (None, 0))[0] != worker:
                self._held[key] = worker, 0

    def ended(self, worker: int, outcome: Outcome) -> None:
        """A worker has ended a job."""
        job = outcome.job
        before = sum(self._held.get(key, (worker, 0))[1] for key in _keys(job))
        taken = sum(map(len, outcome.losses)) - before
        if taken > 0 and outcome.seconds > 0:
            self._pace[job.arm] = outcome.seconds / taken
        for key, losses in zip(_keys(job), outcome.losses, strict=True):
            self._held[key] = worker, len(losses)

    def lost(self, worker: int) -> None:
        """A worker is gone, with all that it held."""
        self._held = {key: held for key, held in self._held.items() if held[0] != worker}

    def forget(self, arm: tuple[str, ...]) -> None:
        """Nobody holds an arm any more."""
        self._held = {key: held for key, held in self._held.items() if key[0] != arm}

    def _sooner_here(self, task: Task, holder: int, waiting: Sequence[Task], busy: Task) -> bool:
        now = monotonic()
        queue = [one.job for one in waiting[: waiting.index(task)] if self.holder(one.job) == holder]
        there = max(now, busy.began + self._cost(busy.job)) + sum(self._cost(job) for job in (*queue, task.job))
        return now + self._cost(task.job, anew=True) < there

    def _cost(self, job: Job, *, anew: bool = False) -> float:
        """Seconds that a job takes, as far as anything is known of it."""
        pace = self._pace.get(job.arm) or (fmean(self._pace.values()) if self._pace else 0.0)
        done = 0 if anew else sum(self._held.get(key, (0, 0))[1] for key in _keys(job))
        return pace * max(0, job.until * len(job.seeds) - done)


def _keys(job: Job) -> list[Key]:
    return [(job.arm, seed, job.watched) for seed in job.seeds]
