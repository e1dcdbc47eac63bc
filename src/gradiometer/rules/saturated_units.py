"""Sigmoid and tanh units sit in their flat part."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from gradiometer.records import Finding, Reading, Severity, SiteReading
from gradiometer.rules import cases, vanishing_gradient
from gradiometer.rules.base import RECENT, Case, Patient, Rule, gain, percent
from gradiometer.rules.blocked import blocked
from gradiometer.rules.depth import profiles, takes_part
from gradiometer.rules.patience import PATIENCE, unwell
from gradiometer.rules.progress import LITTLE

MOST = 0.5
"""Fraction of a layer's values on the flat part: half the examples then teach the average unit nothing."""

NEARLY_ALL = 0.9
"""Fraction of a layer's values on the flat part that leaves nothing to the average unit."""

ALL_BUT = 0.97
"""The same of every squashing layer that leaves next to nothing to any unit."""

SHUT = 1e-6
"""Gradient that passes a gate, below which it stays as it was drawn: a sigmoid at 14, where it is flat from 6 on."""

_GATES = ("sigmoid", "hardsigmoid")

_CLIPPED = ("relu6", "hardswish")
"""Flat where they are large, beside being zero where they are negative, which is no disease."""

SQUASHING = frozenset({"sigmoid", "tanh", "hardtanh", "hardsigmoid", "softsign", "rnn", "rnn_cell"})


def check(patient: Patient) -> list[Finding]:
    """One finding for all hidden layers whose values lie on the flat part, none where the training learns well."""
    # An output is flat where the network is sure; where that costs more than a constant guess it is sure of what is
    # wrong, and has no gradient to find out.
    astray = (
        patient.progress.learning is False and patient.progress.guess is not None and patient.progress.gap < -LITTLE
    )
    sites = {row.name: row for row in squashing(patient.last, outputs=astray)}
    fractions = {name: _recent(patient, name) for name in sites}
    for row in _shut_gates(patient):
        sites[row.name], fractions[row.name] = row, _recent(patient, row.name)
    end = blocked(patient)
    if end is not None and end.site.operation in (*SQUASHING, *_CLIPPED):  # an output or a gate as well
        sites[end.name], fractions[end.name] = end, 1.0
    seen = {name: s for name, s in fractions.items() if s >= MOST}
    if not seen:
        return []
    worst = sorted(seen, key=lambda name: (end is not None and name == end.name, seen[name]), reverse=True)
    strong = seen[worst[0]] >= NEARLY_ALL
    # Where no constant guess is known a loss may fall though nothing is learned.
    mute = patient.progress.guess is None and len(patient.losses) >= PATIENCE and min(fractions.values()) >= ALL_BUT
    doubt: Severity = "warning" if strong and (mute or unwell(patient)) else "info"
    severity = patient.severity(stalled="critical" if strong else "warning", unknown="info", learning=doubt)
    # Before anything is known of the loss, flat units matter where they keep the gradient from the first layers.
    lost = [p for p in profiles(patient, vanishing=True) if p.least <= vanishing_gradient.CRITICAL]
    closed = end is not None and end.name == worst[0]
    if closed or (patient.progress.learning is None and lost and not takes_part(patient)):
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

    One after the last weights is an output, which is flat where the network is sure; a sigmoid that is multiplied with
    another signal is a gate, and a gate is meant to be open or shut.
    """
    last = {row.site.model: i for i, row in enumerate(reading.sites) if row.site.cause == "weights"}
    return [
        row
        for i, row in enumerate(reading.sites)
        if row.saturation is not None
        and row.site.operation in SQUASHING
        and not (row.gates and row.site.operation in _GATES)
        and (outputs or i < last.get(row.site.model, -1))
    ]


def _shut_gates(patient: Patient) -> list[SiteReading]:
    """Gates that are shut (or open) so far from birth on that their weights get no gradient to learn when to open."""
    born = {row.name: row for row in (patient.early[0] if patient.early else patient.last).sites}
    gates = [row for row in patient.last.sites if row.gates and row.site.operation in _GATES]
    shut = []
    for row in gates:
        first, passed = born.get(row.name), gain(patient.last, row)
        flat = min((r.saturation or 0.0) if r is not None else 0.0 for r in (row, first))
        if flat >= NEARLY_ALL and passed is not None and passed <= SHUT:
            shut.append(row)
    return shut if 2 * len(shut) > len(gates) else []


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
        Case("nearly all flat, and a third learned", cases.chain([0.5] * 5, "tanh", loss="little", saturation=0.95)),
        Case("an output below which no gradient is left", cases.closed("sigmoid", [0.0] * 3, loss="learning")),
        Case("the same of a gate", cases.closed("sigmoid", [0.0] * 3, loss="learning", gates=True)),
        Case(
            "gates that are shut from birth on",
            cases.gate("sigmoid", saturation=0.95, passing=9e-7, shut=3, loss="stalled"),
        ),
        Case("what is multiplied by a gate", cases.gate("tanh", saturation=0.95, loss="stalled")),
        Case(
            "every layer flat, and a loss that falls from nobody knows where",
            cases.unguessed(cases.chain([0.5] * 5, "tanh", loss="learning", saturation=0.97)),
        ),
        Case("ReLU6 of inputs of a hundred", cases.closed("relu6", [0.0] * 3, loss="stalled")),
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
        Case("gates that let little pass", cases.gate("sigmoid", saturation=0.95, passing=2e-6, loss="stalled")),
        Case("half of the gates shut", cases.gate("sigmoid", saturation=0.95, passing=0.0, shut=2, loss="stalled")),
        Case(
            "gates that learned to be shut",
            cases.gate("sigmoid", saturation=0.95, passing=0.0, birth=0.1, loss="stalled"),
        ),
        Case(
            "gates shut from birth on, and it learns", cases.gate("sigmoid", saturation=0.95, passing=0.0, loss="most")
        ),
        Case("half of what is multiplied by a gate", cases.gate("tanh", saturation=0.45, loss="stalled")),
        Case(
            "nearly every unit flat, and a loss that falls from nobody knows where",
            cases.unguessed(cases.chain([0.5] * 5, "tanh", loss="learning", saturation=0.96)),
        ),
        Case(
            "every layer flat, and it is known what was learned",
            cases.chain([0.5] * 5, "tanh", loss="learning", saturation=0.97),
        ),
        Case("half of it flat, and a third learned", cases.chain([0.5] * 5, "tanh", loss="little", saturation=0.6)),
        Case("nearly all flat, and most learned", cases.chain([0.5] * 5, "tanh", loss="most", saturation=0.95)),
        Case("nearly all flat, trained before", cases.chain([0.5] * 5, "tanh", loss="trained", saturation=0.95)),
        Case(
            "an output that lets a gradient pass in one batch of three",
            cases.closed("sigmoid", [0.0, 1e-9, 0.0], loss="learning"),
        ),
        Case("a gate that lets little pass", cases.closed("sigmoid", [1e-9] * 3, loss="learning", gates=True)),
        Case(
            "ReLU6 below which nothing is left in the first two steps", cases.closed("relu6", [0.0] * 2, loss="stalled")
        ),
        Case("ReLU cannot saturate", cases.chain([1.0] * 5, "relu", loss="stalled")),
    ),
)
