"""From the outcomes of jobs to the records that are told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from gradiometer.records import Arm
from gradiometer.remedies.base import Group, Remedy
from gradiometer.trials.tournament import FIRST
from gradiometer.trials.worker import Outcome

WORSE = 0.1
"""Share of the loss by which it must have grown since the first rung for a training to have gone wrong late."""

WHERE: Mapping[Group, str] = {
    "data": "data", "activation": "activation", "connection": "connection", "normalization": "norm",
    "initialization": "init", "loss": "loss", "optimization": "steps",
}  # fmt: skip
"""In the table, what the remedies of a group change."""


def changes(remedy: Remedy) -> str:
    """What a remedy changes, in words."""
    return ", ".join(dict.fromkeys(WHERE[part.group] for part in remedy.parts or (remedy,)))


def arm(outcomes: Mapping[int, Outcome]) -> Arm:
    """The trainings of one recipe, by the first seed of their jobs; behind a seed that is missing none counts."""
    found: list[Outcome] = []
    for seed in sorted(outcomes):
        if not outcomes[seed].steps or seed != sum(len(one.job.seeds) for one in found):
            break
        found.append(outcomes[seed])
    first = found[0] if found else outcomes[0]
    return Arm(
        steps=min((outcome.steps for outcome in found), default=0),
        losses=tuple(level(losses) for outcome in found for losses in outcome.losses),
        scores=tuple(math.nan if s is None else s for outcome in found for s in outcome.scores),
        seconds=sum(outcome.seconds for outcome in found),
        failure=next((outcome.failure for outcome in outcomes.values() if outcome.failure), ""),
        diagnosis=first.diagnosis,
        gradient=first.gradient,
    )


def late(losses: Sequence[float], steps: int) -> bool:
    """Whether a training went wrong after the first rung only."""
    early, end = level(losses[: max(1, round(FIRST * steps))]), level(losses)
    return not end <= early + WORSE * abs(early) and math.isfinite(early)


def level(losses: Sequence[float]) -> float:
    """The mean of the last tenth."""
    tail = losses[-max(1, len(losses) // 10) :]
    return fmean(tail) if tail else math.nan
