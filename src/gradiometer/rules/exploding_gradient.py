"""The gradient grows on its way from the loss to the first layers."""

from __future__ import annotations

from gradiometer.records import Finding
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.depth import profiles

CRITICAL = 3.0
"""Decades between last and first layer: a learning rate that moves the last layer at all then throws
the first one a thousand times as far (see `vanishing_gradient.CRITICAL` for the same turned round)."""

WARNING = 2.0


def check(patient: Patient) -> list[Finding]:
    """One finding a model whose first layers get a hundred (a thousand) times the gradient of the last one."""
    findings = []
    for _, profile in profiles(patient, vanishing=False):
        if profile.least < WARNING:
            continue
        learning = patient.progress.learning
        if profile.least < CRITICAL and learning is not False:
            continue
        severity = "info" if learning else "critical" if profile.least >= CRITICAL else "warning"
        first, last = profile.rows[0], profile.rows[-1]
        growth = {cause: d for cause, d in profile.by_cause.items() if d > 0}
        cause = max(growth, key=growth.__getitem__) if growth else "unknown"
        causes = {
            "weights": "weights too large for their layers",
            "normalization": "normalization without residual connections",
            "unknown": "the gradient grows from layer to layer",
        }
        findings.append(
            Finding(
                kind="exploding_gradient",
                severity=severity,
                sites=tuple(row.name for row in profile.rows[: max(2, len(profile.rows) // 8)]),
                evidence={
                    "decades": profile.decades,
                    "layers": len(profile.rows),
                    "decades_per_layer": profile.decades / (len(profile.rows) - 1),
                    "first_gradient_norm": first.grad_norm,
                    "last_gradient_norm": last.grad_norm,
                    "decades_by_cause": profile.by_cause,
                },
                cause=causes.get(cause, f"{cause} operations amplify it"),
                explanation=(
                    f"The first layer receives {10**profile.decades:.0e} times the gradient that the last one gets: it "
                    f"grows by {profile.decades:.1f} decades on the way from {last.name} to {first.name}. "
                    "No learning rate fits both ends."
                ),
                remedies=(
                    "He initialization (Xavier for tanh)",
                    "residual connections" if cause == "normalization" else "layer normalization",
                    "gradient clipping",
                ),
            )
        )
    return findings


RULE = Rule(
    kind="exploding_gradient",
    check=check,
    sick=(
        Case("20 layers of weights three times too large", cases.chain([3.0] * 20, "relu", loss="unknown")),
        Case("the same, not learning", cases.chain([3.0] * 20, "relu", loss="stalled")),
        Case("50 batch-normalized layers without a skip", cases.chain([1.21] * 50, "relu", loss="stalled")),
        Case("the same with gradients of 1e-12", cases.chain([3.0] * 20, "relu", loss="stalled", top=1e-12)),
    ),
    healthy=(
        Case("He initialization, 30 layers", cases.chain([1.0] * 30, "relu", loss="unknown")),
        Case("20 batch-normalized layers", cases.chain([1.21] * 20, "relu", loss="learning")),
        Case("large gradients everywhere", cases.chain([1.0] * 10, "relu", loss="stalled", top=1e6)),
        Case("growing, and learning", cases.chain([1.5] * 20, "relu", loss="learning")),
    ),
)
