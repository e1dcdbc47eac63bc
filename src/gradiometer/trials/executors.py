"""Where jobs are done: what every executor can, the one that does them here, and how one is chosen by a word."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from gradiometer.errors import InputError
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.worker import Job, Outcome, Stacking, Worker

MOST = 8
"""Processes that are started unless more are asked for: each of them holds networks."""

WORDS = ("local", "serial", "ray")


class Executor(ABC):
    """Does jobs, each by a worker that keeps its trainings; ``workers`` is how many it does at the same time.

    Used as a context: what it has started is gone when the block ends. It may be used again after that.
    """

    workers: int = 1

    grace: float = math.inf
    """Seconds beyond a deadline that a step under way may take at most, if that is less than is usual."""

    def __init__(self, stacking: Stacking = "faster") -> None:
        """``stacking`` says when several seeds are trained at once."""
        self.stacking: Stacking = stacking
        self._recipe_of: Callable[..., Recipe] | None = None
        self._context: tuple[Any, ...] = ()

    @property
    def recipe_of(self) -> Callable[..., Recipe]:
        """What builds the recipe of an arm."""
        if self._recipe_of is None:
            raise InputError("this executor serves no recipe yet: hand it to prescribe(recipe, executor=...).")
        return self._recipe_of

    def serve(self, recipe_of: Callable[..., Recipe]) -> Self:
        """What recipes are made by from now on; whatever was held of others is gone."""
        self.close()
        self._recipe_of, self._context = recipe_of, ()
        return self

    @property
    def running(self) -> tuple[Job, ...]:
        """The jobs under way, as far as that is known."""
        return ()

    @abstractmethod
    def run(self, jobs: Sequence[Job], deadline: float = math.inf) -> Iterator[Outcome]:
        """Does jobs and yields what came of them, in the order in which they end.

        After ``deadline``, a time of `time.monotonic`, nothing is begun; every job has an outcome all the same.
        """

    @abstractmethod
    def tell(self, context: Any) -> None:
        """Hands an object to every worker, with which recipes are made from now on."""

    @abstractmethod
    def forget(self, arm: tuple[str, ...]) -> None:
        """Has every worker let go of an arm's trainings."""

    @abstractmethod
    def close(self) -> None:
        """Ends what was started; jobs under way are given up."""

    def __enter__(self) -> Self:
        """Nothing is started before it is needed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what was started."""
        self.close()


class SerialExecutor(Executor):
    """Does one job after the other in this process."""

    def __init__(self, stacking: Stacking = "faster") -> None:
        """``stacking`` says when several seeds are trained at once."""
        super().__init__(stacking)
        self._worker: Worker | None = None

    def run(self, jobs: Sequence[Job], deadline: float = math.inf) -> Iterator[Outcome]:
        """Does jobs in their order."""
        for job in jobs:
            yield self._here().advance(job, deadline)

    def tell(self, context: Any) -> None:
        """Hands an object over."""
        self._here().tell(context)

    def forget(self, arm: tuple[str, ...]) -> None:
        """Lets go of an arm's trainings."""
        self._here().forget(arm)

    def close(self) -> None:
        """Lets go of everything."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _here(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(self.recipe_of, self.stacking)
        return self._worker


def executor_of(given: str | Executor, recipe_of: Callable[..., Recipe]) -> Executor:
    """The executor that a word means, or the one that is given, with what builds recipes.

    Raises:
        InputError: another word, or a word for what is not installed.

    Example:
        >>> executor_of("threads", lambda arm: ...)
        Traceback (most recent call last):
        gradiometer.errors.InputError: executor is "local", "serial" or "ray", or an Executor, and not 'threads'.
    """
    if isinstance(given, Executor):
        return given.serve(recipe_of)
    if given not in WORDS:
        raise InputError(f'executor is "local", "serial" or "ray", or an Executor, and not {given!r}.')
    if given == "serial":
        return SerialExecutor().serve(recipe_of)
    if given == "ray":
        from gradiometer.trials.on_ray import RayExecutor

        return RayExecutor().serve(recipe_of)
    from gradiometer.trials.local import LocalExecutor

    return LocalExecutor().serve(recipe_of)


def cores() -> int:
    """Cores that this process may use."""
    usable = getattr(os, "process_cpu_count", None)  # Python 3.13
    if usable is None and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return (usable or os.cpu_count)() or 1
