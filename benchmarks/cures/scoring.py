"""One case, prescribed for and held against its healthy twin."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from time import perf_counter

from benchmarks.cures.cases import Case
from benchmarks.cures.verify import SEEDS, Plain, train

import gradiometer as gm
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.training import Training

DEVIATIONS = 2.0
"""Standard deviations of the twin's seeds below their mean, down to which a score is the twin's within its noise."""

LEAST = 0.01
"""The noise is taken to be at least this much of the twin's score: three seeds may agree by chance."""


@dataclass(frozen=True)
class Score:
    """What came of a case; ``repaired`` is ``None`` of a healthy recipe, to which nothing may be prescribed."""

    name: str
    kinds: tuple[str, ...]
    found: tuple[str, ...]
    cure: str | None
    twin: tuple[float, ...]
    cured: tuple[float, ...]
    untreated: tuple[float, ...]
    repaired: bool | None
    cost: float
    seconds: float
    reason: str


def noise(twin: Plain) -> float:
    """How far below the twin's mean a score may be and still be the twin's."""
    if twin.unlearned:
        raise ValueError(f"the twin {twin.unlearned}, so that nothing can be held against it")
    return max(DEVIATIONS * statistics.stdev(twin.known), LEAST * abs(statistics.mean(twin.known)))


def one_training(recipe: Recipe) -> float:
    """Seconds of one untreated training, built and run as a user would."""
    began = perf_counter()
    Training(recipe, 0).advance(recipe.steps)
    return perf_counter() - began


def score(name: str, case: Case, twin: Plain) -> Score:
    """Prescribes for the sick recipe, or for the healthy one where there is no fault."""
    recipe = case.make(bool(case.kinds))
    before = one_training(recipe)
    began = perf_counter()
    found = gm.prescribe(recipe, seeds=len(SEEDS), progress=False)
    seconds = perf_counter() - began
    cost = seconds / statistics.mean([before, one_training(recipe)])
    cure = found.record.cure
    cured = cure.treated.scores if cure is not None else ()
    reached = bool(cured) and statistics.mean(cured) >= statistics.mean(twin.known) - noise(twin)
    return Score(
        name=name,
        kinds=case.kinds,
        found=tuple(f.kind for f in found.diagnosis if f.severity != "info"),
        cure=found.record.best,
        twin=tuple(twin.known),
        cured=cured,
        untreated=found.untreated.scores,
        repaired=reached if case.kinds else None,
        cost=cost,
        seconds=seconds,
        reason=found.record.reason,
    )


def twin_of(case: Case) -> Plain:
    """The healthy twin's trainings."""
    return train(case.make(False))
