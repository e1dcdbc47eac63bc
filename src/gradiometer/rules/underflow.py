"""Gradients too small for float16, and updates too small for weights of 16 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from gradiometer.records import Finding, LedgerRow, Reading, Severity, SiteReading
from gradiometer.rules.base import RECENT, Case, Patient, Rule, percent
from gradiometer.rules.cases import signals
from gradiometer.rules.patience import poorly

MOST = 0.5
"""Share of a gradient's elements with no digits left, from which on a training that does not learn is told of it.

Not less: float16 without any scale loses a third of them when it learns (Micikevicius et al., 2018, section 3.2, lose
two thirds and diverge).
"""

NEARLY_ALL = 0.9
"""Of a small network trained by Adam with less and less weight on the loss, those with 0.95 lost still learned."""

FLOOR = 4 * 2.0**-24
"""Where the last digits of float16 are: four times its smallest number."""

KEPT = 0.25
"""Share of the elements of a 16-bit weight that a step moves, below which most of each update is lost.

A step moves an element if it is at least half the spacing there, so that the share of elements that move is the share
of the update that arrives. Small bfloat16 networks that learn move 0.5 to 0.9 of their elements at first and 0.15 to
0.25 when they have settled; at 0.03 to 0.08 they do not get anywhere in 150 steps.
"""

HARDLY = 0.1
"""Nine tenths of every update are lost."""

COLLAPSED = 1.0
"""Loss scale below which a scaler makes gradients smaller than they are: it met infinities in step after step."""


def check(patient: Patient) -> list[Finding]:
    """At most one finding for gradients and one for updates."""
    return [*_gradients(patient), *_updates(patient)]


# -- gradients ------------------------------------------------------------------------------------------------------


def _gradients(patient: Patient) -> list[Finding]:
    rows = _halves(patient.last)
    if not rows:
        return []
    shares = {row.name: _recent(patient, row.name) for row in rows}
    there = {row.name for row in rows if row.grad_rms}
    cut = _cut(patient)
    # A gradient of exactly zero may be a dead layer's; it counts where the one above was about to fall off the format.
    lossy = [name for name in shares if shares[name] >= MOST and (name in there or cut is not None)]
    scales = [r.loss_scale for r in patient.readings]
    shrunk = 0 < scales[-1] < COLLAPSED and scales[-1] < max(scales)
    many = 2 * len(lossy) >= len(shares)
    if not (lossy and many) and not shrunk:
        return []
    middle = median(shares[name] for name in lossy) if lossy else 0.0
    nothing = cut is not None and not there
    severity = _severity(patient, worst=middle >= NEARLY_ALL or shrunk, surely=nothing)
    if severity is None:
        return []
    names = sorted(lossy, key=lambda name: -shares[name]) or [row.name for row in rows]
    return [_lost_gradients(patient, severity, names, shares, cut if nothing else None, shrunk, len(rows))]


def _severity(patient: Patient, *, worst: bool, surely: bool) -> Severity | None:
    learning = patient.progress.learning
    if learning is None:
        return "critical" if surely else "info" if worst else None
    if learning is False:
        return "critical" if worst else "warning"
    return "info" if worst else None


def _halves(reading: Reading) -> list[SiteReading]:
    """The weight layers whose gradient is in float16, or, where there are none, all such sites."""
    rows = [row for row in reading.sites if row.lost is not None and not row.grad_nonfinite]
    return [row for row in rows if row.site.cause == "weights"] or rows


def _recent(patient: Patient, name: str) -> float:
    values = [row.lost for r in patient.recent[-RECENT:] for row in r.sites if row.name == name]
    return median([v for v in values if v is not None] or [0.0])


def _cut(patient: Patient) -> LedgerRow | None:
    """The operation in the newest ledger out of which nothing comes, if what enters it is at the floor of float16.

    An average over many elements divides what enters by their number.
    """
    traced = [r for r in patient.traced if any(row.lost is not None for row in r.sites)]
    newest = max(traced, key=lambda r: r.step, default=None)
    if newest is None:
        return None
    for row in newest.ledger.main:
        if row.gain == 0 and row.grad_rms > 0:
            leaving = row.grad_rms * newest.loss_scale * min(1.0, row.elements / max(row.elements_out, 1))
            return row if leaving <= FLOOR else None
    return None


def _lost_gradients(
    patient: Patient,
    severity: Severity,
    names: list[str],
    shares: dict[str, float],
    cut: LedgerRow | None,
    shrunk: bool,
    layers: int,
) -> Finding:
    scales = [r.loss_scale for r in patient.readings]
    onset = next(
        (r.step for r in patient.readings if any((row.lost or 0) >= MOST for row in _halves(r))), patient.last.step
    )
    if shrunk:
        halvings = math.log2(max(scales) / scales[-1])
        said = (
            f"The loss scale has fallen from {max(scales):.3g} to {scales[-1]:.2g} ({halvings:.0f} halvings): "
            "it met Inf or NaN in step after step, skipped those steps, and now makes gradients smaller than they are."
        )
    elif cut is not None:
        said = (
            f"Every gradient below {cut.site} ({cut.operation}) is exactly zero: {cut.grad_rms:.1e} enters there, and "
            f"float16 ends at {FLOOR / 4:.0e}."
        )
    else:
        said = (
            f"{percent(shares[names[0]])} of the elements of the gradient at {names[0]} are below {FLOOR:.0e}, where "
            f"float16 has no digits left, and more than half of them in {len(names)} of {layers} layers."
        )
    return Finding(
        kind="underflow",
        severity=severity,
        sites=tuple(names),
        evidence={
            "lost": {name: shares[name] for name in names},
            "enters": cut.grad_rms if cut is not None else None,
            "loss_scale": scales[-1],
            "loss_scale_at_most": max(scales),
            "layers_lossy": len(names),
            "layers": layers,
            "onset": onset,
            "step": patient.last.step,
        },
        cause="a loss scale that collapsed" if shrunk else "gradients below the smallest numbers of float16",
        explanation=said,
        remedies=(
            ("the operation whose gradient overflows in float32", "bfloat16 instead of float16")
            if shrunk
            else ("a gradient scaler (torch.amp.GradScaler)", "bfloat16 instead of float16", "a loss of larger weight")
        ),
        wrong_if="the same training in float32 does no better",
    )


# -- updates --------------------------------------------------------------------------------------------------------


def _updates(patient: Patient) -> list[Finding]:
    """Where most of each update is rounded away, in every 16-bit weight matrix, at the beginning and now.

    In one of several it is a small gradient, only now it is a rate that has decayed, only at first a warm-up.
    """
    first, now = _moved(patient.early), _moved(patient.recent)
    shared = {name: max(first[name], now[name]) for name in now if name in first}
    if not shared or max(shared.values()) > KEPT:
        return []
    learning = patient.progress.learning
    hardly = max(shared.values()) <= HARDLY
    if learning is None or (learning and not hardly and not poorly(patient)):
        return []  # at first it may be the warm-up
    severity: Severity = "info" if learning else "critical" if hardly else "warning"
    if learning and poorly(patient):
        severity = "warning"  # little moves, and most of the loss is there
    names = sorted(now, key=now.__getitem__)
    worst = names[0]
    held = next(p for p in patient.last.parameters if p.name == worst)
    digits = 8 if held.parameter.dtype == "bfloat16" else 11
    ratio = f", of {held.ratio:.0e} of its size on average," if held.ratio else ""
    return [
        Finding(
            kind="underflow",
            severity=severity,
            sites=tuple(names),
            evidence={
                "moved": now,
                "moved_at_first": first,
                "dtype": held.parameter.dtype,
                "onset": patient.early[0].step,
                "step": patient.last.step,
            },
            cause=f"updates below the spacing of {held.parameter.dtype}",
            explanation=(
                f"A step{ratio} moves {100 * now[worst]:.2g} % of the elements of {worst}, and none of the "
                f"{len(names)} weights of 16 bits moves more than {percent(max(shared.values()))}: "
                f"{held.parameter.dtype} holds {digits} binary digits, and an update below "
                f"{2.0 ** -(digits + 1):.1g} of an element is rounded away."
            ),
            remedies=(
                "weights kept in float32, 16 bits under autocast only",
                "stochastic rounding or Kahan summation in the optimizer",
                "a larger learning rate",
            ),
            wrong_if="a copy of the training with float32 weights learns no faster",
        )
    ]


def _moved(readings: Sequence[Reading]) -> dict[str, float]:
    """For each 16-bit weight matrix that has a gradient, the median share of its elements that a step moves."""
    shares: dict[str, list[float]] = {}
    for reading in readings:
        for p in reading.parameters:
            if p.moved is not None and p.grad_rms and len(p.parameter.shape) > 1 and not p.grad_nonfinite:
                shares.setdefault(p.name, []).append(p.moved)
    return {name: median(values) for name, values in shares.items()}


RULE = Rule(
    kind="underflow",
    check=check,
    sick=(
        Case("no gradient leaves the loss", signals.float16(1.0, loss="stalled", enters=5e-10, nothing_below=6)),
        Case("the same at the first step", signals.float16(1.0, loss="unknown", enters=5e-10, nothing_below=6)),
        Case("nearly all elements at the floor", signals.float16(0.98, loss="stalled")),
        Case("most of them", signals.float16(0.7, loss="stalled")),
        Case("a loss scale that collapsed", signals.float16(0.2, loss="stalled", scales=(65536.0, 64.0, 2.0**-8))),
        Case("updates lost to bfloat16", signals.rounded((0.03, 0.02, 0.06), loss="stalled")),
        Case("most of them lost", signals.rounded((0.18,), loss="stalled")),
        Case("the same, and a third learned", signals.rounded((0.18,), loss="little")),
        Case("all of them lost", signals.rounded((0.0, 0.0, 0.0), loss="stalled")),
    ),
    healthy=(
        Case("few elements at the floor", signals.float16(0.09, loss="stalled")),
        Case("nearly all, and it learns", signals.float16(0.95, loss="learning", learned=True)),
        Case("nearly all at the first step", signals.float16(0.95, loss="unknown")),
        Case("no gradient below a dead layer", signals.float16(0.01, loss="stalled", enters=1e-2, nothing_below=4)),
        Case("a scaler that looks for its scale", signals.float16(0.01, loss="stalled", scales=(2.0**24, 2.0**17))),
        Case("bfloat16 weights that learn", signals.rounded((0.2, 0.15, 0.3), loss="learning")),
        Case("most updates lost, and six tenths learned", signals.rounded((0.18,), loss="half")),
        Case("hardly moving, and it learns", signals.rounded((0.03, 0.02, 0.06), loss="learning")),
        Case("a warm-up that begins at zero", signals.rounded((0.0, 0.0, 0.0), loss="unknown")),
        Case("a rate that has decayed", signals.rounded((0.0, 0.0), loss="stalled", birth=(0.7, 0.6))),
        Case("first layers without a gradient to speak of", signals.rounded((0.0, 0.0, 0.6), loss="stalled")),
        Case("no gradient at all", signals.rounded((0.0, 0.0), loss="stalled", gradient=0.0)),
    ),
)
