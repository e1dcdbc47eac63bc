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
    """The trainings of one recipe, by the first seed of their jobs.

    Those from seed 1 on count, which are the proof's; behind a seed that is missing none does. What only a watched
    training tells is that of seed 0, which stands for the arm as long as there are no others.
    """
    found: list[Outcome] = []
    for seed in sorted(outcomes):
        if seed and seed == 1 + sum(len(one.job.seeds) for one in found) and outcomes[seed].steps:
            found.append(outcomes[seed])
    first = outcomes.get(0)
    told = found or ([first] if first is not None else [])
    return Arm(
        steps=min((outcome.steps for outcome in told), default=0),
        losses=tuple(level(losses) for outcome in told for losses in outcome.losses),
        scores=tuple(math.nan if s is None else s for outcome in told for s in outcome.scores),
        seconds=sum(outcome.seconds for outcome in told),
        failure=next((outcome.failure for outcome in outcomes.values() if outcome.failure), ""),
        diagnosis=first.diagnosis if first is not None else None,
        stands=first is not None and first.facts is not None and first.facts.stands,
        gradient=first.gradient if first is not None else None,
    )


def late(losses: Sequence[float], steps: int) -> bool:
    """Whether a training went wrong after the first rung only."""
    early, end = level(losses[: max(1, round(FIRST * steps))]), level(losses)
    return not end <= early + WORSE * abs(early) and math.isfinite(early)


def level(losses: Sequence[float]) -> float:
    """The mean of the last tenth."""
    tail = losses[-max(1, len(losses) // 10) :]
    return fmean(tail) if tail else math.nan
