"""The gradient shrinks on its way from the loss to the first layers."""

from __future__ import annotations

import math
from dataclasses import replace

from gradiometer.records import Finding, Severity
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule, percent
from gradiometer.rules.depth import Profile, onset, profiles, speeds, takes_part

CRITICAL = -3.0
"""Decades between first and last layer from which on the first ones do not take part.

With one learning rate for all layers, by the time the last layer has moved by its own size, the first has moved by
10^decades of its own: at a thousandth it is what it was at birth after any training that the last layer survives
(update-to-weight ratios of 1e-3 a step are usual, so 1e-6 here: a million steps for its own size).
"""

WARNING = -2.0
"""A hundredth: Nielsen's network of four hidden layers, which learns after a delay. A warning while it does not."""


ALONE = 0.6
"""Share of the loss that one layer must have to be called its only cause."""

PATIENCE = 100
"""Steps for which a training whose gradients recover is given time to learn."""

_CAUSES = {
    "activation": "the derivative of the activations",
    "weights": "weights too small for their layers",
    "connection": "gates and sums that let little pass",
    "attention": "attention that lets little pass",
}
_REMEDIES = {
    "activation": ("ReLU and He initialization", "residual connections", "batch or layer normalization"),
    "weights": ("He initialization (Xavier for tanh)", "batch or layer normalization", "residual connections"),
    "normalization": ("normalization inside the residual branch", "residual connections", "He initialization"),
    "connection": ("a skip connection without a gate", "gates that start open (bias)", "residual connections"),
    "gate": ("a forget gate that starts open (bias 1 or more)", "a loss at more time steps", "shorter sequences"),
    "time": ("a gated cell (LSTM, GRU)", "orthogonal or identity recurrent weights", "shorter sequences"),
}

_NOT_NEEDED = {
    "layer": "the loss falls as fast with the first layers frozen as with them: then they are not needed",
    "time": "the loss falls as fast with the first steps cut off: then nothing that matters is that long ago",
}

RECOVERED = 1.0
"""Decades by which the loss by depth has become less since birth when a training is finding its own way out."""


def check(patient: Patient) -> list[Finding]:
    """One finding a model whose first layers get less than a hundredth (a thousandth) of the last one's gradient."""
    findings = []
    for profile in profiles(patient, vanishing=True):
        if profile.least <= WARNING and not _not_yet(patient, profile):
            severity = _severity(patient, profile)
            if severity is not None:
                findings.append(_finding(patient, profile, severity))
    return findings


def _severity(patient: Patient, profile: Profile) -> Severity | None:
    learning = patient.progress.learning
    if cut_off(patient):
        return "critical"  # whatever the loss does: it falls by what the last layers learn alone
    if learning is True:
        moved = speeds(patient.last)
        still = moved is not None and moved[1] > 0 and moved[0] <= 10**CRITICAL * moved[1]
        return "info" if profile.least > CRITICAL or not still or profile.axis != "layer" else "warning"
    if learning is None:
        # Nothing is known of the loss yet. Where the optimizer makes up for it, or one layer with small weights, whose
        # own steps are then large, takes all of it, the training may well find its way.
        weights = -profile.attribution.by_cause.get("weights", 0.0) >= ALONE * -profile.decades
        one_layer = profile.steepest >= ALONE and weights and profile.least > -math.inf
        doubtful = takes_part(patient) or one_layer or profile.axis != "layer"
        return "info" if doubtful or profile.least > CRITICAL else "critical"
    patient_yet = len(patient.losses) < PATIENCE and _recovering(patient)
    if takes_part(patient) and (patient_yet or patient.progress.little):
        return "info"
    return "critical" if profile.least <= CRITICAL else "warning"


def cut_off(patient: Patient) -> bool:
    """Whether no gradient at all has come to the first layers in any of the newest readings, three at least.

    Of layers and not of time steps: what lies hundreds of steps back gets exactly zero in float32, and may not matter.
    """
    newest = [profiles(replace(patient, recent=[r], early=()), vanishing=True) for r in patient.recent[-3:]]
    return len(newest) >= 3 and all(p and p[0].axis == "layer" and p[0].least == -math.inf for p in newest)


def _recovering(patient: Patient) -> bool:
    newest = profiles(replace(patient, early=()), vanishing=True)
    birth = profiles(replace(patient, recent=patient.early[:1], early=()), vanishing=True) if patient.early else []
    return bool(birth and newest) and newest[0].least - birth[0].least >= RECOVERED


def _not_yet(patient: Patient, profile: Profile) -> bool:
    """A gradient of exactly zero below a layer that is born zero (a usual start) is gone after one step."""
    zero_weights = any(p.weight_rms == 0 and len(p.parameter.shape) > 1 for p in patient.last.parameters)
    return profile.least == -math.inf and zero_weights and patient.last.step == 0


def _finding(patient: Patient, profile: Profile, severity: Severity) -> Finding:
    first, last = profile.layers[0], profile.layers[-1]
    sites, shares = profile.sites, profile.attribution.shares(vanishing=True)
    main = next(iter(shares), None)
    when = f" at step {profile.step}" if profile.step != patient.last.step else ""
    if profile.decades == -math.inf:
        said = f"No gradient at all reaches {first.name}, while {last.name} gets {last.norm:.1e}."
    else:
        said = (
            f"The first {profile.axis} receives {10**profile.decades:.0e} of the gradient that the last one gets: "
            f"{-profile.decades:.1f} decades lost on the way from {last.name} to {first.name}{when}."
        )
    cause = f"the gradient shrinks from {profile.axis} to {profile.axis}"
    if main is not None and profile.decades > -math.inf:
        said += f" {profile.attribution.in_words(vanishing=True)}."
        cause = f"{_CAUSES.get(main, main)}: {percent(shares[main])}"
        alone = profile.attribution.culprit(vanishing=True)
        sites = (alone[0].site, *sites) if alone is not None else sites
    said += profile.a_step() if profile.decades > -math.inf else ""
    over_time = "gate" if profile.gated else "time"
    order = _REMEDIES[over_time if profile.axis != "layer" else main if main in _REMEDIES else "activation"]
    return Finding(
        kind="vanishing_gradient",
        severity=severity,
        sites=sites,
        evidence=profile.evidence()
        | {
            "onset": onset(patient, max(profile.least, CRITICAL), vanishing=True),
            "update_ratios_first_and_last": speeds(patient.last),
        },
        cause=cause,
        explanation=said,
        remedies=order,
        wrong_if=_NOT_NEEDED["layer" if profile.axis == "layer" else "time"],
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
        Case(
            "five sigmoid layers, of which only the first is beyond", cases.chain([0.3] * 4, "sigmoid", loss="stalled")
        ),
        Case(
            "too small from birth, seen later as dead layers",
            cases.chain([0.3] * 12, "relu", loss="stalled", healed=True),
        ),
        Case("60 time steps that are not learned", cases.recurrent(0.7, 60, loss="stalled")),
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
        Case(
            "the same, not known yet whether it learns",
            cases.chain([0.4] * 10, "tanh", loss="unknown", ratios=[1e-3] * 11),
        ),
        Case("one small layer at birth", cases.chain([1.0] * 5 + [1e-4] + [1.0] * 5, "relu", loss="unknown")),
        Case("one odd layer, the first of eight", cases.chain([5e-3] + [1.0] * 6, "relu", loss="stalled")),
        Case("60 time steps of a training that learns", cases.recurrent(0.7, 60, loss="learning")),
        Case("two passes through three layers", cases.recurrent(0.01, 2, loss="stalled")),
        Case("global average pooling of 32 x 32 places", cases.pooled(places=1024, loss="unknown")),
        Case(
            "a last layer born at zero, first step",
            cases.chain([1.0] * 6 + [0.0], "relu", loss="unknown", zero_head=True),
        ),
    ),
)
