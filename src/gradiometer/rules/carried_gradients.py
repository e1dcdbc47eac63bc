"""Gradients of past steps that are never set to zero."""

from __future__ import annotations

from statistics import median

from gradiometer.records import Finding, Severity
from gradiometer.rules.base import Patient, percent
from gradiometer.rules.patience import in_time, severity

CARRIED = 0.3
"""Share of a gradient that was there before its backward pass.

With ``zero_grad`` it is exactly 0. Without it, it is 1/2 at the second step if all gradients are equal and 0.71 if they
have nothing to do with each other, and goes to 1 from there; three tenths leave room for gradients that grow.
"""

NEARLY_ALL = 2 / 3
"""Share of the readings that show it; a gradient that blows up hides it in some."""

SEVERAL = 3
"""Readings after the first from which on it is no accident of how a loop begins."""


def check(patient: Patient) -> list[Finding]:
    """One finding where most readings begin with the gradient of the step before."""
    found = [(r.step, r.carried) for r in in_time(patient) if r.carried is not None and r.step > 0]
    having = [(step, share) for step, share in found if share >= CARRIED]
    if not having or len(having) < NEARLY_ALL * len(found):
        return []
    # With a second optimizer it may be the gradient of the other's loss that stands there, and is meant to.
    sure = len(found) >= SEVERAL and patient.alone
    unknown: Severity = "warning" if sure else "info"
    names = [p.name for p in patient.last.parameters if p.parameter.optimizer >= 0 and p.parameter.trainable]
    share = median(share for _, share in having)
    return [
        Finding(
            kind="frozen_parameters",
            severity=severity(patient, stalled="critical" if sure else "info", unknown=unknown),
            sites=tuple(names[:4]) or ("loss",),
            evidence={"step": having[-1][0], "onset": having[0][0], "carried": share, "readings": len(having)},
            cause="gradients of past steps are never set to zero",
            explanation=(
                f"Before the backward pass of a step the gradients of the steps before are still there, "
                f"{percent(min(share, 1.0))} of the norm that the optimizer then uses, in {len(having)} of "
                f"{len(found)} readings: every step goes along the sum of all gradients so far."
            ),
            remedies=("optimizer.zero_grad() before backward in every step",),
            wrong_if="gradients are summed up over several optimizer steps on purpose",
        )
    ]
