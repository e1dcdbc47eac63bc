"""Gradients of past steps that are never set to zero."""

from __future__ import annotations

from statistics import median

from gradiometer.records import Finding, Severity
from gradiometer.rules.base import Patient, percent
from gradiometer.rules.patience import in_time, severity

CARRIED = 0.3
"""Share of a gradient that was there before its backward pass, in one reading at least.

With ``zero_grad`` it is exactly 0. Without it, it is 1/2 at the second step if all gradients are equal and 0.71 if they
have nothing to do with each other, and goes to 1 from there; three tenths leave room for gradients that grow.
"""

NEARLY_ALL = 2 / 3
"""Share of the readings in which there is something left at all; where gradients blow up it is little in most."""

SEVERAL = 3
"""Readings after the first from which on it is no accident of how a loop begins."""


def check(patient: Patient) -> list[Finding]:
    """One finding where most readings begin with the gradient of the step before."""
    found = [(r.step, r.carried) for r in in_time(patient) if r.carried is not None and r.step > 0]
    having = [(step, share) for step, share in found if share > 0]
    most = max((share for _, share in having), default=0.0)
    if most < CARRIED or len(having) < NEARLY_ALL * len(found):
        return []
    # With a second optimizer it may be the gradient of the other's loss that stands there, and is meant to.
    sure = len(found) >= SEVERAL and patient.alone
    unknown: Severity = "warning" if sure else "info"
    names = [p.name for p in patient.last.parameters if p.parameter.optimizer >= 0 and p.parameter.trainable]
    typical = median(share for _, share in having)
    share = typical if typical >= CARRIED else most
    up_to = "" if share == typical else "up to "
    return [
        Finding(
            kind="frozen_parameters",
            severity=severity(patient, stalled="critical" if sure else "info", unknown=unknown),
            sites=tuple(names[:4]) or ("loss",),
            # Whatever else is seen: the very first step has left its gradients behind.
            evidence={"step": having[-1][0], "onset": 0, "carried": typical, "readings": len(having)},
            cause="gradients of past steps are never set to zero",
            explanation=(
                f"Before the backward pass of a step the gradients of the steps before are still there, "
                f"{up_to}{percent(min(share, 1.0))} of the norm that the optimizer then uses, in {len(having)} of "
                f"{len(found)} readings: every step goes along the sum of all gradients so far."
            ),
            remedies=("optimizer.zero_grad() before backward in every step",),
            wrong_if="gradients are summed up over several optimizer steps on purpose",
        )
    ]
