"""Chains of layers, the trainings around them, and values that are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from gradiometer.records import (
    Cause,
    Ledger,
    LedgerRow,
    Parameter,
    ParameterReading,
    Reading,
    Recurrence,
    Site,
    SiteReading,
    Task,
)
from gradiometer.rules.base import Patient

Loss = Literal["learning", "stalled", "unknown", "worse", "little", "half", "most", "trained", "steady"]
UNITS = 64
_CAUSES: dict[str, Cause] = {
    "linear": "weights", "conv2d": "weights", "relu": "activation", "sigmoid": "activation", "tanh": "activation",
    "log": "activation", "relu6": "activation", "rnn_cell": "weights",
    "layer_norm": "normalization", "add": "connection", "mul": "connection",
    "masked_fill": "connection", "mean": "reshaping", "softmax": "attention",
}  # fmt: skip


def site(
    name: str,
    operation: str,
    grad_norm: float | None,
    *,
    shape: tuple[int, ...] = (512, UNITS),
    saturation: float | None = None,
    dead: float | None = None,
    first_dead: int = 0,
) -> SiteReading:
    """A site whose gradient has this norm; ``dead`` of its units are, from unit ``first_dead`` on."""
    units = shape[-1]
    flags = [0] * units
    for i in range(round((dead or 0.0) * units)):
        flags[(first_dead + i) % units] = 1
    mask = bytes(sum(flags[8 * b + i] << i for i in range(min(8, units - 8 * b))) for b in range((units + 7) // 8))
    rms = None if grad_norm is None else grad_norm / math.sqrt(math.prod(shape))
    return SiteReading(
        site=Site(name, operation, _CAUSES[operation]),
        shape=shape,
        passes=1,
        rms=1.0,
        mean=0.0,
        nonfinite=0,
        masked=0,
        zeros=dead or 0.0,
        saturation=saturation,
        units=units,
        examples=math.prod(shape) // units,
        dead=sum(flags) if dead is not None else None,
        dead_mask=mask if any(flags) else b"",
        grad_rms=rms,
        grad_nonfinite=0,
    )


def parameter(name: str, ratio: float, weight: float = 1.0) -> ParameterReading:
    """A weight matrix that moves by this ratio a step."""
    info = Parameter(name, (UNITS, UNITS), 0, True)
    return ParameterReading(info, weight, False, 1.0, 0, ratio * weight, UNITS * UNITS)


def reading(sites: Sequence[SiteReading], parameters: Sequence[ParameterReading] = (), step: int = 0) -> Reading:
    """A reading of one pass, with cross-entropy behind the last site."""
    operations = ("nll_loss", "log_softmax")
    task = Task("nll_loss", ("log_softmax", "linear"), 512, UNITS, math.log(UNITS), (-5.0, 0.0), (0.0, UNITS - 1.0))
    return Reading(
        step=step,
        optimizer=0,
        time=float(step),
        loss=2.3,
        loss_scale=1.0,
        level="full",
        passes=1,
        sites=tuple(sites),
        parameters=tuple(parameters),
        loss_operations=operations,
        ledger=_ledger(sites),
        tasks=(task,),
        carried=0.0,
        clipped=1.0,
    )


def _ledger(sites: Sequence[SiteReading]) -> Ledger:
    """That of a plain chain, down to the gradient that enters its first operation."""
    rows = []
    for before, row in reversed(list(pairwise(sites))):
        if not row.grad_rms or before.grad_rms is None:
            break
        rows.append(
            LedgerRow(
                site=row.name,
                operation=row.site.operation,
                cause=row.site.cause,
                gain=before.grad_rms / row.grad_rms,
                log10_gain=math.log10(before.grad_rms / row.grad_rms) if before.grad_rms else -math.inf,
                grad_rms=row.grad_rms,
                elements=math.prod(row.shape),
                elements_out=math.prod(before.shape),
            )
        )
    return Ledger(tuple(rows), sites[0].name, sites[0].grad_rms or 0.0)


def patient(readings: Sequence[Reading], loss: Loss) -> Patient:
    """A training with these readings whose loss falls, does not fall, or has only just begun.

    A third of it is gone for ``little``, six tenths for ``half`` and eight for ``most``; what was ``trained`` before
    begins at half a constant guess, and takes a third of that away. What is ``steady`` begins at 30 times
    what a guess costs, and falls by four times that.
    """
    guess = math.log(UNITS)
    losses = {
        "learning": [(i, guess * 0.97**i) for i in range(200)],
        "stalled": [(i, guess + 0.01 * math.sin(i)) for i in range(200)],
        "unknown": [(0, guess)],
        "worse": [(i, 2 * guess) for i in range(200)],
        "little": [(i, guess * max(0.99**i, 0.66)) for i in range(200)],
        "half": [(i, guess * max(0.97**i, 0.4)) for i in range(200)],
        "most": [(i, guess * max(0.97**i, 0.2)) for i in range(200)],
        "steady": [(i, guess * (30 - 0.02 * i)) for i in range(200)],
        "trained": [(i, guess * max(0.5 * 0.99**i, 0.33)) for i in range(200)],
    }[loss]
    return Patient(readings[:3], readings, losses)


def unguessed(patient: Patient) -> Patient:
    """The same where nobody knows what a constant guess costs."""

    def at(r: Reading) -> Reading:
        return replace(r, tasks=tuple(replace(task, guess=None) for task in r.tasks))

    return replace(patient, early=[at(r) for r in patient.early], recent=[at(r) for r in patient.recent])


def chain(
    gains: Sequence[float],
    operation: str,
    *,
    loss: Loss,
    top: float = 1.0,
    saturation: float | None = None,
    dead: float | None = None,
    examples: int = 512,
    moving: bool = False,
    ratios: Sequence[float] | None = None,
    zero_head: bool = False,
    healed: bool = False,
) -> Patient:
    """A plain chain of weight layers and activations; ``gains`` are the backward gains from input to output.

    For a squashing activation the gain is lost in the activation, for others in the weights. With ``healed`` all gains
    are one from the second reading on.
    """
    squashing = operation in ("sigmoid", "tanh")
    readings = []
    for step in range(3 if loss != "unknown" else 1):
        if healed and step:
            gains = [1.0] * len(gains)
        norm, rows = top, [site("out", "linear", top, shape=(examples, UNITS))]
        for i, gain in reversed(list(enumerate(gains))):
            after = norm if squashing else norm * gain
            norm *= gain
            first_dead = step * 21 if moving else 0
            act = site(
                f"act{i}",
                operation,
                after,
                shape=(examples, UNITS),
                saturation=saturation,
                dead=dead,
                first_dead=first_dead,
            )
            rows += [act, site(f"fc{i}", "linear", norm, shape=(examples, UNITS))]
        speeds = ratios or [1e-3 * r for r in _norms(gains)]
        parameters = [parameter(f"fc{i}.weight", s) for i, s in enumerate(speeds)]
        if zero_head:
            parameters[-1] = replace(parameters[-1], weight_rms=0.0)
        readings.append(reading(rows[::-1], parameters, step))
    return patient(readings, loss)


def _norms(gains: Sequence[float]) -> list[float]:
    out = [1.0]
    for gain in reversed(gains):
        out.append(out[-1] * gain)
    return out[::-1]


def recurrent(gain: float, steps: int, loss: Loss) -> Patient:
    """A cell that is called once a time step, and an output layer."""
    names = ["cell" + (f".{t}" if t else "") for t in range(steps)]
    rows = [site(name, "rnn_cell", gain ** (steps - 1 - t)) for t, name in enumerate(names)]
    return patient([reading([*rows, site("out", "linear", 1.0)])], loss)


def through_time(growth: float, steps: int, *, loss: Loss) -> Patient:
    """Six healthy layers, with a recurrence among them whose gradient grows by this factor a step, back in time.

    Only the reading in the middle has a ledger, which alone tells of time.
    """
    gains = (growth,) * (steps - 1)
    norms = tuple(growth ** (steps - 1 - t) for t in range(steps))
    horizon = math.inf if growth >= 1 else math.log(0.01) / math.log(growth)
    found = Recurrence("rnn", "rnn.weight_hh_l0", steps, norms, gains, horizon, {"weight_hh_l0": math.log10(growth)})
    whole = chain([1.0] * 5, "relu", loss=loss)
    readings = [replace(r, recurrences=(found,) if r.step == 1 else ()) for r in whole.recent]
    return patient(readings, loss)


def pooled(places: int, loss: Loss) -> Patient:
    """Six convolutions, an average over all places, and a linear layer: the norm falls by the root of the places."""
    low = 1 / math.sqrt(places) / 30  # and by what six healthy layers may differ
    rows = [site(f"conv{i}", "conv2d", low, shape=(8, places, UNITS)) for i in range(6)]
    rows += [site("pool", "mean", 1.0, shape=(8, UNITS)), site("fc", "linear", 1.0, shape=(8, UNITS))]
    return patient([reading(rows)], loss)


def nonfinite(
    *,
    site: int | None = None,
    loss: float | None = 2.3,
    gradient: int | None = None,
    weights: bool = False,
    mask: bool = False,
    losses: float | None = None,
    reaches: bool = True,
    minus: bool = False,
    loss_scale: float = 1.0,
) -> Patient:
    """Six layers in which the output of one, its gradient, the loss or the weights are not finite.

    ``reaches`` says whether the gradient of the weights is not finite either.
    """
    made = chain([1.0] * 6, "relu", loss="unknown").last
    rows, parameters = list(made.sites), list(made.parameters)
    if site is not None:
        rows[site:] = [replace(row, nonfinite=5, masked=5 if minus else 0) for row in rows[site:]]
        loss = math.nan if loss is not None else None
        rows = [replace(row, grad_nonfinite=9) for row in rows]
    if gradient is not None:
        rows[: gradient + 1] = [replace(row, grad_nonfinite=9) for row in rows[: gradient + 1]]
    if (site is not None or gradient is not None) and reaches:
        parameters = [replace(p, grad_nonfinite=3) for p in parameters]
    if mask:
        rows[2] = replace(rows[2], nonfinite=7, masked=7)
    if weights:
        parameters[0] = replace(parameters[0], weight_nonfinite=True, weight_rms=math.nan)
    changed = replace(made, sites=tuple(rows), parameters=tuple(parameters), loss=loss, loss_scale=loss_scale)
    recorded = [(0, 2.3), (1, losses)] if losses is not None else [(0, 2.3)]
    return Patient([changed], [changed], recorded)
