"""Whether it learns, said with patience: what a careful reader concludes from the loss of a training."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import TypeVar

from gradiometer.records import Reading, Severity
from gradiometer.rules.base import RECENT, Patient
from gradiometer.rules.curve import curve, finite

PATIENCE = 100
"""Steps before which a loss that does not fall is no proof: a warmup, or Adam on badly scaled inputs, takes as many."""

POOR = 0.5
"""Share of a constant guess's loss that must be gone for a training to be well.

Learning is said from a fifth on: a head on features that nobody trains, or a layer of two different units, comes that
far. What reaches its task leaves half of the loss behind.
"""

WELL = 0.75
"""Share of it that must be gone before what would ruin any network, nearly all units of a layer flat or dead, passes
for what the task asks for. None of the 465 healthy trainings of the gauntlet has such a layer, whatever its loss."""

FLAT = 0.97
"""Loss of the last quarter over that of the one before, from which on it does not fall any more."""

T = TypeVar("T")


def learning(patient: Patient) -> bool | None:
    """As `Progress.learning`, but ``None`` of one that does not in its first `PATIENCE` steps, or falls steadily."""
    seen = patient.progress.learning
    if seen is False and not patient.failed and (len(patient.losses) < PATIENCE or patient.progress.steady):
        return None
    return seen


def poorly(patient: Patient) -> bool:
    """Whether it learns, and has stayed far from its task: so much patience is over, and most of the loss is there."""
    progress = patient.progress
    return progress.learning is True and len(patient.losses) >= PATIENCE and progress.gap < POOR


def unwell(patient: Patient) -> bool:
    """Whether it learns from its birth on, and a good part of the loss of a constant guess is left after patience.

    Where that is not known: of its beginning, and it does not fall any more.
    """
    progress = patient.progress
    if progress.learning is not True or progress.trained or len(patient.losses) < PATIENCE or progress.gap >= WELL:
        return False
    shape = curve(finite(patient.losses))
    return progress.guess is not None or (shape is not None and shape.parts[3] >= FLAT * shape.parts[2] > 0)


def severity(patient: Patient, *, stalled: Severity, unknown: Severity, learns: Severity = "info") -> Severity:
    """The severity for each of the three."""
    severities: dict[bool | None, Severity] = {False: stalled, None: unknown, True: learns}
    return severities[learning(patient)]


def in_time(patient: Patient) -> list[Reading]:
    """All readings that the patient has, each once, in the order of time."""
    return sorted({id(r): r for r in (*patient.ledgers, *patient.readings)}.values(), key=lambda r: r.step)


def newest(patient: Patient, what: Callable[[Reading], T | None]) -> list[T]:
    """Of the newest few readings that have it, since not every reading looks at everything."""
    found = [value for reading in reversed(in_time(patient)) if (value := what(reading)) is not None]
    return found[:RECENT][::-1]


def lasting(values: list[float], limit: float) -> bool:
    """Whether most of these values reach a limit; one odd batch is a spike and no state."""
    return bool(values) and median(values) >= limit
