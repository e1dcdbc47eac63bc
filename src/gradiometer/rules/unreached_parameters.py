"""Parameters that an optimizer holds, and to which no gradient comes, or no step."""

from __future__ import annotations

from collections.abc import Sequence

from gradiometer.records import Finding, ParameterReading
from gradiometer.rules.base import Patient
from gradiometer.rules.blocked import blocked
from gradiometer.rules.patience import in_time, severity
from gradiometer.rules.standing import MOST, SEVERAL, finding, share, stranger

LONG_GONE = 8
"""Newest readings without a gradient, after which it will not come back: a part that is used in every other step, or
in every third, has had its turn."""


def unused(patient: Patient) -> Finding | None:
    """Parameters that an optimizer holds and that never got a gradient; those behind a cut are told elsewhere."""
    readings = in_time(patient)
    reached = {p.name for reading in readings for p in reading.parameters if p.grad_rms is not None}
    lost = [
        p
        for p in patient.last.parameters
        if p.parameter.optimizer >= 0 and p.parameter.trainable and p.name not in reached and not stranger(p)
    ]
    behind = {row.parameter for reading in readings for row in reading.ledger if row.gain == 0}
    if len(readings) >= SEVERAL and not reached and any(row.grad_rms for r in readings for row in r.sites):
        return _cleared(patient, lost)
    if len(readings) >= SEVERAL and not reached and not any(p.update_rms for p in lost):
        return _unreached(patient, lost)
    if (zero := _all_zero(patient)) is not None:
        return zero
    gone = [] if lost else _no_more(patient)
    lost = lost or gone
    if not lost or not reached or len(readings) < SEVERAL or any(p.name in behind for p in lost):
        return None
    part = share(patient.last, lost)
    return finding(
        patient,
        lost,
        severity(patient, stalled="warning" if part >= MOST else "info", unknown="info"),
        "parameters that take no part in the loss",
        f"are held by an optimizer, and no gradient {'comes to them any more' if gone else 'has ever come to them'}: "
        "nothing that the loss depends on uses them",
        ("check that forward uses them", "leave them out, if they are left over"),
        "they are used in some steps only, that were not sampled",
    )


def _all_zero(patient: Patient) -> Finding | None:
    """A gradient comes to everything that is held, and is exactly zero everywhere, in every reading."""
    readings = [r for r in in_time(patient) if r.parameters]
    held = [p for r in readings for p in r.parameters if p.parameter.optimizer >= 0 and p.parameter.trainable]
    norms = [p.grad_rms for p in held if p.grad_rms is not None]
    half = any(p.parameter.dtype != "float32" for p in held) or any(row.lost is not None for row in patient.last.sites)
    if len(readings) < SEVERAL or not norms or any(norms) or half or blocked(patient) is not None:
        return None  # what underflow, or an activation that passes nothing, explains is told there
    return finding(
        patient,
        [p for p in patient.last.parameters if p.parameter.optimizer >= 0 and p.parameter.trainable],
        severity(patient, stalled="critical", unknown="warning", learns="info"),
        "a gradient that is exactly zero",
        f"get a gradient of exactly zero in all of {len(readings)} readings: they are multiplied by zero on their way "
        "to the loss",
        ("look for a factor of zero: an integer division, a mask, a scale that is zero",),
        "the loss is zero already",
    )


def _no_more(patient: Patient) -> list[ParameterReading]:
    """Parameters that had a gradient, and have none in the newest readings: something else stands in their place."""
    newest = patient.recent[-LONG_GONE:]
    still = {p.name for reading in newest for p in reading.parameters if p.grad_rms is not None}
    held = [p for p in patient.last.parameters if p.parameter.optimizer >= 0 and p.parameter.trainable]
    gone = [p for p in held if p.name not in still and not stranger(p)]
    return gone if len(newest) == LONG_GONE else []


def _cleared(patient: Patient, lost: Sequence[ParameterReading]) -> Finding | None:
    """Gradients come back through the network, and none is there when the optimizer steps."""
    return (
        finding(
            patient,
            lost,
            severity(patient, stalled="critical", unknown="critical", learns="info"),
            "the gradients are cleared between backward and step",
            "have no gradient when the optimizer steps, though one comes back through the network: zero_grad stands "
            "between backward and step",
            ("zero_grad before the backward pass, or after the step",),
            "the weights are changed by hand",
        )
        if lost
        else None
    )


def _unreached(patient: Patient, lost: Sequence[ParameterReading]) -> Finding | None:
    """The optimizer steps, and not one of its parameters has ever had a gradient."""
    if not lost:
        return None
    return finding(
        patient,
        lost,
        "critical" if patient.alone else "info",
        "backward never reaches the network",
        "have no gradient in any reading: what backward was called on does not lead back to the network, like a loss "
        "that was made anew (torch.tensor(loss), loss.item(), numpy)",
        ("backward on the loss itself", "losses joined by + or torch.stack, and not by torch.tensor"),
        "the weights are changed by hand",
    )


def never_stepped(notes: Sequence[str]) -> Finding | None:
    """The finding for a training whose optimizer never steps, as the notes of a run tell."""
    told = next((note for note in notes if note.startswith("backward was called") and note.endswith("stepped")), None)
    if told is None:
        return None
    return Finding(
        kind="frozen_parameters",
        severity="critical",
        sites=("optimizer",),
        evidence={"note": told, "onset": 0},
        cause="optimizer.step() is never called",
        explanation=f"No parameter ever moves: {told}.",
        remedies=("optimizer.step() after backward()",),
        wrong_if="the weights are changed by hand",
    )
