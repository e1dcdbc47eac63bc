"""ReLU-like units that no example activates."""

from __future__ import annotations

import math

from gradiometer.records import Finding, SiteReading
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule, percent

MOST = 0.7
NEARLY_ALL = 0.9

EXAMPLES = 300
"""Values of a unit that must all have been zero: a unit that fires for one example in a hundred is then missed with
a chance of 0.99^300 = 5 %, and ordinary sparsity is not taken for death."""


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
    """One finding for all layers of which most units were zero for every example of all recent readings."""
    dead: dict[str, float] = {}
    rows: dict[str, SiteReading] = {}
    seen: dict[str, int] = {}
    for row in patient.last.sites:
        if row.dead:
            alike = [
                r for reading in patient.recent for r in reading.sites if r.name == row.name and r.dead is not None
            ]
            examples = sum(r.examples for r in alike)
            always = frozenset.intersection(*(r.dead_units() for r in alike))
            fraction = len(always) / row.units
            if examples >= EXAMPLES and fraction >= limit(row.units):
                dead[row.name], rows[row.name], seen[row.name] = fraction, row, examples
    if not dead:
        return []
    worst = sorted(dead, key=dead.__getitem__, reverse=True)
    whole = dead[worst[0]] >= NEARLY_ALL
    severity = patient.severity(stalled="critical" if whole else "warning", unknown="critical" if whole else "warning")
    row = rows[worst[0]]
    many = f" The same holds for most units of {len(dead) - 1} other layers." if len(dead) > 1 else ""
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
            },
            cause="biases or weights so far off that no input makes a unit positive: too large a step, or a bad start",
            explanation=(
                f"{percent(dead[worst[0]])} of the {row.units} units of {worst[0]} ({row.site.operation}) were zero "
                f"for every one of {seen[worst[0]]:,} examples: they pass no gradient, and cannot come back by "
                f"themselves.{many}"
            ),
            remedies=(
                "a smaller learning rate, or warm-up",
                "LeakyReLU",
                "He initialization with zero biases",
                "batch normalization",
            ),
        )
    ]


RULE = Rule(
    kind="dead_units",
    check=check,
    sick=(
        Case("a whole layer dead", cases.chain([1.0] * 5, "relu", loss="stalled", dead=1.0)),
        Case("three quarters dead, not learning", cases.chain([1.0] * 5, "relu", loss="stalled", dead=0.78)),
        Case("a whole layer dead at birth", cases.chain([1.0] * 5, "relu", loss="unknown", dead=1.0)),
    ),
    healthy=(
        Case("ordinary sparsity", cases.chain([1.0] * 5, "relu", loss="stalled", dead=0.3)),
        Case("half off in a deep network at birth", cases.chain([1.0] * 40, "relu", loss="unknown", dead=0.55)),
        Case("a tiny batch", cases.chain([1.0] * 5, "relu", loss="stalled", dead=1.0, examples=8)),
        Case("other units in every batch", cases.chain([1.0] * 5, "relu", loss="stalled", dead=0.8, moving=True)),
        Case("many dead, but learning", cases.chain([1.0] * 5, "relu", loss="learning", dead=0.8)),
    ),
)
