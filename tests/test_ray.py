"""The same jobs on a local Ray of two workers, one of which is killed in the middle of a training."""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from executed import STEPS, batches, numbers, recipe
from gradiometer.errors import InputError
from gradiometer.trials import on_ray
from gradiometer.trials.executors import SerialExecutor, executor_of
from gradiometer.trials.worker import Job

ray = pytest.mark.skipif(on_ray.find_spec("ray") is None, reason="Ray is not installed: pip install ray")

JOBS = [
    Job((), (0,), STEPS, watched=True),
    Job((), (1, 2), STEPS),
    Job(("adam",), (0, 1), STEPS),
    Job(("killed",), (0, 1), STEPS),
    Job(("raising",), (0,), STEPS),
]


def recipes(flag: Path, parent: int) -> Any:
    """A closure over closures, as no pickle takes them."""

    def killed_once(seed: int) -> Iterator[Any]:
        for i, batch in enumerate(batches(seed)):
            if i == 20 and os.getpid() != parent and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    def recipe_of(arm: tuple[str, ...], context: float = 0.0) -> Any:
        if arm == ("adam",):
            return recipe(optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02))
        if arm == ("killed",):
            return recipe(batches=killed_once)
        if arm == ("raising",):
            return recipe(loss=lambda outputs, targets: int("x"))
        if arm == ("told",):
            return recipe(evaluate=lambda model: context)
        return recipe()

    return recipe_of


@ray
def test_a_worker_is_killed_and_nothing_is_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe_of = recipes(tmp_path / "killed", os.getpid())
    with SerialExecutor("never").serve(recipe_of) as serial:
        wanted = numbers(serial.run(JOBS))
    with on_ray.RayExecutor(2, "never").serve(recipe_of) as executor:
        outcomes = list(executor.run(JOBS))
        assert (tmp_path / "killed").exists()
        assert executor.workers == 2
        found = numbers(sorted(outcomes, key=lambda o: JOBS.index(o.job)))
        assert repr(found) == repr(wanted)
        assert found[JOBS[3]][2] == ("", "")
        watched = next(o for o in outcomes if o.job.watched)
        assert watched.diagnosis is not None

        # The others were kept, contexts come later, and what is forgotten begins anew.
        executor.tell(3.5)
        executor.forget(("adam",))
        more = [Job(("told",), (0,), 3), Job(("adam",), (0, 1), STEPS), Job((), (1, 2), STEPS + 5)]
        again = {o.job: o for o in executor.run(more)}
        assert again[more[0]].scores == (3.5,)
        assert again[more[1]].losses == found[JOBS[2]][0]
        assert again[more[2]].steps == STEPS + 5
        late = list(executor.run([Job(("new",), (0,), STEPS)], deadline=time.monotonic() - 1))
        assert [(o.steps, o.failure) for o in late] == [(0, "")]
    written = capfd.readouterr()
    assert written.out + written.err == ""

    import ray as cluster

    assert not cluster.is_initialized()


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "gradiometer\[ray\]"'):
        executor_of("ray", lambda arm: recipe())


def test_a_file_that_a_worker_could_not_import_is_told_from_one_that_it_could(tmp_path: Path) -> None:
    module = types.ModuleType("a_recipe_of_somebody")
    module.__file__ = str(tmp_path / "a_recipe_of_somebody.py")
    sys.modules[module.__name__] = module
    try:
        assert not on_ray._importable(module.__name__)
        assert on_ray._importable("math")
        assert on_ray._importable("executed")
        assert on_ray._importable("__main__")
    finally:
        del sys.modules[module.__name__]
    assert "executed" in on_ray._homes(lambda arm: recipe())


def test_an_arm_that_cannot_even_be_made_is_left_to_the_workers() -> None:
    def recipe_of(arm: Any) -> Any:
        raise KeyError(arm)

    assert on_ray._homes(recipe_of) == set()
