"""From a reading or a run to a diagnosis."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gradiometer.config import ignored
from gradiometer.records import Diagnosis, Finding, Reading, Run
from gradiometer.rules import (
    attention_collapse,
    bad_initialization,
    clipping_bound,
    dead_units,
    diverging_loss,
    exploding_gradient,
    frozen_parameters,
    loss_spike,
    nonfinite,
    oscillating_loss,
    output_mismatch,
    rank_collapse,
    saturated_units,
    stalled_training,
    symmetric_units,
    underflow,
    unreached_parameters,
    unscaled_inputs,
    vanishing_gradient,
)
from gradiometer.rules.base import Patient, Rule
from gradiometer.rules.order import in_order
from gradiometer.rules.progress import ENOUGH
from gradiometer.rules.silence import silenced

RULES: tuple[Rule, ...] = (
    nonfinite.RULE,
    output_mismatch.RULE,
    unscaled_inputs.RULE,
    frozen_parameters.RULE,
    symmetric_units.RULE,
    underflow.RULE,
    clipping_bound.RULE,
    bad_initialization.RULE,
    attention_collapse.RULE,
    rank_collapse.RULE,
    dead_units.RULE,
    saturated_units.RULE,
    vanishing_gradient.RULE,
    exploding_gradient.RULE,
    loss_spike.RULE,
    oscillating_loss.RULE,
    diverging_loss.RULE,
    stalled_training.RULE,
)

_READINGS = 20
"""The newest readings of a training that are looked at."""


def diagnose(what: Reading | Run, *, ignore: Iterable[str] | None = None) -> Diagnosis:
    """Names the pathologies of a training, the cause before its consequences.

    Formula: every rule judges by what is free of scale: decades between layers, fractions of units, the loss
    against a constant guess. No threshold depends on width, depth, batch or the scale of the loss.

    Args:
        what: a `Reading`, or a `Run` that is finished or still growing.
        ignore: kinds of finding and patterns of sites that are not to be told, such as ``"dead_units"``,
            ``"encoder.*"`` or ``"dead_units:encoder.*"``. ``None`` takes what ``[tool.gradiometer]`` in
            ``pyproject.toml`` says, ``()`` silences nothing.

    Returns:
        A `Diagnosis`, a sequence of `Finding`; ``healthy`` is ``None`` when too little was recorded to say.

    Raises:
        TypeError: for anything else.
        InputError: for a kind that does not exist.

    Example:
        >>> from gradiometer.rules import cases
        >>> diagnosis = diagnose(cases.chain([0.2] * 12, "sigmoid", loss="stalled").last)
        >>> diagnosis.healthy, diagnosis[0].kind, diagnosis[0].sites[0]
        (False, 'vanishing_gradient', 'fc0')

    Source:
        Bengio, Simard and Frasconi, Learning long-term dependencies with gradient descent is difficult (1994);
        Glorot and Bengio (2010), section 4.
    """
    if isinstance(what, Reading):
        run = Run(readings=(what,), steps=what.step + 1)
    elif isinstance(what, Run):
        run = what
    else:
        raise TypeError(f"diagnose takes a Reading or a Run, not {type(what).__name__}: watch.run, or gm.load(path)")
    return silenced(_diagnosis(run), *ignored(ignore))


def _diagnosis(run: Run) -> Diagnosis:
    told = (output_mismatch.ended(run.notes), unreached_parameters.never_stepped(run.notes))
    ended = [f for f in told if f is not None]
    reason = _missing(run)
    if reason and not ended:
        return Diagnosis((), _subject(run), conclusive=False, reason=reason)
    patients = list(_patients(run))
    found = in_order([*ended, *(finding for patient in patients for finding in _examine(patient))])
    whole = any(reading.sites for patient in patients for reading in patient.recent)
    if any(finding.severity != "info" for finding in found):
        return Diagnosis(tuple(found), _subject(run), conclusive=whole)
    if not whole:
        reason = 'Only parameters were watched: gradients by depth and activations need level="full".'
        return Diagnosis(tuple(found), _subject(run), conclusive=False, reason=reason)
    return Diagnosis(tuple(found), _subject(run), reason=_remark(patients))


def _remark(patients: Sequence[Patient]) -> str:
    """What a reader should know before taking the absence of findings for health."""
    for patient in patients:
        seen = patient.progress
        if seen.learning is False and seen.initial is not None and seen.current is not None and len(patients) == 1:
            if seen.little:
                return (
                    f"Little has been learned so far: the loss is {seen.current:.3g}, and that of a constant guess "
                    f"{seen.guess or 0:.3g}."
                )
            return (
                f"The loss does not fall ({seen.initial:.3g} at first, {seen.current:.3g} now), and the gradients "
                "do not say why: none of the pathologies known so far is seen."
            )
    few = max((len(patient.losses) for patient in patients), default=0)
    if not few:
        return "From one reading it cannot be told whether it learns."
    return f"After {few} steps it cannot be told yet whether it learns." if few < ENOUGH else ""


def _examine(patient: Patient) -> Iterable[Finding]:
    broken = nonfinite.RULE.check(patient)
    yield from broken
    # What led to a NaN is seen in the readings before it; those after it say nothing any more.
    whole = nonfinite.without(patient) if broken else patient
    if not whole.recent:
        # What the very first loss compared is known even if it had no value.
        first = min(patient.readings, key=lambda r: r.step, default=None)
        if first is not None:
            yield from output_mismatch.RULE.check(replace(whole, recent=[first]))
        return
    # With a learning rate of zero any network stands still: then the others judge as if the loss were not known.
    unjudged = replace(whole, losses=()) if stalled_training.idle(whole) else whole
    for rule in RULES:
        if rule is not nonfinite.RULE:
            yield from rule.check(whole if rule is stalled_training.RULE else unjudged)


def _missing(run: Run) -> str:
    if not len(run.readings):
        return (
            "Nothing was recorded: no training step came to its end inside the block `with gm.watch(...)`. A step ends "
            "with optimizer.step(); a gradient is seen when backward() is called on what a model under watch gave."
        )
    last = run.readings[-1]
    gradient = any(row.grad_rms is not None for row in last.sites) or any(
        p.grad_rms is not None for p in last.parameters
    )
    if gradient or last.loss is not None:
        return ""
    return "No gradient was seen: backward() was never called on what a model under watch gave."


def _patients(run: Run) -> Iterable[Patient]:
    """One for each optimizer; only the beginning and the end of its readings are read."""
    total = len(run.readings)
    early = [run.readings[i] for i in range(min(_READINGS, total))]
    late = [run.readings[i] for i in range(max(0, total - 4 * _READINGS), total)]
    numbers = sorted({r.optimizer for r in (*early, *late)})
    for number in numbers:
        recent = [r for r in late if r.optimizer == number][-_READINGS:]
        first = [r for r in early if r.optimizer == number]
        if recent or first:
            losses = run.losses(number)
            broken = next((step for step, loss in losses if not math.isfinite(loss)), None)
            turning = _around(run.readings, broken, number) if broken is not None else ()
            ledgers = [r for r in (*early, *late) if r.optimizer == number and r.ledger]
            yield Patient(first, recent or first, losses, turning, alone=len(numbers) == 1, ledgers=ledgers)


def _around(readings: Sequence[Reading], step: int, optimizer: int) -> list[Reading]:
    """A few readings before and after a step, found by halving, since each has to be read from the file."""
    middle = bisect_left(readings, step, key=lambda r: r.step)
    nearby = [readings[i] for i in range(max(0, middle - 8), min(len(readings), middle + 8))]
    return [r for r in nearby if r.optimizer == optimizer]


def _is_further_call(name: str, names: set[str]) -> bool:
    base, _, number = name.rpartition(".")
    return number.isdigit() and base in names


def _subject(run: Run) -> str:
    names = " and ".join(m.name or m.kind for m in run.models)
    newest = [run.readings[i] for i in range(max(0, len(run.readings) - 4), len(run.readings))]
    weights = {row.name for reading in newest for row in reading.sites if row.site.cause == "weights"}
    layers = len([name for name in weights if not _is_further_call(name, weights)])
    parameters = sum(m.parameters for m in run.models)
    parts = [
        names,
        f"{layers} weight layer{'s' if layers != 1 else ''}" if layers else "",
        f"{parameters:,} parameters" if parameters else "",
        f"{run.steps:,} step{'s' if run.steps != 1 else ''}" if run.steps else "",
    ]
    return " · ".join(part for part in parts if part)
