"""ReLU-like units that no example activates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gradiometer.records import Finding, Reading, Severity, SiteReading
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule, percent
from gradiometer.rules.blocked import blocked
from gradiometer.rules.depth import profiles
from gradiometer.rules.patience import PATIENCE, unwell
from gradiometer.rules.vanishing_gradient import cut_off

MOST = 0.7
NEARLY_ALL = 0.9

ALL_BUT = 0.97
"""Fraction of dead units that leaves a layer next to nothing to say; worth a word where it is not known what a constant
guess costs, and a loss may fall without the task being learned."""

EXAMPLES = 300
"""Values that must all have been zero: a unit that fires for one example in a hundred is then missed with a chance of
0.99^300 = 5 %, and ordinary sparsity is not taken for death. Of one unit; or, where a whole layer is
silent, of all its units together: with a tiny batch that says as much."""


def limit(units: int) -> float:
    """Fraction of dead units from which on a layer of this width is ill.

    In a deep ReLU network at birth all inputs look alike in the upper layers, so that each unit is on for all
    examples or off for all, with even chances, and comes alive again with training. The limit lies 3.3 standard
    deviations above that half (1 in 2,000), but never below `MOST`.

    Example:
        >>> limit(400), limit(4)
        (0.7, 1.0)
    """
    return min(max(MOST, 0.5 + 3.3 * 0.5 / math.sqrt(units)), 1.0)


def check(patient: Patient) -> list[Finding]:
    """One finding for all layers of which most units were zero for every example of the newest readings."""
    dead: dict[str, float] = {}
    seen: dict[str, int] = {}
    rows = {row.name: row for row in patient.last.sites if row.dead}
    last = blocked(patient)
    end = last.name if last is not None else None
    for row in rows.values():
        always, examples = _always_zero(patient.recent, row)
        fraction = len(always) / row.units
        enough = examples >= EXAMPLES or (fraction == 1 and (examples * row.units >= EXAMPLES or row.name == end))
        if enough and fraction >= limit(row.units):
            dead[row.name], seen[row.name] = fraction, examples
    if not dead:
        return []
    worst = sorted(dead, key=dead.__getitem__, reverse=True)
    whole = dead[worst[0]] >= NEARLY_ALL
    # A layer that is silent altogether, with no gradient below it, is beyond doubt, whatever the loss does meanwhile.
    silent = dead[worst[0]] == 1 and (cut_off(patient) or end in worst)
    first_look = patient.progress.learning is None and dead[worst[0]] == 1 and _blocked(patient)
    mute = patient.progress.guess is None and dead[worst[0]] >= ALL_BUT and len(patient.losses) >= PATIENCE
    doubt: Severity = "warning" if whole and (mute or unwell(patient)) else "info"
    severity = patient.severity(stalled="critical" if whole else "warning", unknown="info", learning=doubt)
    severity = "critical" if silent or first_look else severity
    row = rows[worst[0]]
    stuck = ", and cannot come back by themselves" if severity != "info" else ""
    many = f" The same holds for most units of {_others(len(dead) - 1)}." if len(dead) > 1 else ""
    return [
        Finding(
            kind="dead_units",
            severity=severity,
            sites=tuple(worst),
            evidence={
                "fraction": dead,
                "examples": seen[worst[0]],
                "units": row.units,
                "readings": len(patient.recent),
                "onset": _onset(patient, worst),
            },
            cause="biases or weights so far off that no input makes a unit positive: too large a step, or a bad start",
            explanation=(
                f"{percent(dead[worst[0]])} of the {row.units} units of {worst[0]} ({row.site.operation}) were zero "
                f"for every one of {seen[worst[0]]:,} examples: they pass no gradient{stuck}.{many}"
            ),
            remedies=(
                "a smaller learning rate, or warm-up",
                "LeakyReLU",
                "He initialization with zero biases",
                "batch normalization",
            ),
            wrong_if="the units come alive in batches that were not sampled, or are meant to wait (a sparse code)",
        )
    ]


def _others(count: int) -> str:
    return "1 other layer" if count == 1 else f"{count} other layers"


def _always_zero(readings: Sequence[Reading], row: SiteReading) -> tuple[frozenset[int], int]:
    """Units that were zero in the newest readings, and over how many examples: as few as say enough, and at least two.

    Only the newest, since a step that kills units may have come just before them.
    """
    always: frozenset[int] | None = None
    examples = count = 0
    for reading in reversed(readings):
        alike = next((r for r in reading.sites if r.name == row.name and r.dead is not None), None)
        if alike is not None:
            always = alike.dead_units() if always is None else always & alike.dead_units()
            examples, count = examples + alike.examples, count + 1
        silent = always is not None and len(always) == row.units and examples * row.units >= EXAMPLES
        if count >= 2 and (examples >= EXAMPLES or silent):
            break
    return always or frozenset(), examples


def _blocked(patient: Patient) -> bool:
    return any(profile.least == -math.inf for profile in profiles(patient, vanishing=True))


def _onset(patient: Patient, names: Sequence[str]) -> int:
    """The first step at which one of these layers was dead to this extent."""
    for reading in patient.readings:
        for row in reading.sites:
            if row.name in names and (row.dead or 0) / row.units >= limit(row.units):
                return reading.step
    return patient.last.step


def _unguessed(dead: float) -> Patient:
    """A loss that falls, of which it is not known what a constant guess costs."""
    made = cases.chain([1.0] * 5, "relu", loss="learning", dead=dead)
    readings = [replace(r, tasks=()) for r in made.recent]
    return Patient(readings, readings, made.losses)


_SMALL: dict[str, Any] = {"loss": "stalled", "units": 1, "examples": 8}

RULE = Rule(
    kind="dead_units",
    check=check,
    sick=(
        Case("a whole layer dead", cases.chain([1.0] * 5, "relu", loss="stalled", dead=1.0)),
        Case("three quarters dead, not learning", cases.chain([1.0] * 5, "relu", loss="stalled", dead=0.78)),
        Case("a silent layer at birth", cases.chain([1.0] * 3 + [0.0] + [1.0], "relu", loss="unknown", dead=1.0)),
        Case(
            "a silent layer and a loss that falls",
            cases.chain([1.0, 1.0, 1.0, 0.0, 1.0], "relu", loss="learning", dead=1.0),
        ),
        Case("a silent layer in batches of four", cases.chain([1.0] * 5, "relu", loss="stalled", dead=1.0, examples=4)),
        Case("nearly all dead, and a third learned", cases.chain([1.0] * 5, "relu", loss="little", dead=0.92)),
        Case("all but one unit dead, no guess known", _unguessed(0.98)),
        Case("an output of one unit that is always zero", cases.closed("relu", [0.0] * 3, **_SMALL)),
    ),
    healthy=(
        Case("ordinary sparsity", cases.chain([1.0] * 5, "relu", loss="stalled", dead=0.3)),
        Case("half off in a deep network at birth", cases.chain([1.0] * 40, "relu", loss="unknown", dead=0.55)),
        Case("most of a tiny batch", cases.chain([1.0] * 5, "relu", loss="stalled", dead=0.9, examples=8)),
        Case("most units off at birth", cases.chain([1.0] * 5, "relu", loss="unknown", dead=0.9)),
        Case("other units in every batch", cases.chain([1.0] * 5, "relu", loss="stalled", dead=0.8, moving=True)),
        Case("many dead, but learning", cases.chain([1.0] * 5, "relu", loss="learning", dead=0.8)),
        Case("many dead, and a third learned", cases.chain([1.0] * 5, "relu", loss="little", dead=0.8)),
        Case("nearly all dead, and most learned", cases.chain([1.0] * 5, "relu", loss="most", dead=0.92)),
        Case("nearly all dead, trained before", cases.chain([1.0] * 5, "relu", loss="trained", dead=0.92)),
        Case("nearly all dead, no guess known, learning", _unguessed(0.95)),
        Case("an output of one unit, zero in two small batches", cases.closed("relu", [0.1, 0.0, 0.0], **_SMALL)),
    ),
)
