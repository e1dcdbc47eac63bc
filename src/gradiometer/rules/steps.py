"""How long the steps of a training are: against the weights, and against the loss that is there to be removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from gradiometer.records import ParameterReading, Reading
from gradiometer.rules.base import RECENT, Patient
from gradiometer.rules.patience import in_time

LONG = 0.03
"""Update-to-weight ratio of the whole network from which on a step is long: thirty times the usual 1e-3
(Karpathy, CS231n), its own size in thirty steps."""


ENDED = 0.03
"""Learning rate over that of the beginning with which nothing moves any more: a cosine's after nine tenths of it."""


def reach(reading: Reading) -> float | None:
    """The most that one step can take off the loss, to first order: ``sum_p |g_p| |dw_p|``.

    By Cauchy and Schwarz ``|g . dw|`` is never more, whatever the optimizer makes of the gradient.
    """
    parts = [
        p.grad_rms * p.update_rms * math.prod(p.parameter.shape)
        for p in _held(reading)
        if p.grad_rms is not None and p.update_rms is not None
    ]
    return math.fsum(parts) if parts else None


def removable(patient: Patient) -> float | None:
    """The most that all steps together can have taken off the loss: what each sampled one can, until the next one."""
    found = {r.step: value for r in patient.readings if (value := reach(r)) is not None}
    if not found:
        return None
    steps = sorted(found)
    ends = [*steps[1:], max(len(patient.losses), steps[-1] + 1)]
    # Of two samples the larger counts for what lies between them, so that it stays a bound.
    largest = [max(found[a], found.get(b, 0.0)) for a, b in zip(steps, ends, strict=True)]
    return math.fsum(value * (b - a) for value, a, b in zip(largest, steps, ends, strict=True))


def length(reading: Reading) -> float | None:
    """Update-to-weight ratio of all weight matrices together, norm over norm."""
    matrices = [p for p in _held(reading) if len(p.parameter.shape) > 1 and p.update_rms is not None]
    weights = math.hypot(*(_norm(p, p.weight_rms) for p in matrices))
    updates = math.hypot(*(_norm(p, p.update_rms or 0.0) for p in matrices))
    return updates / weights if matrices and weights > 0 else None


def ended(patient: Patient) -> int | None:
    """The step since which the learning rate is next to nothing, if half of the training was still to come then.

    Against the first one, and not the largest: a burst that is over has ended nothing.
    """
    half = len(patient.losses) / 2
    rates = [(r.step, r.learning_rate) for r in in_time(patient) if r.learning_rate is not None]
    early, late = [rate for step, rate in rates if step <= half], [rate for step, rate in rates if step > half]
    if not early or not late or max(early[-1], *late) > ENDED * early[0]:
        return None
    return next(step for step, rate in rates if rate <= ENDED * early[0])


def weights(reading: Reading) -> float:
    """Norm of all weight matrices together."""
    return math.hypot(*(_norm(p, p.weight_rms) for p in _held(reading) if len(p.parameter.shape) > 1))


def gradients(reading: Reading) -> float:
    """Norm of the whole gradient that the optimizer saw."""
    return math.hypot(*(_norm(p, p.grad_rms) for p in _held(reading) if p.grad_rms is not None))


def typical(
    readings: Sequence[Reading], what: Callable[[Reading], float | None] = length, last: int = RECENT
) -> float | None:
    """The median of one of these quantities over the newest readings."""
    values = [value for reading in readings[-last:] if (value := what(reading)) is not None]
    return median(values) if values else None


def _held(reading: Reading) -> list[ParameterReading]:
    return [p for p in reading.parameters if p.parameter.trainable and p.parameter.optimizer >= 0]


def _norm(p: ParameterReading, rms: float) -> float:
    return rms * math.sqrt(math.prod(p.parameter.shape))
