"""What is asked of a worker, what it answers, and the worker, which keeps the trainings that it has begun."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

from gradiometer.records import Diagnosis
from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.examination import Facts, facts
from gradiometer.trials.randomness import RandomStates, seed_everything
from gradiometer.trials.stacked import Stack

Stacking = Literal["never", "faster", "always"]
"""When several seeds are trained at once: never, where it is faster, or wherever it gives the same numbers."""

SLICE = 1.0
"""Seconds after which a worker looks up from a training, to see whether anybody still waits for it."""


@dataclass(frozen=True)
class Job:
    """Trainings of one arm to be taken on to a step: the names of its remedies, its seeds, whether under watch."""

    arm: tuple[str, ...]
    seeds: tuple[int, ...]
    until: int
    watched: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a job; everything by seed is in the order of the job's seeds.

    ``losses`` are those of all steps since the first, ``scores`` those of the networks as they are now (``None``
    without ``evaluate`` or before the first step), ``failures`` are empty texts where there is none. ``seconds`` is
    what this job's steps took, whatever was there before. Of a watched training ``facts`` are what its run tells;
    ``gradient`` is `Training.gradient` of the first seed. ``stacked`` says that the seeds were trained at once.
    """

    job: Job
    losses: tuple[tuple[float, ...], ...]
    scores: tuple[float | None, ...]
    failures: tuple[str, ...]
    seconds: float = 0.0
    facts: Facts | None = None
    gradient: float | None = None
    stacked: bool = False

    @property
    def steps(self) -> int:
        """Steps that all of its trainings have taken."""
        return min(map(len, self.losses), default=0)

    @property
    def failure(self) -> str:
        """The first failure, nothing if there is none."""
        return next(filter(None, self.failures), "")

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Of a watched training."""
        return None if self.facts is None else self.facts.diagnosis


def nothing(job: Job, failure: str = "") -> Outcome:
    """The outcome of a job of which nothing is known, but perhaps why."""
    count = len(job.seeds)
    return Outcome(job, ((),) * count, (None,) * count, (failure,) * count)


class Worker:
    """Trains arms, and keeps the trainings, so that a later job goes on where an earlier one ended.

    ``recipe_of(arm)`` is the recipe of an arm, ``recipe_of(arm, context)`` once there was a ``tell``. One that has
    never seen an arm begins at step 0, and comes to the same numbers. Whatever an arm raises is a failure of that arm.
    """

    def __init__(
        self, recipe_of: Callable[..., Recipe], stacking: Stacking = "faster", look_up: Callable[[], object] = int
    ) -> None:
        """``look_up`` is called between two steps every second or so."""
        self._recipe_of, self._stacking, self._look_up = recipe_of, stacking, look_up
        self._context: tuple[Any, ...] = ()
        self._recipes: dict[tuple[str, ...], Recipe] = {}
        self._held: dict[tuple[tuple[str, ...], int, bool], Stack] = {}  # by arm, seed, and whether watched

    def tell(self, context: Any) -> None:
        """What recipes are made with from now on."""
        self._context = (context,)

    def forget(self, arm: tuple[str, ...]) -> None:
        """Lets go of an arm's trainings."""
        self._recipes.pop(arm, None)
        keys = [key for key in self._held if key[0] == arm]
        self._drop(keys)
        if any(watched for _, _, watched in keys):
            gc.collect()  # a watch and what it watches know each other

    def close(self) -> None:
        """Lets go of everything."""
        self._recipes.clear()
        self._drop(list(self._held))

    def advance(self, job: Job, deadline: float = math.inf) -> Outcome:
        """Takes trainings on to where the job wants them, or as far as they come before `time.monotonic` says so."""
        try:
            recipe = self._recipe(job.arm)
        except (Exception, SystemExit) as error:
            return nothing(job, told(error))
        stacks, failures = self._stacks(job, recipe, deadline)
        before = sum(stack.seconds for stack in stacks)
        for stack in stacks:
            try:
                self._train(stack, job.until, deadline)
            except (Exception, SystemExit) as error:
                failures |= dict.fromkeys(stack.seeds, told(error))
        outcome = self._outcome(job, stacks, failures, before, deadline)
        if any("memory" in text.lower() for text in outcome.failures):
            self._drop([(job.arm, seed, job.watched) for seed in job.seeds])
            gc.collect()  # so that the other arms have room
        return outcome

    def _train(self, stack: Stack, until: int, deadline: float) -> None:
        while not stack.ended(until) and monotonic() < deadline:
            stack.advance(until, min(deadline, monotonic() + SLICE))
            self._look_up()

    def _recipe(self, arm: tuple[str, ...]) -> Recipe:
        if arm not in self._recipes:
            with RandomStates():
                seed_everything(0)  # whatever a remedy draws is the same in every worker
                self._recipes[arm] = self._recipe_of(arm, *self._context)
        return self._recipes[arm]

    def _stacks(self, job: Job, recipe: Recipe, deadline: float) -> tuple[list[Stack], dict[int, str]]:
        """The trainings of a job, those of them begun that were not, and what kept others from being built."""
        missing = []
        for seed in job.seeds:
            held = self._held.get((job.arm, seed, job.watched))
            if held is None or held.steps > job.until or not set(held.seeds) <= set(job.seeds):
                missing.append(seed)
        self._drop([(job.arm, seed, job.watched) for seed in missing])
        failures: dict[int, str] = {}
        if len(missing) > 1 and not job.watched and self._stacking != "never" and monotonic() < deadline:
            with contextlib.suppress(Exception, SystemExit):  # which of them fails is found one by one
                self._hold(job, Stack(recipe, missing, timed=self._stacking == "faster"))
                missing = []
        for seed in missing:
            if monotonic() < deadline:
                try:
                    self._hold(job, Stack(recipe, (seed,), watched=job.watched))
                except (Exception, SystemExit) as error:
                    failures[seed] = told(error)
        held = (self._held.get((job.arm, seed, job.watched)) for seed in job.seeds)
        return list(dict.fromkeys(stack for stack in held if stack is not None)), failures

    def _hold(self, job: Job, stack: Stack) -> None:
        self._held |= {(job.arm, seed, job.watched): stack for seed in stack.seeds}

    def _drop(self, keys: Sequence[tuple[tuple[str, ...], int, bool]]) -> None:
        dropped = {self._held[key] for key in keys if key in self._held}
        self._held = {key: stack for key, stack in self._held.items() if stack not in dropped}
        for stack in dropped:
            stack.close()

    def _outcome(
        self, job: Job, stacks: Sequence[Stack], failures: dict[int, str], before: float, deadline: float
    ) -> Outcome:
        losses: dict[int, tuple[float, ...]] = {}
        scores: dict[int, float | None] = {}
        for stack in stacks:
            losses |= {seed: tuple(row) for seed, row in zip(stack.seeds, stack.losses, strict=True)}
            if stack.ended(job.until) or monotonic() < deadline:  # what was cut short is not waited for
                scores |= dict(zip(stack.seeds, stack.scores(), strict=True))
            failures = {seed: text for seed, text in zip(stack.seeds, stack.failures, strict=True) if text} | failures
        return Outcome(
            job=job,
            losses=tuple(losses.get(seed, ()) for seed in job.seeds),
            scores=tuple(scores.get(seed) for seed in job.seeds),
            failures=tuple(failures.get(seed, "") for seed in job.seeds),
            seconds=sum(stack.seconds for stack in stacks) - before,
            facts=_facts(stacks[0]) if job.watched and stacks else None,
            gradient=next((stack.gradient for stack in stacks if job.seeds[0] in stack.seeds), None),
            stacked=any(stack.together for stack in stacks),
        )


def told(error: BaseException) -> str:
    """An error as the failure of an arm."""
    text = str(error).strip()[:200]
    return text if isinstance(error, UnusableError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _facts(stack: Stack) -> Facts | None:
    """What a watched training tells; a fault in here must not cost its losses and its score."""
    try:
        return facts(stack.run, tuple(stack.losses[0]))
    except Exception:
        return None
