"""Parameters that nobody moves: no optimizer holds them, or they are switched off."""

from __future__ import annotations

from collections.abc import Sequence

from gradiometer.records import Finding, ParameterReading, Severity
from gradiometer.rules import unreached_parameters
from gradiometer.rules.base import Patient
from gradiometer.rules.drawn import as_drawn
from gradiometer.rules.patience import in_time, poorly, severity
from gradiometer.rules.standing import MOST, SEVERAL, finding, share, stranger

FEW = 100
"""Elements that say whether weights are as they were drawn where a gradient comes and no optimizer holds them: their
scale is then known to a fifth, and what was left out on purpose was trained before, to another scale."""


def check(patient: Patient) -> list[Finding]:
    """What is held by no optimizer, what is switched off, and what no gradient ever reaches."""
    last = patient.last
    if not last.parameters:
        return []
    nothing = _all_frozen(patient) or _unmoved(patient)
    if nothing is not None:
        return [nothing]
    out = [_forgotten(patient), _frozen_as_drawn(patient), unreached_parameters.unused(patient)]
    return [told for told in out if told is not None]


def _hidden(p: ParameterReading) -> bool:
    """Whether no module knows it: it lies in a plain list or dictionary, or outside."""
    return not stranger(p) and ("[" in p.name or p.name == "a parameter outside every model")


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
    return finding(
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
    if all(r.learning_rate == 0 for r in readings):
        return None  # told as a training that stalls by its learning rate
    return finding(
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
    strangers = [p for p in last.parameters if stranger(p) and p.grad_rms is None and p.parameter.trainable]
    part, scheme = share(last, lost), as_drawn(lost, enough=FEW)
    stale, hidden = bool(strangers), all(_hidden(p) for p in lost)
    thawed = _thawed(patient, lost)
    unknown: Severity = "info"
    if not _at_work(patient):
        unknown = "critical" if stale or len(in_time(patient)) >= SEVERAL else "info"
    elif stale or (hidden and scheme is not None):
        unknown = "warning"
    stalled: Severity = "critical" if part >= MOST or stale or hidden else "warning"
    # That the first layers alone are left out may be meant: what was trained elsewhere stays as it is.
    drawn_within = scheme is not None and (poorly(patient) or _within(patient, lost))
    learns: Severity = "warning" if stale or thawed or (hidden and scheme is not None) or drawn_within else "info"
    severe = severity(patient, stalled=stalled, unknown=unknown, learns=learns)
    cause, why = "parameters that no optimizer holds", ""
    remedies = ("an optimizer made from model.parameters(), after the model is complete",)
    if hidden:
        cause = "weights that the model does not know of"
        why = ": they are no parameters of the model"
        remedies = ("nn.ModuleList in place of a Python list (nn.ModuleDict of a dict)",)
    elif thawed:
        cause = "the optimizer was made before these parameters were switched on"
        remedies = ("optimizer.add_param_group for what is to be trained from now on",)
    elif stale:
        cause = "the optimizer was made before the model was changed"
        why = f", and the optimizer holds {len(strangers)} that the model does not have"
    drawn = f". They are as they were drawn ({scheme})" if scheme else ""
    return finding(
        patient,
        lost,
        severe if patient.alone else "info",
        cause,
        f"get a gradient, and no optimizer holds them{why}{drawn}",
        (*remedies, "requires_grad_(False), if it is meant"),
        "another optimizer, that is not watched, moves them",
    )


def _thawed(patient: Patient, lost: Sequence[ParameterReading]) -> bool:
    """Whether they were switched off at first and are on now: somebody wants them trained."""
    names = {p.name for p in lost}
    return any(p.name in names and not p.parameter.trainable for r in patient.early for p in r.parameters)


def _within(patient: Patient, lost: Sequence[ParameterReading]) -> bool:
    """Whether something before them in the network is trained."""
    order = {row.name: i for i, row in enumerate(patient.last.sites)}
    held = [p for p in patient.last.parameters if p.parameter.optimizer >= 0 and p.parameter.trainable]
    first = min((i for p in held if (i := order.get(p.name.rpartition(".")[0])) is not None), default=None)
    last = max((i for p in lost if (i := order.get(p.name.rpartition(".")[0])) is not None), default=None)
    return first is not None and last is not None and first <= last


def _frozen_as_drawn(patient: Patient) -> Finding | None:
    """Most of a network switched off, at the values at which it was drawn."""
    frozen = [p for p in patient.last.parameters if not p.parameter.trainable and not stranger(p)]
    still = _rest(patient, frozen)
    frozen = [p for p in frozen if p.name in still]
    if not frozen or _is_twin(frozen, [p for p in patient.last.parameters if p.parameter.trainable]):
        return None
    part, scheme = share(patient.last, frozen), as_drawn(frozen)
    if part < MOST or scheme is None or not patient.alone or not _at_work(patient):
        return None
    return finding(
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
