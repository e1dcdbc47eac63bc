"""Whether the truth of the cases is true, in plain torch and without any instrument.

    python -m benchmarks.gauntlet.verify                # all cases, a line each
    python -m benchmarks.gauntlet.verify held_out/ lstm # those with one of these in their name

A sick training must fail: end with a score below ``good``, or be ``unlearned`` by its losses, or raise an exception.
Its healthy twin and every healthy training must not.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from dataclasses import dataclass

import torch
from benchmarks.gauntlet.catalogue import entries
from benchmarks.gauntlet.training import Case, Training


@dataclass(frozen=True)
class Plain:
    """A training without any instrument: its losses, its last score, and the exception that ended it, if one did."""

    losses: list[float]
    score: float
    error: str
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """The plain trainings of a case, the sick one only if there is one; ``invalid`` says what is wrong with it."""

    sick: Plain | None
    healthy: Plain
    invalid: str


def described(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def scored(training: Training) -> float:
    """The score, NaN if it cannot be taken: of a model that an exception has left half changed."""
    try:
        return float(training.score())
    except Exception:
        return math.nan


def train(training: Training) -> Plain:
    """Trains to the end or to the first exception, which then is part of the truth."""
    losses, error = [], ""
    start = time.perf_counter()
    try:
        for i in range(training.steps):
            losses.append(training.step(i))
    except Exception as raised:
        error = described(raised)
    return Plain(losses, scored(training), error, time.perf_counter() - start)


def failed(case: Case, plain: Plain) -> bool:
    """Whether this training did not do what it was made for; a score that is not a number is none."""
    spoilt = case.unlearned is not None and case.unlearned(plain.losses)
    return bool(plain.error) or not plain.score >= case.good or spoilt


def verify(case: Case) -> Verdict:
    """Trains what there is of a case and holds it against its truth."""
    sick = train(case.build(sick=True)) if case.kinds else None
    healthy = train(case.build(sick=False))
    invalid = []
    if sick is not None and not failed(case, sick):
        invalid.append(f"the sick one learns (score {sick.score:.2f})")
    if failed(case, healthy):
        why = healthy.error or f"score {healthy.score:.2f}"
        invalid.append(f"the {'twin' if case.kinds else 'healthy one'} fails ({why})")
    return Verdict(sick, healthy, ", ".join(invalid))


def quietly() -> None:
    """One thread, so that several processes do not take turns at the cores, and no warnings of sick trainings."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def _line(name: str, case: Case, verdict: Verdict) -> str:
    parts = []
    for role, plain in (("sick", verdict.sick), ("twin" if case.kinds else "healthy", verdict.healthy)):
        if plain is not None:
            parts.append(f"{role} {plain.error or f'{plain.score:.2f}'} in {plain.seconds:.1f} s")
    state = f"INVALID: {verdict.invalid}" if verdict.invalid else "valid"
    return f"{name:<60} good {case.good:.2f}  {',  '.join(parts)}  {state}"


def main(patterns: list[str]) -> int:
    """Prints a line a case; 1 if any is not valid or a file cannot be read."""
    quietly()
    found, broken = entries(patterns=patterns)
    wrong = len(broken)
    for text in broken:
        print(f"BROKEN {text}", flush=True)
    for entry in found:
        try:
            verdict = verify(entry.case)
        except Exception as error:  # not of a step, which is part of the truth, but of building the training
            wrong += 1
            print(f"BROKEN {entry.name}: {described(error)}", flush=True)
            continue
        wrong += bool(verdict.invalid)
        print(_line(entry.name, entry.case, verdict), flush=True)
    print(f"{len(found)} cases, {wrong} problems")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
