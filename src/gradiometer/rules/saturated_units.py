"""Sigmoid and tanh units sit in their flat part."""

from __future__ import annotations

from statistics import median

from gradiometer.records import Finding, Reading, SiteReading
from gradiometer.rules import cases
from gradiometer.rules.base import RECENT, Case, Patient, Rule, percent

MOST = 0.5
"""Fraction of a layer's values on the flat part: half the examples then teach the average unit nothing."""

NEARLY_ALL = 0.9

_SQUASHING = frozenset({"sigmoid", "tanh", "hardtanh", "hardsigmoid", "softsign"})


def check(patient: Patient) -> list[Finding]:
    """One finding for all hidden layers whose values lie on the flat part, none where the training learns well."""
    sites = {row.name: row for row in hidden(patient.last)}
    fractions = {name: _recent(patient, name) for name in sites}
    seen = {name: s for name, s in fractions.items() if s >= MOST}
    if not seen:
        return []
    worst = sorted(seen, key=seen.__getitem__, reverse=True)
    strong = seen[worst[0]] >= NEARLY_ALL
    severity = patient.severity(
        stalled="critical" if strong else "warning", unknown="critical" if strong else "warning"
    )
    if severity == "info" and not strong:
        return []
    row = sites[worst[0]]
    many = f", and more than half in {len(seen)} of {len(sites)} such layers" if len(seen) > 1 else ""
    return [
        Finding(
            kind="saturated_units",
            severity=severity,
            sites=tuple(worst),
            evidence={
                "saturation": seen,
                "rms": row.rms,
                "mean": row.mean,
                "layers_saturated": len(seen),
                "layers_that_can": len(sites),
            },
            cause=f"the inputs of the {row.site.operation} are too large: weights or inputs of too large a scale",
            explanation=(
                f"{percent(seen[worst[0]])} of the values of {worst[0]} ({row.site.operation}) lie where its "
                f"derivative is below 1 % of its maximum{many}: next to no gradient passes there."
            ),
            remedies=(
                "Xavier initialization",
                "standardized inputs",
                "batch normalization before the activation",
                "ReLU",
            ),
        )
    ]


def hidden(reading: Reading) -> list[SiteReading]:
    """Squashing activations inside the network.

    One after the last weights is an output, which is flat where the network is sure; one that is multiplied with
    something is a gate, and a gate is meant to be open or shut.
    """
    out = []
    for i, row in enumerate(reading.sites):
        later = [r for r in reading.sites[i + 1 :] if r.site.model == row.site.model]
        if row.saturation is None or row.site.operation not in _SQUASHING:
            continue
        if any(r.site.cause == "weights" for r in later) and not _is_gate(row, later):
            out.append(row)
    return out


def _is_gate(row: SiteReading, later: list[SiteReading]) -> bool:
    where = row.name.split(":")[0]
    parents = {where, where.rpartition(".")[0]}
    return any(r.site.operation in ("mul", "lerp", "addcmul") and r.name.split(":")[0] in parents for r in later)


def _recent(patient: Patient, name: str) -> float:
    values = [r.saturation for reading in patient.recent[-RECENT:] for r in reading.sites if r.name == name]
    known = [v for v in values if v is not None]
    return median(known) if known else 0.0


RULE = Rule(
    kind="saturated_units",
    check=check,
    sick=(
        Case("every layer flat", cases.chain([0.1] * 5, "tanh", loss="stalled", saturation=0.97)),
        Case("every layer flat, first reading", cases.chain([0.1] * 5, "sigmoid", loss="unknown", saturation=0.97)),
        Case("half of it flat, not learning", cases.chain([0.5] * 5, "tanh", loss="stalled", saturation=0.6)),
    ),
    healthy=(
        Case("at birth", cases.chain([0.9] * 5, "tanh", loss="unknown", saturation=0.02)),
        Case(
            "trained units that have decided, learning", cases.chain([0.9] * 5, "tanh", loss="learning", saturation=0.6)
        ),
        Case("an output that is sure", cases.output("sigmoid", saturation=0.99, loss="learning")),
        Case("gates of a squeeze-and-excitation block", cases.gate("sigmoid", saturation=0.99, loss="stalled")),
        Case("ReLU cannot saturate", cases.chain([1.0] * 5, "relu", loss="stalled")),
    ),
)
