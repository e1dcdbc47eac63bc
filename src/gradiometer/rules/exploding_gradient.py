"""The gradient grows on its way from the loss to the first layers."""

from __future__ import annotations

from gradiometer.records import Finding
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.depth import onset, profiles, speeds

CRITICAL = 3.0
"""Decades between last and first layer: a learning rate that moves the last layer at all then throws
the first one a thousand times as far (see `vanishing_gradient.CRITICAL` for the same turned round)."""

WARNING = 2.0

TENTH = 0.1
"""Update-to-weight ratio that a layer survives: a step by a tenth of the weight. A hundred times the usual."""

_REMEDIES = {
    "weights": ("He initialization (Xavier for tanh)", "layer normalization", "gradient clipping"),
    "normalization": ("residual connections", "gradient clipping"),
    "time": ("gradient clipping", "orthogonal or identity recurrent weights", "a gated cell (LSTM, GRU)"),
}


def check(patient: Patient) -> list[Finding]:
    """One finding a model whose first layers get a hundred (a thousand) times the gradient of the last one."""
    findings = []
    for profile in profiles(patient, vanishing=False):
        if profile.least < WARNING:
            continue
        learning = patient.progress.learning
        if profile.least < CRITICAL and learning is not False:
            continue
        # An optimizer that moves all layers alike (Adam) may make up for it, as long as nothing is known of the loss.
        moved = speeds(patient.last)
        doubtful = learning is None and moved is not None and moved[0] <= min(10 * moved[1], TENTH)
        severity = "info" if learning or doubtful else "critical" if profile.least >= CRITICAL else "warning"
        first, last = profile.layers[0], profile.layers[-1]
        when = f" at step {profile.step}" if profile.step != patient.last.step else ""
        shares = profile.attribution.shares(vanishing=False)
        cause = next(iter(shares), "unknown")
        alone = profile.attribution.culprit(vanishing=False)
        sites = (alone[0].site, *profile.sites) if alone is not None else profile.sites
        why = f" {profile.attribution.in_words(vanishing=False)}." if shares else ""
        causes = {
            "weights": "weights too large for their layers",
            "normalization": "normalization without residual connections",
            "unknown": "the gradient grows from layer to layer",
        }
        findings.append(
            Finding(
                kind="exploding_gradient",
                severity=severity,
                sites=sites,
                evidence=profile.evidence()
                | {
                    "onset": onset(patient, max(WARNING, min(profile.least, CRITICAL)), vanishing=False),
                },
                cause=causes.get(cause, f"{cause} operations amplify it"),
                explanation=(
                    f"The first {profile.axis} receives {10**profile.decades:.0e} times the gradient that the last one "
                    f"gets: it grows by {profile.decades:.1f} decades on the way from {last.name} to {first.name}"
                    f"{when}.{why}{profile.a_step()} No learning rate fits both ends."
                ),
                remedies=_REMEDIES.get(cause if profile.axis == "layer" else "time", _REMEDIES["weights"]),
                wrong_if="with the gradient clipped to a hundredth it trains no better",
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
        Case("a recurrence among six layers, 1.4 times a step", cases.through_time(1.4, 30, loss="stalled")),
    ),
    healthy=(
        Case("He initialization, 30 layers", cases.chain([1.0] * 30, "relu", loss="unknown")),
        Case("20 batch-normalized layers", cases.chain([1.21] * 20, "relu", loss="learning")),
        Case("large gradients everywhere", cases.chain([1.0] * 10, "relu", loss="stalled", top=1e6)),
        Case("a recurrence among six layers, 1.1 times a step", cases.through_time(1.1, 30, loss="stalled")),
        Case("the same, shrinking", cases.through_time(0.7, 30, loss="stalled")),
        Case("growing, and learning", cases.chain([1.5] * 20, "relu", loss="learning")),
    ),
)
