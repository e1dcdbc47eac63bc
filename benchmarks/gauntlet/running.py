"""Runs a case: plain, under watch, and under the eyes of the peers, sick and healthy."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmarks.gauntlet.catalogue import find
from benchmarks.gauntlet.observing import observe
from benchmarks.gauntlet.outcome import Alarm, Outcome, Result, Role
from benchmarks.gauntlet.peers import PEERS
from benchmarks.gauntlet.training import Case, Training
from benchmarks.gauntlet.verify import Plain, described, verify

import gradiometer as gm

OURS = "gradiometer"


@dataclass
class Looks:
    """The diagnoses of one run, made again and again while it grows."""

    last: tuple[Alarm, ...] = ()
    history: dict[str, Alarm] = field(default_factory=dict)
    crash: str = ""
    seconds: float = 0.0

    def look(self, watch: gm.watch, step: int) -> None:
        """Diagnoses what there is after so many steps; an error of the diagnosis must not end the training."""
        start = time.perf_counter()
        try:
            serious = [finding for finding in gm.diagnose(watch.run) if finding.severity != "info"]
        except Exception as error:
            self.crash, serious = f"diagnose after {step} steps: {described(error)}", []
        self.last = tuple(Alarm(f.kind, (f.kind,), step, tuple(f.sites), f.explanation) for f in serious)
        for alarm in self.last:
            self.history.setdefault(alarm.name, alarm)
        self.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Watched:
    """A training under watch."""

    losses: list[float]
    error: str
    outcome: Outcome
    seconds: float
    diagnosing: float


def watched(training: Training, every: int | None = None) -> Watched:
    """Trains under watch and diagnoses after 1, 2, 4, 8, ... steps and at the end."""
    losses: list[float] = []
    looks, watch, error = Looks(), None, ""
    start = time.perf_counter()
    try:
        with gm.watch(training.model, training.optimizer, every=every) as watch:
            for i in range(training.steps):
                losses.append(training.step(i))
                if (i + 1).bit_count() == 1:
                    looks.look(watch, i + 1)
    except Exception as raised:  # as a rule that of the training; whether it is ours is seen beside the plain one
        error = described(raised)
    seconds = time.perf_counter() - start - looks.seconds
    if watch is not None:
        looks.look(watch, len(losses) + bool(error))
    else:
        looks.crash = f"refused to watch: {error}"
    outcome = Outcome(looks.last, tuple(looks.history.values()), looks.crash)
    return Watched(losses, error, outcome, seconds, looks.seconds)


def difference(plain: Plain, losses: list[float], error: str) -> str:
    """In what a training under an instrument was not bit for bit the plain one."""
    for i, (a, b) in enumerate(zip(plain.losses, losses, strict=False)):
        if not (a == b or (a != a and b != b)):
            return f"loss of step {i} is {b!r} and was {a!r}"
    if len(losses) != len(plain.losses) or error != plain.error:
        return f"ended after {len(losses)} steps ({error or 'no error'}), not {len(plain.losses)}"
    return ""


def _result(
    name: str, case: Case, role: Role, plain: Plain, invalid: str, every: int | None, with_peers: bool
) -> Result:
    sick = role == "sick"
    training = case.build(sick=sick)
    ours = watched(training, every)
    outcomes = {OURS: ours.outcome}
    refused = ours.outcome.crash and not ours.losses
    differs = {"under watch": "" if refused else difference(plain, ours.losses, ours.error)}
    if with_peers:
        seen = observe(case.build(sick=sick))
        differs["under the peers' hooks"] = difference(plain, seen.losses, seen.error)
        for peer, rules in PEERS.items():
            alarms = tuple(rules(seen, case.good))
            outcomes[peer] = Outcome(alarms, alarms)
    return Result(
        half=name.split("/")[0],
        name=name,
        role=role,
        steps=training.steps,
        kinds=case.kinds if sick else (),
        also=case.also if sick else (),
        sites=case.sites if sick else None,
        invalid=invalid,
        error=plain.error,
        differs=", ".join(f"{where}: {what}" for where, what in differs.items() if what),
        seconds=(plain.seconds, ours.seconds, ours.diagnosing),
        outcomes=outcomes,
    )


def run_case(name: str, every: int | None = None, with_peers: bool = True) -> list[Result]:
    """All trainings of the case of this name: the sick one and its twin, or the healthy one."""
    case = find(name).case
    verdict = verify(case)
    results = []
    if verdict.sick is not None:
        results.append(_result(name, case, "sick", verdict.sick, verdict.invalid, every, with_peers))
    role: Role = "twin" if case.kinds else "healthy"
    results.append(_result(name, case, role, verdict.healthy, verdict.invalid, every, with_peers))
    return results
