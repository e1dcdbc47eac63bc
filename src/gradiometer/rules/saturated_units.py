"""Sigmoid and tanh units sit in their flat part."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from gradiometer.records import Finding, Reading, SiteReading
from gradiometer.rules import cases, vanishing_gradient
from gradiometer.rules.base import RECENT, Case, Patient, Rule, gain, percent
from gradiometer.rules.depth import profiles, takes_part
from gradiometer.rules.progress import LITTLE

MOST = 0.5
"""Fraction of a layer's values on the flat part: half the examples then teach the average unit nothing."""

NEARLY_ALL = 0.9
"""Fraction of a layer's values on the flat part that leaves nothing to the average unit."""


SQUASHING = frozenset({"sigmoid", "tanh", "hardtanh", "hardsigmoid", "softsign"})


def check(patient: Patient) -> list[Finding]:
    """One finding for all hidden layers whose values lie on the flat part, none where the training learns well."""
    # An output is flat where the network is sure; where that costs more than a constant guess it is sure of what is
    # wrong, and has no gradient to find out.
    astray = (
        patient.progress.learning is False and patient.progress.guess is not None and patient.progress.gap < -LITTLE
    )
    sites = {row.name: row for row in squashing(patient.last, outputs=astray)}
    fractions = {name: _recent(patient, name) for name in sites}
    seen = {name: s for name, s in fractions.items() if s >= MOST}
    if not seen:
        return []
    worst = sorted(seen, key=seen.__getitem__, reverse=True)
    strong = seen[worst[0]] >= NEARLY_ALL
    severity = patient.severity(stalled="critical" if strong else "warning", unknown="info")
    # Before anything is known of the loss, flat units matter where they keep the gradient from the first layers.
    lost = [p for p in profiles(patient, vanishing=True) if p.least <= vanishing_gradient.CRITICAL]
    if patient.progress.learning is None and lost and not takes_part(patient):
        severity = "critical"
    if severity == "info" and not strong:
        return []
    row = sites[worst[0]]
    passed = gain(patient.last, row)
    told = f" Of the gradient that arrives there {percent(min(passed, 1.0))} passes." if passed is not None else ""
    many = f", and more than half in {len(seen)} of {len(sites)} such layers" if len(seen) > 1 else ""
    return [
        Finding(
            kind="saturated_units",
            severity=severity,
            sites=tuple(worst),
            evidence={
                "saturation": seen,
                "gain": passed,
                "onset": _onset(patient, worst),
                "rms": row.rms,
                "mean": row.mean,
                "layers_saturated": len(seen),
                "layers_that_can": len(sites),
            },
            cause=f"the inputs of the {row.site.operation} are too large: weights or inputs of too large a scale",
            explanation=(
                f"{percent(seen[worst[0]])} of the values of {worst[0]} ({row.site.operation}) lie where its "
                f"derivative is below 1 % of its maximum{many}.{told}"
            ),
            remedies=(
                "Xavier initialization",
                "standardized inputs",
                "batch normalization before the activation",
                "ReLU",
            ),
            wrong_if="the units are meant to be on or off (a gate, a binary code) and the loss falls",
        )
    ]


def squashing(reading: Reading, *, outputs: bool = False) -> list[SiteReading]:
    """Squashing activations inside the network, and at its output if that is asked for.

    One after the last weights is an output, which is flat where the network is sure; one that is multiplied with
    another signal is a gate, and a gate is meant to be open or shut.
    """
    last = {row.site.model: i for i, row in enumerate(reading.sites) if row.site.cause == "weights"}
    return [
        row
        for i, row in enumerate(reading.sites)
        if row.saturation is not None
        and row.site.operation in SQUASHING
        and not row.gates
        and (outputs or i < last.get(row.site.model, -1))
    ]


def _onset(patient: Patient, names: Sequence[str]) -> int:
    """The first step at which one of these layers was flat to this extent."""
    for reading in patient.readings:
        if any(row.name in names and (row.saturation or 0) >= MOST for row in reading.sites):
            return reading.step
    return patient.last.step


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
        Case("an output that is sure of what is wrong", cases.output("sigmoid", saturation=0.99, loss="worse")),
        Case("half of it flat, not learning", cases.chain([0.5] * 5, "tanh", loss="stalled", saturation=0.6)),
    ),
    healthy=(
        Case(
            "flat at birth, but the gradient arrives", cases.chain([0.9] * 5, "tanh", loss="unknown", saturation=0.97)
        ),
        Case("at birth", cases.chain([0.9] * 5, "tanh", loss="unknown", saturation=0.02)),
        Case(
            "trained units that have decided, learning", cases.chain([0.9] * 5, "tanh", loss="learning", saturation=0.6)
        ),
        Case("an output that is sure", cases.output("sigmoid", saturation=0.99, loss="learning")),
        Case("gates of a squeeze-and-excitation block", cases.gate("sigmoid", saturation=0.99, loss="stalled")),
        Case("ReLU cannot saturate", cases.chain([1.0] * 5, "relu", loss="stalled")),
    ),
)
