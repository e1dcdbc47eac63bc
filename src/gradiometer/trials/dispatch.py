"""Several workers at once: jobs are handed out, outcomes collected, lost workers made up for."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

from gradiometer.trials.assignment import Assignment, Task
from gradiometer.trials.executors import Executor, SerialExecutor
from gradiometer.trials.worker import Job, Outcome, Stacking, nothing

LOOK = 0.5
"""Seconds between two looks at what does not tell by itself: time that is up, a worker that is gone."""

GRACE = 2.0
"""Seconds after a deadline that a step which is under way may take to its end."""

TRIES = 2
"""Workers that a job may cost: the second loss says that it is the job."""


class Dispatcher(Executor):
    """An executor with workers elsewhere; how they are reached is up to those who inherit."""

    def __init__(self, workers: int, stacking: Stacking) -> None:
        """Nothing is started yet."""
        super().__init__(stacking)
        self.workers = self._most = workers
        self._under_way: dict[int, Task] = {}  # by worker
        self._assignment = Assignment()
        self._here: SerialExecutor | None = None  # where there can be no workers

    @property
    def running(self) -> tuple[Job, ...]:
        """The jobs under way."""
        return tuple(task.job for task in self._under_way.values())

    def run(self, jobs: Sequence[Job], deadline: float = math.inf) -> Iterator[Outcome]:
        """Does jobs and yields what came of them, in the order in which they end."""
        waiting = [Task(job) for job in jobs]
        mine = set(waiting)
        while mine:
            if self._here is None and not self._start(min(self.workers, len(mine))):
                self._stay_here()
            if self._here is not None:
                yield from self._here.run([task.job for task in waiting], deadline)
                return
            late = monotonic() - deadline
            if late >= 0:
                for task, text in self._given_up(waiting, late):
                    if task in mine:
                        mine.remove(task)
                        yield nothing(task.job, text)
                waiting = [task for task in waiting if task in mine]
            self._hand_out(waiting, deadline, anew=late < 0)
            for worker, answer in self._hear(LOOK) if mine else ():
                task = self._under_way.pop(worker, None)
                if isinstance(answer, Outcome):
                    self._assignment.ended(worker, answer)
                else:
                    self._assignment.lost(worker)
                if task not in mine:
                    continue  # an idle one, or one of an earlier call that nobody waited for
                if isinstance(answer, str):
                    task.lost += 1
                    if task.lost < TRIES:
                        waiting.insert(0, task)
                        continue
                    answer = nothing(task.job, answer)
                mine.remove(task)
                yield answer

    def _hand_out(self, waiting: list[Task], deadline: float, *, anew: bool) -> None:
        for worker in self._free():
            task = self._assignment.choose(worker, waiting, self._under_way, anew=anew)
            if task is not None:
                waiting.remove(task)
                task.began = monotonic()
                self._under_way[worker] = task
                self._assignment.given(worker, task.job)
                self._send(worker, task.job, deadline)

    def _given_up(self, waiting: Sequence[Task], late: float) -> list[tuple[Task, str]]:
        """Jobs that are not waited for when the time is up: nobody has begun them, or a step of theirs does not end."""
        grace = min(GRACE, self.grace)
        if late <= grace:
            return [(task, "") for task in waiting if self._assignment.holder(task.job) is None]
        stuck = dict(self._under_way)
        self._under_way.clear()
        for worker in stuck:
            self._assignment.lost(worker)
            self._abandon(worker)
        text = f"stopped: its step had not ended {grace:.2g} s after the time was up"
        return [(task, "") for task in waiting] + [(task, text) for task in stuck.values()]

    def _stay_here(self) -> None:
        """From now on everything is done in this process."""
        self._here = SerialExecutor(self.stacking).serve(self.recipe_of)
        if self._context:
            self._here.tell(*self._context)
        self.workers = 1

    def tell(self, context: Any) -> None:
        """Hands an object to every worker, with which recipes are made from now on."""
        self._context = (context,)
        if self._here is not None:
            self._here.tell(context)
        self._pass_on_context(context)

    def forget(self, arm: tuple[str, ...]) -> None:
        """Has every worker let go of an arm's trainings."""
        if self._here is not None:
            self._here.forget(arm)
        self._assignment.forget(arm)
        self._pass_on_forget(arm)

    def close(self) -> None:
        """Ends the workers; jobs under way are given up."""
        if self._here is not None:
            self._here.close()
            self._here = None
        self.workers = self._most
        self._under_way.clear()
        self._assignment = Assignment()

    # -- how workers are reached ------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self, count: int) -> bool:
        """Sees to it that there are so many workers; false if there cannot be any."""

    @abstractmethod
    def _free(self) -> list[int]:
        """The workers that wait for a job."""

    @abstractmethod
    def _send(self, worker: int, job: Job, deadline: float) -> None:
        """Hands a job to a worker; one that is gone is heard of later."""

    @abstractmethod
    def _hear(self, seconds: float) -> Sequence[tuple[int, Outcome | str]]:
        """What workers have answered, after so many seconds at most; a text says how one was lost."""

    @abstractmethod
    def _abandon(self, worker: int) -> None:
        """Ends a worker that does not answer."""

    @abstractmethod
    def _pass_on_context(self, context: Any) -> None:
        """Hands an object to every worker that there is."""

    @abstractmethod
    def _pass_on_forget(self, arm: tuple[str, ...]) -> None:
        """Tells every worker that there is."""
