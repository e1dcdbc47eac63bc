"""Workers that are actors on a Ray cluster, which places them, restarts those that are lost and repeats their work."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from gradiometer.errors import InputError
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.dispatch import TRIES, Dispatcher
from gradiometer.trials.executors import MOST, cores
from gradiometer.trials.randomness import RandomStates
from gradiometer.trials.worker import Job, Outcome, Stacking, Worker, nothing

QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Ray that is started here neither warns of a default that will change, nor reports to its makers."""

STORE = 512 * 2**20
"""Bytes of shared memory for a Ray that is started here: a recipe, a diagnosis and a few losses at a time."""


class RayExecutor(Dispatcher):
    """Does jobs on a Ray cluster: the one that this process is connected to or ``RAY_ADDRESS`` names, else a local one.

    A local one is shut down in the end. Each worker is an actor on one core, and, where the recipe's network is on a
    CUDA device, on its share of the GPUs. A lost actor is restarted by Ray, which repeats its job there once.
    """

    def __init__(self, workers: int | None = None, stacking: Stacking = "faster", gpus: float | None = None) -> None:
        """``workers``: as many as the cluster has cores, at most eight; ``gpus`` for each, by the recipe if left out.

        Raises:
            InputError: Ray is not installed.
        """
        if find_spec("ray") is None:
            raise InputError('executor="ray" needs Ray, which is not installed: pip install "gradiometer[ray]".')
        super().__init__(workers or MOST, stacking)
        self._asked, self._gpus = workers, gpus
        self._ours = False  # whether Ray was started here
        self._actors: dict[int, Any] = {}
        self._owed: dict[Any, int] = {}  # references to answers, and the workers that owe them
        self._recipes: Any = None  # where Ray keeps what builds recipes
        self._share = 0.0
        self._told: tuple[int, Any] = 0, None  # how often there was a context, and where Ray keeps it
        self._number = 0
        self._loud: Any = None

    def close(self) -> None:
        """Ends the actors, and Ray if it was started here."""
        if self._actors or self._ours:
            with _quiet() as ray:
                for actor in self._actors.values():
                    with contextlib.suppress(Exception):
                        ray.kill(actor)
                if self._ours:
                    ray.shutdown()
                    _print_errors_with(ray, self._loud)
        self._actors, self._owed, self._recipes, self._ours = {}, {}, None, False
        self._told = 0, None
        super().close()

    def _start(self, count: int) -> bool:
        with _quiet() as ray:
            if self._recipes is None:
                self._connect(ray)
            while len(self._actors) < min(count, self.workers):
                actor = ray.remote(_Actor).options(
                    num_cpus=1, num_gpus=self._share, max_restarts=-1, max_task_retries=TRIES - 1
                )
                self._actors[self._number] = actor.remote(self.stacking, torch.get_default_dtype())
                self._number += 1
        return True

    def _connect(self, ray: ModuleType) -> None:
        if not ray.is_initialized():
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            if not os.environ.get("RAY_ADDRESS"):
                count = self._asked or min(MOST, cores())
                quiet |= {"address": "local", "num_cpus": count, "include_dashboard": False}
                quiet |= {"object_store_memory": STORE}
            ray.init(**quiet)
            self._ours = True
            self._loud = _print_errors_with(ray, _nothing)
        there = ray.cluster_resources()
        self.workers = max(1, min(self._asked or MOST, int(there.get("CPU", 1))))
        self._share = self._gpus or 0.0
        if self._gpus is None and _on_cuda(self.recipe_of):
            self._share = min(1.0, there.get("GPU", 0.0) / self.workers)
        try:
            with _by_value(ray, self.recipe_of):
                self._recipes = ray.put((sys.path, ray.cloudpickle.dumps(self.recipe_of)))
        except Exception as error:
            raise InputError(
                f"the recipe cannot be sent to a Ray worker ({type(error).__name__}: {str(error)[:200]}). Let its "
                'functions make what they need instead of holding on to it, or use executor="local".'
            ) from error
        if self._context:
            self._pass_on_context(*self._context)

    def _free(self) -> list[int]:
        return [number for number in self._actors if number not in self._under_way]

    def _send(self, worker: int, job: Job, deadline: float) -> None:
        # By the clock on the wall: monotonic ones differ between machines, and Ray may repeat the call later.
        until = time.time() + (deadline - time.monotonic())
        version, place = self._told
        with _quiet():
            # In a list, so that Ray does not fetch for every call what a worker fetches when it begins.
            answer = self._actors[worker].advance.remote(job, until, version, [self._recipes, place])
        self._owed[answer] = worker

    def _hear(self, seconds: float) -> list[tuple[int, Outcome]]:
        if not self._owed:
            return []
        with _quiet() as ray:
            ready, _ = ray.wait(list(self._owed), num_returns=1, timeout=seconds)
            return [self._read(ray, answer) for answer in ready]

    def _read(self, ray: ModuleType, answer: Any) -> tuple[int, Outcome]:
        worker = self._owed.pop(answer)
        try:
            return worker, ray.get(answer)
        except ray.exceptions.ActorUnavailableError:
            text = "its worker was lost, and lost again when Ray repeated its job: out of memory?"
        except ray.exceptions.RayTaskError as error:  # what a recipe refers to is not there
            text = f"its worker could not begin: {type(error.cause).__name__}: {str(error.cause)[:200]}"
        except ray.exceptions.RayError as error:
            text = f"its worker was lost: {type(error).__name__}: {str(error).strip()[:200]}"
            self._actors.pop(worker)
        self._assignment.lost(worker)
        return worker, nothing(self._under_way[worker].job, text)

    def _abandon(self, worker: int) -> None:
        actor = self._actors.pop(worker)
        self._owed = {answer: one for answer, one in self._owed.items() if one != worker}
        with _quiet() as ray, contextlib.suppress(Exception):
            ray.kill(actor)

    def _pass_on_context(self, context: Any) -> None:
        if self._recipes is not None:
            with _quiet() as ray:
                self._told = self._told[0] + 1, ray.put(context)

    def _pass_on_forget(self, arm: tuple[str, ...]) -> None:
        with _quiet():
            for actor in self._actors.values():
                actor.forget.remote(arm)


class _Actor:
    """A worker in a process of Ray."""

    def __init__(self, stacking: Stacking, dtype: torch.dtype) -> None:
        torch.set_num_threads(1)
        torch.set_default_dtype(dtype)
        self._stacking: Stacking = stacking
        self._worker: Worker | None = None
        self._version = 0

    def advance(self, job: Job, until: float, version: int, places: list[Any]) -> Outcome:
        import ray
        from ray import cloudpickle

        if self._worker is None:  # at first, and after a restart
            path, recipe_of = ray.get(places[0])
            sys.path += [place for place in path if place not in sys.path]  # a script's own modules lie beside it
            self._worker = Worker(cloudpickle.loads(recipe_of), self._stacking)
        if version != self._version:
            self._worker.tell(ray.get(places[1]))
            self._version = version
        return self._worker.advance(job, math.inf if math.isinf(until) else time.monotonic() + until - time.time())

    def forget(self, arm: tuple[str, ...]) -> None:
        if self._worker is not None:
            self._worker.forget(arm)


@contextlib.contextmanager
def _quiet() -> Iterator[ModuleType]:
    """Ray, whose warnings and notes are no business of who waits for a prescription."""
    held = {name: os.environ.get(name) for name in QUIET}
    os.environ |= {name: value for name, value in QUIET.items() if held[name] is None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray

            yield ray
    finally:
        for name, value in held.items():
            if value is None:
                os.environ.pop(name, None)


def _print_errors_with(ray: ModuleType, function: Any) -> Any:
    """What Ray prints errors of the cluster with on this terminal, replaced: that a worker was lost is told by us."""
    place = ray._private.worker
    held = getattr(place, "print_to_stdstream", None)
    if held is not None and function is not None:
        place.print_to_stdstream = function
    return held


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _on_cuda(recipe_of: Callable[..., Recipe]) -> bool:
    if not torch.cuda.is_available():
        return False
    try:
        with RandomStates():
            return any(x.is_cuda for x in recipe_of(()).model().parameters())
    except Exception:
        return False


@contextlib.contextmanager
def _by_value(ray: ModuleType, recipe_of: Callable[..., Recipe]) -> Iterator[None]:
    """While it lasts functions of a file that workers could not import are sent with all that they are."""
    names = {name for name in _homes(recipe_of) if name in sys.modules and not _importable(name)}
    modules = [sys.modules[name] for name in names]
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            ray.cloudpickle.unregister_pickle_by_value(module)


def _homes(recipe_of: Callable[..., Recipe]) -> set[str]:
    """The modules that the functions of a recipe come from."""
    try:
        with RandomStates():
            recipe = recipe_of(())
    except Exception:
        return set()  # a failure of that arm, which a worker will tell
    parts = [recipe_of, *(getattr(recipe, field.name) for field in fields(recipe))]
    return {getattr(part, "__module__", None) or "" for part in parts if callable(part)}


def _importable(name: str) -> bool:
    """Whether an import by name finds the same file as here; a script is sent by value anyway."""
    if name == "__main__":
        return True
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin == getattr(sys.modules[name], "__file__", None)
