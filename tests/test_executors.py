"""Jobs come to the same numbers wherever they are done, and whatever happens to who does them."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from executed import STEPS, Arms, drawn, numbers, recipe
from gradiometer.errors import InputError
from gradiometer.trials import dispatch, local
from gradiometer.trials import training as training_file
from gradiometer.trials.assignment import Assignment, Task
from gradiometer.trials.executors import SerialExecutor, executor_of
from gradiometer.trials.local import LocalExecutor
from gradiometer.trials.training import Training
from gradiometer.trials.worker import Job, Outcome, Worker, nothing

forks = pytest.mark.skipif(not local.can_fork(), reason="processes cannot be forked here")

JOBS = [
    Job((), (0,), STEPS, watched=True),
    Job((), (1, 2), STEPS),
    Job(("adam",), (0,), STEPS),
    Job(("global",), (0, 1), STEPS),
    Job(("noisy_score",), (3,), STEPS),
    Job(("unusable",), (0, 1), STEPS),
    Job(("unbuildable",), (0,), STEPS),
    Job(("raising",), (0, 1), STEPS),
    Job(("greedy",), (0,), STEPS),
    Job(("quitting",), (0,), STEPS),
    Job(("diverging",), (0,), STEPS),
]


@pytest.fixture
def arms(tmp_path: Path) -> Arms:
    return Arms(tmp_path)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    with SerialExecutor("never").serve(Arms(tmp_path_factory.mktemp("serial"))) as executor:
        return numbers(executor.run(JOBS))


def close(a: Any, b: Any) -> bool:
    """Equal, NaN with NaN."""
    return repr(a) == repr(b)


# -- the worker ---------------------------------------------------------------------------------------------------


def test_what_it_says_of_each_arm(serial: dict[Any, Any]) -> None:
    alone = Training(recipe(), 0)
    alone.advance(STEPS)
    losses, scores, failures, steps, gradient = serial[JOBS[0]]
    assert losses == (tuple(alone.losses),)
    assert scores == (alone.score(),)
    assert (failures, steps, gradient) == (("",), STEPS, alone.gradient)
    told = {job.arm: serial[job][2] for job in JOBS}
    assert told["unusable",] == ("there is no activation to change",) * 2
    assert told["unbuildable",][0].startswith("RuntimeError: ")
    assert told["raising",] == ("ValueError at step 20: invalid literal for int() with base 10: 'x'",) * 2
    assert told["greedy",] == ("MemoryError at step 20",)
    assert told["quitting",] == ("SystemExit: 3",)
    assert told["diverging",][0].startswith("the loss is nan from step")
    assert [len(row) for row in serial[JOBS[7]][0]] == [20, 20]


def test_a_training_is_taken_up_where_it_was_left(arms: Arms, serial: dict[Any, Any]) -> None:
    worker = Worker(arms, "never")
    drawn.clear()
    for until in (7, 25, STEPS):
        parts = [worker.advance(Job(job.arm, job.seeds, until, job.watched)) for job in JOBS[:3]]
    assert close(numbers(parts), {job: serial[job] for job in JOBS[:3]})
    assert drawn == {0: 2 * STEPS, 1: STEPS, 2: STEPS}
    assert len(arms.asked) == 2


def test_a_job_that_ends_before_where_its_training_is_begins_anew(arms: Arms) -> None:
    worker = Worker(arms, "never")
    worker.advance(Job((), (0, 1), 40))
    outcome = worker.advance(Job((), (0, 2), 30))
    assert close(numbers([outcome]), numbers([Worker(arms, "never").advance(Job((), (0, 2), 30))]))
    assert outcome.steps == 30


def test_trainings_of_one_arm_under_watch_and_not_are_two(arms: Arms) -> None:
    worker = Worker(arms)
    watched, plain = (worker.advance(Job((), (0,), 30, watched)) for watched in (True, False))
    assert watched.losses == plain.losses
    assert watched.diagnosis is not None
    assert watched.facts is not None
    assert watched.facts.early is not None
    assert watched.facts.early.step == 0
    assert plain.facts is None
    worker.close()  # its watch is open as long as the training may go on


def test_what_is_forgotten_is_gone(arms: Arms, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def kept(made: Any) -> Any:
        def build() -> Any:
            model = made()
            built.append(weakref.ref(model))
            return model

        return build

    plain = recipe()
    worker = Worker(lambda arm: recipe(model=kept(plain.model)), "never")
    for arm in ("a", "b"):
        worker.advance(Job((arm,), (0,), 5, watched=True))
        worker.advance(Job((arm,), (1, 2, 3), 45))
    held = [ref for ref in built if ref() is not None]
    worker.forget(("a",))
    assert 0 < sum(ref() is not None for ref in held) <= len(held) / 2
    worker.forget(("b",))
    assert not any(ref() is not None for ref in built)


def test_an_arm_that_runs_out_of_memory_leaves_its_room_to_others(arms: Arms) -> None:
    worker = Worker(arms, "never")
    worker.advance(Job(("greedy",), (0,), STEPS))
    assert not worker._held


def test_the_random_states_of_the_process_stay(arms: Arms) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    worker = Worker(lambda arm: (torch.rand(1), arms(arm))[1])
    for job in JOBS[:4]:
        worker.advance(job)
    assert torch.equal(before, torch.get_rng_state())


def test_what_a_remedy_draws_is_the_same_in_every_worker() -> None:
    def recipe_of(arm: Any) -> Any:
        scale = float(torch.rand(1))
        return recipe(evaluate=lambda model: scale)

    first = Worker(recipe_of).advance(Job(("a",), (0,), 1))
    torch.rand(7)
    assert Worker(recipe_of).advance(Job(("a",), (0,), 1)).scores == first.scores


def test_trainings_under_watch_do_not_hear_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = training_file.watch
    monkeypatch.setattr(training_file, "watch", lambda model, optimizer, budget: plain(model, optimizer, every=3))

    def readings(beside: bool) -> list[Any]:
        first, second, third = Training(recipe(), 0, watched=True), Training(recipe(), 1, watched=True), None
        third = Training(recipe(), 2)
        for until in range(2, 20, 2):
            first.advance(until)
            if beside:
                second.advance(until - 1)
                third.advance(until - 1)
        first.close()
        second.close()
        rows = [reading.to_dict() for reading in first.run.readings]
        return [{name: value for name, value in row.items() if name != "time"} for row in rows]

    assert close(readings(beside=True), readings(beside=False))


def test_an_outcome_travels(arms: Arms) -> None:
    outcome = Worker(arms).advance(JOBS[0])
    again = pickle.loads(pickle.dumps(outcome))
    assert close(numbers([again]), numbers([outcome]))
    assert again.diagnosis == outcome.diagnosis
    with pytest.raises(AttributeError):
        outcome.seconds = 0.0  # type: ignore[misc]


def test_before_the_first_step_nothing_is_known(arms: Arms) -> None:
    outcome = Worker(arms).advance(JOBS[1], deadline=time.monotonic() - 1)
    assert numbers([outcome]) == numbers([nothing(JOBS[1])])
    assert outcome.scores == (None, None)


# -- processes ----------------------------------------------------------------------------------------------------


@forks
def test_two_processes_come_to_the_same_numbers(arms: Arms, serial: dict[Any, Any]) -> None:
    with LocalExecutor(2, "never").serve(arms) as executor:
        jobs = [job for job in JOBS if job.arm != ("quitting",)]
        outcomes = list(executor.run(jobs))
    assert close(numbers(sorted(outcomes, key=lambda o: jobs.index(o.job))), {job: serial[job] for job in jobs})


@forks
def test_in_slices_and_after_forgetting(arms: Arms, serial: dict[Any, Any]) -> None:
    with LocalExecutor(2, "never").serve(arms) as executor:
        for until in (10, 30):
            list(executor.run([Job(job.arm, job.seeds, until, job.watched) for job in JOBS[:4]]))
        executor.forget(("adam",))
        outcomes = list(executor.run(JOBS[:4]))
    assert close(numbers(sorted(outcomes, key=lambda o: JOBS.index(o.job))), {job: serial[job] for job in JOBS[:4]})


@forks
def test_a_process_that_is_killed_costs_nothing(arms: Arms, serial: dict[Any, Any]) -> None:
    jobs = [*JOBS[:3], Job(("killed_once",), (0,), STEPS)]
    with LocalExecutor(2, "never").serve(arms) as executor:
        outcomes = list(executor.run(jobs))
    assert (arms.folder / "killed").exists()
    found = numbers(sorted(outcomes, key=lambda o: jobs.index(o.job)))
    assert close({job: found[job] for job in JOBS[:3]}, {job: serial[job] for job in JOBS[:3]})
    assert found[jobs[3]][:2] == (serial[JOBS[0]][0], serial[JOBS[0]][1])


@forks
def test_an_arm_that_is_killed_again_fails(arms: Arms, serial: dict[Any, Any]) -> None:
    jobs = [Job(("killed",), (0, 1), STEPS), *JOBS[:3]]
    with LocalExecutor(2, "never").serve(arms) as executor:
        found = numbers(executor.run(jobs))
    assert found.pop(jobs[0])[2] == ("its process was killed (signal 9): out of memory?",) * 2
    assert close({job: found[job] for job in JOBS[:3]}, {job: serial[job] for job in JOBS[:3]})


@forks
def test_a_process_killed_while_it_waits_is_replaced(arms: Arms, serial: dict[Any, Any]) -> None:
    with LocalExecutor(1, "never").serve(arms) as executor:
        list(executor.run([Job((), (1, 2), 20)]))
        [child] = executor._children.values()
        os.kill(child.pid, signal.SIGKILL)
        assert close(numbers(executor.run(JOBS[1:2])), {JOBS[1]: serial[JOBS[1]]})


@forks
def test_a_job_goes_where_its_training_is(arms: Arms) -> None:
    with LocalExecutor(2).serve(arms) as executor:
        first = {o.job.seeds: o.scores for o in executor.run([Job(("process",), (s,), 20) for s in range(6)])}
        again = {seeds: o.scores for seeds in first for o in executor.run([Job(("process",), seeds, 40)])}
    assert again == first


@forks
def test_what_is_told_reaches_every_process_also_a_new_one(arms: Arms) -> None:
    def recipe_of(arm: Any, context: float = 0.0) -> Any:
        if arm == ("killed_once",):
            return arms(arm)
        return recipe(evaluate=lambda model: context)

    with LocalExecutor(2).serve(recipe_of) as executor:
        before = [o.scores for o in executor.run([Job((), (s,), 5) for s in range(3)])]
        executor.tell(7.0)
        assert before == [(0.0,)] * 3
        after = executor.run([Job((f"{s}",), (0,), 5) for s in range(3)] + [Job(("killed_once",), (0,), STEPS)])
        assert sorted(o.scores for o in after)[1:] == [(7.0,)] * 3
        executor.tell(8.0)
        assert [o.scores for o in executor.run([Job((f"{s}",), (0,), 5) for s in range(3, 6)])] == [(8.0,)] * 3


@forks
def test_ctrl_c_is_for_the_parent(arms: Arms) -> None:
    with LocalExecutor(1).serve(arms) as executor:
        assert [o.scores for o in executor.run([Job(("deaf",), (0,), 1)])] == [(1.0,)]
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


@forks
def test_threads_of_the_parent_are_no_matter(arms: Arms, serial: dict[Any, Any]) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with LocalExecutor(2, "never").serve(arms) as executor:
            assert close(numbers(executor.run(JOBS[2:3])), {JOBS[2]: serial[JOBS[2]]})
    finally:
        done.set()
        thread.join()


@forks
def test_a_loader_with_processes_of_its_own(arms: Arms) -> None:
    with LocalExecutor(1).serve(arms) as executor:
        [outcome] = executor.run([Job(("loader",), (0,), 4)])
    assert outcome.failures == ("",)
    assert outcome.steps == 4


@forks
def test_nothing_is_left(arms: Arms) -> None:
    def pipes() -> int:
        return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0

    before = pipes()
    for _ in range(2):
        executor = LocalExecutor(2).serve(arms)
        list(executor.run([Job((), (s,), 5) for s in range(3)] + [Job(("killed",), (0,), STEPS)]))
        children = [child.pid for child in executor._children.values()]
        busy = executor.run([Job(("slow",), (s,), 10**6) for s in range(2)] + [Job((), (9,), 1)])
        executor._hear = lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            next(busy)
        assert len(executor.running) == 2
        executor.close()
        executor.close()
        for pid in children:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    assert pipes() == before


@forks
def test_an_executor_that_nobody_closes_ends_with_its_last_reference(arms: Arms) -> None:
    executor = LocalExecutor(1).serve(arms)
    list(executor.run([Job((), (0,), 2)]))
    [pid] = [child.pid for child in executor._children.values()]
    del executor
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


ORPHANS = """
import os, signal, sys, threading, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from executed import Arms
from gradiometer.trials.local import LocalExecutor
from gradiometer.trials.worker import Job

executor = LocalExecutor(2).serve(Arms(Path("/")))
list(executor.run([Job((), (s,), 3) for s in range(2)]))
print(*[child.pid for child in executor._children.values()], flush=True)
threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
list(executor.run([Job(("slow",), (0,), 10**6)]))
"""


@forks
def test_processes_end_when_their_parent_is_killed() -> None:
    script = ORPHANS.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


# -- deadlines and ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [SerialExecutor(), pytest.param(LocalExecutor(2), marks=forks)], ids=["s", "l"])
def test_every_job_has_an_outcome_when_the_time_is_up(executor: Any, arms: Arms) -> None:
    with executor.serve(arms):
        known = numbers(executor.run([Job((), (0,), 20)]))
        late = list(executor.run([Job((), (0,), STEPS), *JOBS[1:4]], deadline=time.monotonic() - 0.01))
    assert {o.job for o in late} == {Job((), (0,), STEPS), *JOBS[1:4]}
    assert next(o for o in late if o.job.seeds == (0,) and not o.job.arm).losses == known[Job((), (0,), 20)][0]
    assert all(o.steps == 0 and not o.failure for o in late if o.job in JOBS[1:4])


@forks
def test_a_deadline_between_two_steps(arms: Arms) -> None:
    with LocalExecutor(1).serve(arms) as executor:
        [outcome] = executor.run([Job(("slow",), (0,), 10**6)], deadline=time.monotonic() + 2)
    assert 0 < outcome.steps < 10**6
    assert outcome.failure == ""
    assert outcome.scores[0] is None  # nobody waits for an evaluation when the time is up


@forks
def test_a_step_that_does_not_end_is_not_waited_for(arms: Arms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "GRACE", 0.2)
    with LocalExecutor(1).serve(arms) as executor:
        jobs = [Job(("stuck",), (0,), STEPS), Job((), (0,), STEPS)]
        outcomes = {o.job: o for o in executor.run(jobs, deadline=time.monotonic() + 1.0)}
        assert outcomes[jobs[0]].failure.startswith("stopped: its step had not ended")
        assert outcomes[jobs[1]].steps == 0
        assert [o.steps for o in executor.run(jobs[1:])] == [STEPS]


@forks
def test_outcomes_that_nobody_waited_for_do_not_come_later(arms: Arms, serial: dict[Any, Any]) -> None:
    with LocalExecutor(2, "never").serve(arms) as executor:
        for outcome in executor.run([Job(("adam",), (5,), 1), *[Job(("slow",), (s,), 10) for s in range(4)]]):
            assert isinstance(outcome, Outcome)
            break
        assert close(numbers(executor.run(JOBS[2:3])), {JOBS[2]: serial[JOBS[2]]})


# -- where there are no processes ---------------------------------------------------------------------------------


def test_where_a_fork_is_not_safe_it_is_done_here(
    arms: Arms, serial: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", list)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: None)
    assert not local.can_fork()
    with LocalExecutor(2, "never").serve(arms) as executor:
        executor.tell(1)
        assert close(numbers(executor.run(JOBS[:3])), {job: serial[job] for job in JOBS[:3]})
        assert executor.workers == 1
        assert arms.asked[-1] == (("adam",), 1)


def test_a_daemon_must_have_no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert not local.can_fork()


def test_where_a_fork_fails_it_is_done_here(
    arms: Arms, serial: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", refuse, raising=False)
    with LocalExecutor(2, "never").serve(arms) as executor:
        assert close(numbers(executor.run(JOBS[:3])), {job: serial[job] for job in JOBS[:3]})


def test_words(arms: Arms) -> None:
    for word, kind in (("serial", SerialExecutor), ("local", LocalExecutor)):
        with executor_of(word, arms) as executor:
            assert isinstance(executor, kind)
            assert 1 <= executor.workers <= 8
    mine = SerialExecutor()
    assert executor_of(mine, arms) is mine
    with pytest.raises(InputError, match="'threads'"):
        executor_of("threads", arms)
    with pytest.raises(InputError, match="serves no recipe"):
        next(SerialExecutor().run(JOBS))


# -- who does what ------------------------------------------------------------------------------------------------


def assignment(pace: float, *held: tuple[int, str, int]) -> Assignment:
    """Workers that have taken arms to a step, at so many seconds a step."""
    found = Assignment()
    for worker, arm, steps in held:
        job = Job((arm,), (0,), steps)
        found.given(worker, job)
        found.ended(worker, Outcome(job, ((0.0,) * steps,), (None,), ("",), seconds=pace * steps))
    return found


def tasks(*arms: str, until: int = 100, began: float = math.nan) -> list[Task]:
    return [Task(Job((arm,), (0,), until), began) for arm in arms]


def test_first_what_it_holds_then_what_nobody_holds() -> None:
    who = assignment(1.0, (0, "a", 50), (1, "b", 50))
    waiting = tasks("new", "a", "b")
    assert who.choose(1, waiting, {}) is waiting[2]
    assert who.choose(2, waiting, {}) is waiting[0]
    assert who.choose(2, waiting[1:], {}) is None  # the others are free, and will take them
    assert who.choose(2, waiting, {}, anew=False) is None


def test_another_takes_it_only_if_it_ends_earlier() -> None:
    who = assignment(1.0, (0, "a", 50), (0, "long", 50))
    waiting = tasks("a")
    [soon] = tasks("long", until=60, began=time.monotonic())
    assert who.choose(1, waiting, {0: soon}) is None
    [later] = tasks("long", until=200, began=time.monotonic())
    assert who.choose(1, waiting, {0: later}) is waiting[0]
    who.given(1, waiting[0].job)
    assert who.holder(waiting[0].job) == 1
    who.lost(1)
    assert who.holder(waiting[0].job) is None
    who.forget(("long",))
    assert who.holder(later.job) is None
