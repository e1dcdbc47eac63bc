"""Parameters that nobody moves: no optimizer holds them, they are switched off, or they take no part."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradiometer.records import Finding, ParameterReading, Reading, Severity
from gradiometer.rules.base import Patient, percent
from gradiometer.rules.drawn import as_drawn
from gradiometer.rules.patience import in_time, poorly, severity

MOST = 0.5
"""Share of a model's parameters from which on their standing still is what keeps it from learning."""

SEVERAL = 3
"""Readings from which on it is clear that parameters take no part, or that an optimizer will not come any more."""


def check(patient: Patient) -> list[Finding]:
    """What is held by no optimizer, what is switched off, and what no gradient ever reaches."""
    last = patient.last
    if not last.parameters:
        return []
    nothing = _all_frozen(patient) or _unmoved(patient)
    if nothing is not None:
        return [nothing]
    out = [_forgotten(patient), _frozen_as_drawn(patient), _unused(patient)]
    return [finding for finding in out if finding is not None]


def _size(parameters: Sequence[ParameterReading]) -> int:
    return sum(math.prod(p.parameter.shape) for p in parameters)


def share(reading: Reading, some: Sequence[ParameterReading]) -> float:
    """What part of the parameters of the models under watch these are."""
    whole = [p for p in reading.parameters if not _stranger(p)]
    return min(_size(some) / max(_size(whole), 1), 1.0)


def _stranger(p: ParameterReading) -> bool:
    """Whether an optimizer holds it, and no model under watch has it."""
    return p.name.startswith("param_groups[")


def _hidden(p: ParameterReading) -> bool:
    """Whether no module knows it: it lies in a plain list or dictionary, or outside."""
    return not _stranger(p) and ("[" in p.name or p.name == "a parameter outside every model")


def _rest(patient: Patient, some: Sequence[ParameterReading]) -> set[str]:
    """Of these, the names of those that were the same in all readings: nobody else (an average, a copy) moves them."""
    seen: dict[str, set[float]] = {p.name: set() for p in some}
    for reading in in_time(patient):
        for p in reading.parameters:
            if p.name in seen:
                seen[p.name].add(p.weight_rms)
    return {name for name, values in seen.items() if len(values) == 1}


def _at_work(patient: Patient) -> bool:
    """Whether an optimizer holds a parameter that a gradient reaches."""
    return any(p.parameter.optimizer >= 0 and p.grad_rms for p in patient.last.parameters)


def _all_frozen(patient: Patient) -> Finding | None:
    """An optimizer none of whose parameters can be trained."""
    held = [p for p in patient.last.parameters if p.parameter.optimizer >= 0]
    if not held or any(p.parameter.trainable for p in held):
        return None
    return _finding(
        patient,
        held,
        "critical" if patient.alone else "warning",
        "the optimizer holds frozen parameters only",
        "are all that the optimizer holds, and none of them can be trained (requires_grad is False)",
        ("requires_grad_(True) on what is to be trained, before the optimizer is made",),
        "the optimizer is not the one that is meant to train this model",
    )


def _unmoved(patient: Patient) -> Finding | None:
    """Gradients come, and no step changes anything: what steps is the optimizer of something else."""
    readings = [r for r in in_time(patient) if r.parameters]
    held = [p for r in readings for p in r.parameters if p.parameter.optimizer >= 0 and p.parameter.trainable]
    moved = [p.update_rms for p in held if p.grad_rms and p.parameter.dtype == "float32"]
    if len(readings) < SEVERAL or not moved or any(moved) or any(p.parameter.dtype != "float32" for p in held):
        return None
    return _finding(
        patient,
        [p for p in patient.last.parameters if p.parameter.optimizer >= 0 and p.parameter.trainable],
        severity(patient, stalled="critical", unknown="warning"),
        "no step moves a parameter",
        f"get a gradient, and in {len(readings)} readings no step has changed any of them",
        ("an optimizer made from the parameters of this model (not of a copy)", "a learning rate above 0"),
        "the steps come later (a long accumulation, a warmup that begins at 0)",
    )


def _forgotten(patient: Patient) -> Finding | None:
    """Trainable parameters that get a gradient, and that no optimizer holds."""
    lost = [p for p in patient.last.parameters if p.parameter.trainable and p.parameter.optimizer < 0 and p.grad_rms]
    still = _rest(patient, lost)
    lost = [p for p in lost if p.name in still]
    if not lost:
        return None
    last = patient.last
    strangers = [p for p in last.parameters if _stranger(p) and p.grad_rms is None and p.parameter.trainable]
    part, scheme = share(last, lost), as_drawn(lost)
    stale, hidden = bool(strangers), all(_hidden(p) for p in lost)
    unknown: Severity = "info"
    if not _at_work(patient):
        unknown = "critical" if stale or len(in_time(patient)) >= SEVERAL else "info"
    elif stale or (hidden and scheme is not None):
        unknown = "warning"
    stalled: Severity = "critical" if part >= MOST or stale or hidden else "warning"
    learns: Severity = "warning" if poorly(patient) and (stale or scheme is not None) else "info"
    severe = severity(patient, stalled=stalled, unknown=unknown, learns=learns)
    cause, why = "parameters that no optimizer holds", ""
    remedies = ("an optimizer made from model.parameters(), after the model is complete",)
    if hidden:
        cause = "weights that the model does not know of"
        why = ": they are no parameters of the model"
        remedies = ("nn.ModuleList in place of a Python list (nn.ModuleDict of a dict)",)
    elif stale:
        cause = "the optimizer was made before the model was changed"
        why = f", and the optimizer holds {len(strangers)} that the model does not have"
    drawn = f". They are as they were drawn ({scheme})" if scheme else ""
    return _finding(
        patient,
        lost,
        severe if patient.alone else "info",
        cause,
        f"get a gradient, and no optimizer holds them{why}{drawn}",
        (*remedies, "requires_grad_(False), if it is meant"),
        "another optimizer, that is not watched, moves them",
    )


def _frozen_as_drawn(patient: Patient) -> Finding | None:
    """Most of a network switched off, at the values at which it was drawn."""
    frozen = [p for p in patient.last.parameters if not p.parameter.trainable and not _stranger(p)]
    still = _rest(patient, frozen)
    frozen = [p for p in frozen if p.name in still]
    if not frozen or _is_twin(frozen, [p for p in patient.last.parameters if p.parameter.trainable]):
        return None
    part, scheme = share(patient.last, frozen), as_drawn(frozen)
    if part < MOST or scheme is None or not patient.alone or not _at_work(patient):
        return None
    return _finding(
        patient,
        frozen,
        severity(patient, stalled="critical", unknown="info", learns="info"),
        "layers frozen before they were trained",
        f"are frozen (requires_grad is False) at the scale at which {scheme} draws weights: nobody has trained them",
        ("pretrained weights loaded before freezing", "fewer layers frozen"),
        "random features are meant",
    )


def _is_twin(frozen: Sequence[ParameterReading], trained: Sequence[ParameterReading]) -> bool:
    """Whether they are one part of the model that equals another one, which is trained: a target network, a teacher."""
    own = {(name, p.parameter.shape) for p in trained for name in (p.name, p.name.partition(".")[2])}
    parts = {p.name.partition(".")[0] for p in frozen}
    return len(parts) == 1 and all((p.name.partition(".")[2], p.parameter.shape) in own for p in frozen)


def _unused(patient: Patient) -> Finding | None:
    """Parameters that an optimizer holds and that never got a gradient; those behind a cut are told elsewhere."""
    readings = in_time(patient)
    reached = {p.name for reading in readings for p in reading.parameters if p.grad_rms is not None}
    lost = [
        p
        for p in patient.last.parameters
        if p.parameter.optimizer >= 0 and p.parameter.trainable and p.name not in reached and not _stranger(p)
    ]
    behind = {row.parameter for reading in readings for row in reading.ledger if row.gain == 0}
    if len(readings) >= SEVERAL and not reached and any(row.grad_rms for r in readings for row in r.sites):
        return _cleared(patient, lost)
    if not lost or not reached or len(readings) < SEVERAL or any(p.name in behind for p in lost):
        return None
    part = share(patient.last, lost)
    return _finding(
        patient,
        lost,
        severity(patient, stalled="warning" if part >= MOST else "info", unknown="info"),
        "parameters that take no part in the loss",
        "are held by an optimizer, and no gradient has ever come to them: nothing that the loss depends on uses them",
        ("check that forward uses them", "leave them out, if they are left over"),
        "they are used in some steps only, that were not sampled",
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


def _cleared(patient: Patient, lost: Sequence[ParameterReading]) -> Finding | None:
    """Gradients come back through the network, and none is there when the optimizer steps."""
    return (
        _finding(
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


def _finding(
    patient: Patient,
    some: Sequence[ParameterReading],
    severe: Severity,
    cause: str,
    said: str,
    remedies: tuple[str, ...],
    wrong_if: str,
) -> Finding:
    largest = sorted(some, key=lambda p: -math.prod(p.parameter.shape))
    part = share(patient.last, some)
    tensors = f"{len(some)} tensor{'s' if len(some) > 1 else ''}"
    start = f"Parameters such as {largest[0].name} ({tensors}, {percent(part)} of the model)"
    return Finding(
        kind="frozen_parameters",
        severity=severe,
        sites=tuple(p.name for p in largest),
        evidence={
            "step": patient.last.step,
            "onset": in_time(patient)[0].step,
            "share_of_parameters": part,
            "parameters": len(some),
        },
        cause=cause,
        explanation=f"{start} {said}.",
        remedies=remedies,
        wrong_if=wrong_if,
    )
