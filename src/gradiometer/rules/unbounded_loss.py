"""A loss that falls below zero and on without end: something in it may grow at will, and is paid for it."""

from __future__ import annotations

from statistics import median

from gradiometer.records import Finding
from gradiometer.rules import output_mismatch
from gradiometer.rules.base import Patient
from gradiometer.rules.curve import curve, finite
from gradiometer.rules.hints import DRIFT, drift
from gradiometer.rules.progress import ENOUGH

TENFOLD = 10.0
"""Loss of the last quarter over that of the first, and the same of their fall since the beginning. A log-likelihood is
below zero as well, and soon takes smaller steps: of those of 20 healthy trainings the last quarter was at most 4 times
the first. What falls evenly has fallen 7 times as far, wherever its zero lies."""

STEADY = 0.8
"""Fall from the third quarter to the last over that from the second to the third: what nears a bound slows down."""


def unbounded_loss(patient: Patient) -> Finding | None:
    """A finding for a negative loss that has grown tenfold and does not slow down."""
    values = finite(patient.losses)
    shape = curve(values)
    if shape is None or not patient.alone or patient.failed or len(patient.losses) < 4 * ENOUGH:
        return None
    a, b, c, d = shape.parts
    start = median(values[:3])  # as progress takes it
    if not 0 > a > b > c > d or d > TENFOLD * a or start - d < TENFOLD * (start - a) or c - d < STEADY * (b - c):
        return None
    if output_mismatch.RULE.check(patient):
        return None  # which says what is paid for growing
    drifted = drift(patient)
    return Finding(
        kind="diverging_loss",
        severity="critical",
        sites=("loss",),
        evidence={"quarters": shape.parts, "growth_of_the_outputs": drifted, "onset": 0, "step": patient.last.step},
        cause="the loss falls without bound: a term of it has the wrong sign, or nothing holds it back",
        explanation=(
            f"The loss is {a:.3g}, {b:.3g}, {c:.3g} and {d:.3g} in the four quarters of the training, and falls on as "
            f"fast as before{f'; the outputs have grown {drifted:.2g}-fold' if drifted >= DRIFT else ''}. No task is "
            "learned like that: something may grow at will, and the loss pays for it."
        ),
        remedies=(
            "look for a minus in front of the wrong term (an entropy, a log-determinant, a penalty)",
            "a bound on what grows (clamped log-variances, weight decay)",
        ),
        wrong_if="the loss has a bound that it has not come near yet",
    )
