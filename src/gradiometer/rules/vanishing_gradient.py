"""The gradient shrinks on its way from the loss to the first layers."""

from __future__ import annotations

import math

from gradiometer.records import Finding, Severity
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule, percent
from gradiometer.rules.depth import Profile, profiles, speed_decades

CRITICAL = -3.0
"""Decades between first and last layer from which on the first ones do not take part.

With one learning rate for all layers, by the time the last layer has moved by its own size, the first has moved by
10^decades of its own: at a thousandth it is what it was at birth after any training that the last layer survives
(update-to-weight ratios of 1e-3 a step are usual, so 1e-6 here: a million steps for its own size).
"""

WARNING = -2.0
"""A hundredth: Nielsen's network of four hidden layers, which learns after a delay. A warning while it does not."""


def check(patient: Patient) -> list[Finding]:
    """One finding a model whose first layers get less than a hundredth (a thousandth) of the last one's gradient."""
    findings = []
    for _, profile in profiles(patient, vanishing=True):
        if profile.least > WARNING or _not_yet(patient, profile):
            continue
        severity = _severity(patient, profile)
        if severity is not None:
            findings.append(_finding(patient, profile, severity))
    return findings


def _severity(patient: Patient, profile: Profile) -> Severity | None:
    if profile.least > CRITICAL:
        return "warning" if patient.progress.learning is False else None
    if patient.progress.learning is not True:
        return "critical"
    # It learns. Whether the first layers do is told by how they move against the last one.
    speed = speed_decades(patient.last)
    return "warning" if speed is not None and speed <= CRITICAL else "info"


def _not_yet(patient: Patient, profile: Profile) -> bool:
    """A gradient of exactly zero below a layer that is born zero (a usual start) is gone after one step."""
    zero_weights = any(p.weight_rms == 0 and len(p.parameter.shape) > 1 for p in patient.last.parameters)
    return profile.least == -math.inf and zero_weights and patient.last.step == 0


def _finding(patient: Patient, profile: Profile, severity: Severity) -> Finding:
    first, last = profile.rows[0], profile.rows[-1]
    losses = {cause: -d for cause, d in profile.by_cause.items() if d < 0}
    activation = losses.get("activation", 0.0) / sum(losses.values()) if losses else None
    names = sorted({r.site.operation for r in patient.last.sites if r.site.cause == "activation"})
    weights = [p for p in patient.last.parameters if len(p.parameter.shape) > 1]
    if profile.decades == -math.inf:
        said = f"No gradient at all reaches {first.name}, while {last.name} gets {last.grad_norm:.1e}."
    else:
        said = (
            f"The first layer receives {10**profile.decades:.0e} of the gradient that the last one gets: "
            f"{-profile.decades:.1f} decades lost on the way from {last.name} to {first.name}."
        )
    cause = "the gradient shrinks from layer to layer"
    if activation is not None and profile.decades > -math.inf:
        by = f"the derivative of the activations ({', '.join(names)})"
        share = percent(activation)
        said += (
            f" {share} of what is lost goes in {by}, the rest in the weights."
            if activation < 1
            else f" All of it goes in {by}."
        )
        cause = (
            f"{by}: {share}" if activation >= 0.5 else f"weights too small for their layers: {percent(1 - activation)}"
        )
    order = ["ReLU and He initialization", "residual connections", "batch or layer normalization"]
    if activation is not None and activation < 0.5:
        order = ["He initialization (Xavier for tanh)", "batch or layer normalization", "residual connections"]
    return Finding(
        kind="vanishing_gradient",
        severity=severity,
        sites=tuple(row.name for row in profile.rows[: max(2, len(profile.rows) // 8)]),
        evidence={
            "decades": profile.decades,
            "layers": len(profile.rows),
            "decades_per_layer": profile.decades / (len(profile.rows) - 1),
            "first_gradient_norm": first.grad_norm,
            "last_gradient_norm": last.grad_norm,
            "decades_by_cause": profile.by_cause,
            "update_ratio_decades": speed_decades(patient.last),
            "weight_layers_measured": len(weights),
        },
        cause=cause,
        explanation=said,
        remedies=tuple(order),
    )


RULE = Rule(
    kind="vanishing_gradient",
    check=check,
    sick=(
        Case("12 sigmoid layers, 0.7 decades each, stalled", cases.chain([0.2] * 12, "sigmoid", loss="stalled")),
        Case("the same at the first reading", cases.chain([0.2] * 12, "sigmoid", loss="unknown")),
        Case("34 ReLU layers of too small weights", cases.chain([0.41] * 34, "relu", loss="stalled")),
        Case(
            "the same with all gradients a million times smaller",
            cases.chain([0.41] * 34, "relu", loss="stalled", top=1e-6),
        ),
        Case("Nielsen's four hidden layers before they learn", cases.chain([0.2] * 4, "sigmoid", loss="stalled")),
        Case("no gradient below a dead layer", cases.chain([1.0] * 5 + [0.0] + [1.0] * 4, "relu", loss="stalled")),
    ),
    healthy=(
        Case("He initialization, 30 layers", cases.chain([1.0] * 30, "relu", loss="unknown")),
        Case("gradients of 1e-9 everywhere", cases.chain([1.0] * 10, "relu", loss="stalled", top=1e-9)),
        Case("two layers", cases.chain([0.01], "sigmoid", loss="learning")),
        Case(
            "small but learning, all layers moving (Adam)",
            cases.chain([0.4] * 10, "tanh", loss="learning", ratios=[1e-3] * 11),
        ),
        Case("global average pooling of 32 x 32 places", cases.pooled(places=1024, loss="unknown")),
        Case(
            "a last layer born at zero, first step",
            cases.chain([1.0] * 6 + [0.0], "relu", loss="unknown", zero_head=True),
        ),
    ),
)
