"""Whether the cases of the cure are what they say, without any instrument.

    python -m benchmarks.cures.verify                       # all cases, a line each
    python -m benchmarks.cures.verify --half tuned lstm     # those of one half with one of these in their name

A sick recipe must end clearly below its healthy twin on every seed, and the twin must have learned; a healthy recipe
must have learned. Nothing is watched and nothing is prescribed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from benchmarks.cures.cases import Case
from benchmarks.cures.catalogue import HALVES, entries

from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.training import Training

SEEDS = (0, 1, 2)

SHARE = 0.8
"""A sick score below this share of the twin's mean is clearly below it."""

DEVIATIONS = 5.0
"""So is one that is this many standard deviations of the twin's seeds below their mean."""

LEARNED = 0.2
"""A mean score from which on a twin or a healthy recipe has learned: a constant guess has 0."""


@dataclass(frozen=True)
class Plain:
    """The trainings of a recipe, one a seed: scores, what ended them early, and seconds of one training."""

    scores: tuple[float, ...]
    failures: tuple[str, ...]
    seconds: float

    @property
    def known(self) -> list[float]:
        """The scores, the lowest there is for one that is no number."""
        return [score if math.isfinite(score) else -math.inf for score in self.scores]

    @property
    def unlearned(self) -> str:
        """Why these trainings are not those of a recipe that is well; empty if they are."""
        if any(self.failures):
            return f"fails ({next(filter(None, self.failures))})"
        mean = statistics.mean(self.known)
        return "" if mean >= LEARNED else f"does not learn (mean {mean:.2f})"


@dataclass(frozen=True)
class Verdict:
    """The trainings of a case, the sick ones only if there is a fault; ``invalid`` says what is wrong with it."""

    sick: Plain | None
    healthy: Plain
    invalid: str


def train(recipe: Recipe, seeds: Sequence[int] = SEEDS) -> Plain:
    """Trains a recipe from each seed to its end or its failure."""
    scores, failures, seconds = [], [], []
    for seed in seeds:
        training = Training(recipe, seed)
        training.advance(recipe.steps)
        score = training.score()
        scores.append(math.nan if score is None else score)
        failures.append(training.failure)
        seconds.append(training.seconds)
    return Plain(tuple(scores), tuple(failures), statistics.mean(seconds))


def clearly_below(sick: Plain, healthy: Plain) -> bool:
    """Whether every sick score lies below every healthy one, by a clear margin."""
    worst, mean, spread = max(sick.known), statistics.mean(healthy.known), statistics.pstdev(healthy.known)
    margin = worst < SHARE * mean or worst < mean - DEVIATIONS * spread
    return worst < min(healthy.known) and margin


def verify(case: Case, seeds: Sequence[int] = SEEDS) -> Verdict:
    """Trains what there is of a case and holds it against its truth."""
    sick = train(case.make(True), seeds) if case.kinds else None
    healthy = train(case.make(False), seeds)
    role = "the twin" if case.kinds else "it"
    invalid = [f"{role} {healthy.unlearned}"] if healthy.unlearned else []
    if not invalid and sick is not None and not clearly_below(sick, healthy):
        invalid.append("the sick one learns too well")
    return Verdict(sick, healthy, ", ".join(invalid))


def quietly() -> None:
    """One thread, so that several processes do not take turns at the cores, and no warnings of sick trainings."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def _line(name: str, case: Case, verdict: Verdict) -> str:
    parts = []
    for role, plain in (("sick", verdict.sick), ("twin" if case.kinds else "healthy", verdict.healthy)):
        if plain is not None:
            parts.append(f"{role} {' '.join(f'{s:5.2f}' for s in plain.scores)} in {plain.seconds:.1f} s")
    state = f"INVALID: {verdict.invalid}" if verdict.invalid else "valid"
    return f"{name:<64} {',  '.join(parts)}  {state}"


def main(arguments: list[str]) -> int:
    """Prints a line a case; 1 if any is not valid or a file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cures.verify", description=__doc__)
    parser.add_argument("--half", choices=HALVES, action="append", help="both if not given")
    parser.add_argument("patterns", nargs="*", help="part of a case's name, or a glob")
    chosen = parser.parse_args(arguments)
    quietly()
    found, broken = entries(chosen.half or HALVES, chosen.patterns)
    wrong = len(broken)
    for text in broken:
        print(f"BROKEN {text}", flush=True)
    for entry in found:
        try:
            verdict = verify(entry.case)
        except Exception as error:  # of building the training: what its steps raise is part of the truth
            wrong += 1
            print(f"BROKEN {entry.name}: {type(error).__name__}: {error}", flush=True)
            continue
        wrong += bool(verdict.invalid)
        print(_line(entry.name, entry.case, verdict), flush=True)
    print(f"{len(found)} cases, {wrong} problems")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
