"""Gradient clipping that takes all but nothing of every step."""

from __future__ import annotations

import math
from statistics import median

from gradiometer.records import Finding, Reading
from gradiometer.rules.base import Case, Patient, Rule, percent
from gradiometer.rules.cases import signals
from gradiometer.rules.depth import MOVING
from gradiometer.rules.stalled_training import SHORT
from gradiometer.rules.steps import removable

CLIPPED = 0.99
"""Factor below which a step counts as clipped: the norms are taken over a sample, in float32."""

NEARLY_ALL = 0.9
"""Share of the steps seen in which clipping acted; a clip against spikes acts in a few."""

LITTLE = 0.05
"""What clipping leaves of a typical gradient's norm.

At a norm of one it leaves language models a tenth to all of it, in most steps of trainings that learn well; a clip that
leaves less than a twentieth sets the length of every step, and the learning rate no longer does.
"""

HALF = 0.5
"""Share of the loss that the steps could have removed without clipping. They would have gone further by as much as was
taken off the gradient, along a gradient that is as much larger: by the square of it."""

MOMENTUM = 20.0
"""Length of a step over learning rate times gradient up to which the steps are what the gradient makes them: that of a
momentum of 0.95. Adam's, which clipping does not shorten, are thousands of times longer where little is left."""

ENOUGH = 3
"""Readings below which "nearly all steps" says nothing."""


def check(patient: Patient) -> list[Finding]:
    """A finding where clipping is what keeps all weights from moving, in a training that does not learn.

    Judged by the steps and not by the clipping: Adam divides by the size of what is left, so that its steps stay as
    long as they are; and an exploding gradient that is clipped to a billionth may still move the weights.
    """
    if patient.progress.learning is not False:
        return []
    readings = [r for r in patient.recent if r.clipped is not None]
    factors = [r.clipped for r in readings if r.clipped is not None]
    acted = [f for f in factors if f < CLIPPED]
    if len(factors) < ENOUGH or len(acted) < NEARLY_ALL * len(factors):
        return []
    factor, ratios = median(factors), _ratios(readings)
    if factor > LITTLE or not ratios or factor <= 0:
        return []
    fastest = max(ratios, key=ratios.__getitem__)
    # Without clipping the steps would be long enough: it is not the learning rate that is too small.
    share = _removable(patient)
    shortened = share < SHORT and share / factor**2 >= HALF
    held_back = ratios[fastest] < MOVING or (shortened and _follow(readings))
    if not held_back or ratios[fastest] / factor < MOVING:
        return []
    names = sorted(ratios, key=ratios.__getitem__)
    onset = next((r.step for r in patient.readings if r.clipped is not None and r.clipped <= LITTLE), readings[0].step)
    return [
        Finding(
            kind="clipping_bound",
            severity="critical",
            sites=tuple(names),
            evidence={
                "clipped_steps": len(acted) / len(factors),
                "factor": factor,
                "update_ratio": ratios[fastest],
                "update_ratio_without": ratios[fastest] / factor,
                "readings": len(factors),
                "onset": onset,
                "step": patient.last.step,
            },
            cause="a clipping threshold far below the usual size of the gradient",
            explanation=(
                f"Clipping acts in {percent(len(acted) / len(factors))} of the steps and leaves {factor:.1g} of the "
                f"gradient: even {fastest}, which moves fastest, moves by {ratios[fastest]:.0e} of its size a step, "
                f"{1 / ratios[fastest]:,.0f} steps for its own size. Without clipping it would be "
                f"{ratios[fastest] / factor:.0e}."
            ),
            remedies=(
                f"a clipping threshold {1 / factor:,.0f} times higher, so that it acts on outliers only",
                "no clipping, if the gradient norm is steady",
                "Adam, whose steps do not depend on the size of the gradient",
            ),
            wrong_if="the weights do not move any faster with a higher threshold",
        )
    ]


def _removable(patient: Patient) -> float:
    """The part of the loss that all steps of the training together can have removed, see `stalled_training`."""
    progress = patient.progress
    reference = progress.guess if progress.guess is not None else progress.initial
    far = removable(patient)
    return far / abs(reference) if far is not None and reference else math.inf


def _follow(readings: list[Reading]) -> bool:
    """Whether the steps are as long as the gradient that the optimizer saw makes them."""
    lengths = [
        p.update_rms / (p.grad_rms * reading.learning_rate)
        for reading in readings
        for p in reading.parameters
        if reading.learning_rate and p.grad_rms and p.update_rms is not None and len(p.parameter.shape) > 1
    ]
    return bool(lengths) and median(lengths) <= MOMENTUM


def _ratios(readings: list[Reading]) -> dict[str, float]:
    """For each trainable weight matrix the median of its update-to-weight ratios."""
    found: dict[str, list[float]] = {}
    for reading in readings:
        for p in reading.parameters:
            if p.ratio is not None and len(p.parameter.shape) > 1 and p.parameter.trainable and p.grad_rms:
                found.setdefault(p.name, []).append(p.ratio)
    return {name: median(values) for name, values in found.items()}


RULE = Rule(
    kind="clipping_bound",
    check=check,
    sick=(
        Case("a norm of 1e-4, SGD", signals.clipped([2e-4] * 20, 2e-6, loss="stalled")),
        Case("values cut at a millionth", signals.clipped([8e-5, 1e-4, 1.2e-4] * 3, 1.4e-6, loss="stalled")),
        Case(
            "with a step now and then that is not clipped", signals.clipped([1e-3] * 19 + [1.0], 5e-6, loss="stalled")
        ),
        Case(
            "to a hundredth of a flat loss's gradient",
            signals.clipped([0.01] * 20, 1e-4, loss="stalled", gradient=1.5e-6),
        ),
    ),
    healthy=(
        Case(
            "to a hundredth of a gradient too small anyway",
            signals.clipped([0.01] * 20, 1e-4, loss="stalled", gradient=1e-7),
        ),
        Case(
            "to a hundredth, and Adam moves no less for it",
            signals.clipped([0.01] * 20, 1e-4, loss="stalled", gradient=1.5e-6, rate=1e-4),
        ),
        Case("a norm of one in a training that learns", signals.clipped([0.3] * 20, 1e-3, loss="learning")),
        Case("small steps, and it learns", signals.clipped([1e-4] * 20, 2e-6, loss="learning")),
        Case("clipped hard, and Adam moves all the same", signals.clipped([1e-4] * 20, 1e-3, loss="stalled")),
        Case("an exploding gradient that is clipped", signals.clipped([6e-9] * 20, 3e-4, loss="stalled")),
        Case("a learning rate that is too small anyway", signals.clipped([0.03] * 20, 1e-8, loss="stalled")),
        Case("clipped a little", signals.clipped([0.4] * 20, 2e-6, loss="stalled")),
        Case("spikes only", signals.clipped(([1.0] * 4 + [1e-3]) * 4, 2e-6, loss="stalled")),
        Case("at the first step", signals.clipped([1e-4], 1e-6, loss="unknown")),
    ),
)
