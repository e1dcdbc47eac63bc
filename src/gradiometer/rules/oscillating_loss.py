"""The loss swings instead of falling: the step is too long."""

from __future__ import annotations

from gradiometer.records import Finding
from gradiometer.rules import cases, diverging_loss
from gradiometer.rules.base import Case, Patient, Rule, percent
from gradiometer.rules.curve import curve, finite
from gradiometer.rules.patience import poorly
from gradiometer.rules.progress import ENOUGH
from gradiometer.rules.steps import LONG, length, reach, typical, weights

WIDE = 0.1
"""Swing (standard deviation within the last half) over level of a loss that is not merely noisy: that of batches of
64 examples at a constant guess is a hundredth."""

WHOLE = 1.0
"""First-order decrease of one step over the loss itself: a step that should remove all of the loss at once has left
the range in which the gradient says anything."""

PART = 0.1
"""The same that must be there for a step that is long against the weights: small weights alone make it so too."""

THROWN = 5.0
"""Growth of the weights' norm that no training needs: against it any later step looks short."""


def check(patient: Patient) -> list[Finding]:
    """One finding for a loss that has not fallen, that swings widely, and whose steps are long."""
    values = finite(patient.losses)
    shape = curve(values)
    progress = patient.progress
    grown = _growth_of_the_weights(patient)
    thrown = poorly(patient) and grown >= THROWN
    if shape is None or len(values) < ENOUGH or not patient.alone or (progress.learning is not False and not thrown):
        return []
    if diverging_loss.RULE.check(patient) or (patient.failed and progress.gap > 0):
        return []  # what came to its end in a NaN was on its way down until then
    wide = shape.swing / (abs(shape.level) or 1.0)
    moved = typical(patient.recent, length, last=10)
    ahead = [far / abs(r.loss) for r in patient.recent if r.loss and (far := reach(r)) is not None]
    whole = sorted(ahead)[len(ahead) // 2] if ahead else 0.0
    reference = progress.guess if progress.guess is not None else abs(progress.initial or 0.0)
    blown_up = shape.level > (1 + diverging_loss.TWICE) * reference
    too_long = ((moved or 0.0) >= LONG and whole >= PART) or whole >= WHOLE or (thrown and whole >= PART)
    if wide < (diverging_loss.STILL if blown_up else WIDE) or not too_long:
        return []
    guess = f", where a constant guess costs {progress.guess:.3g}" if progress.guess is not None else ""
    far = f"The weights were thrown to {grown:.2g} times their size. " if thrown else ""
    return [
        Finding(
            kind="oscillating_loss",
            severity="warning" if thrown else "critical",
            sites=("loss",),
            evidence={
                "swing_over_level": wide,
                "loss": progress.current,
                "loss_at_first": progress.initial,
                "constant_guess": progress.guess,
                "update_to_weight_ratio": moved,
                "first_order_decrease_over_loss": whole,
                "growth_of_the_weights": grown,
                "onset": 0,
            },
            cause="the steps are too long: each jumps over what it aims at",
            explanation=(
                f"The loss swings by {percent(min(wide, 9.99))} of its level about {progress.current:.3g} instead of "
                f"falling{guess}. {far}A step moves the weights by {moved or 0.0:.1e} of their size, and would remove "
                f"{whole:.2g} times the whole loss if it went down as steeply as it begins: it is too long."
            ),
            remedies=(
                "a learning rate three to ten times smaller",
                "less momentum",
                "warm-up",
                "a larger batch, if the batch is tiny",
            ),
            wrong_if="the loss swings as widely at a tenth of the learning rate: then it is the noise of the batches",
        )
    ]


def _growth_of_the_weights(patient: Patient) -> float:
    """Norm of the weights over that at birth."""
    born = weights(patient.early[0]) if patient.early else 0.0
    return weights(patient.last) / born if born > 0 else 1.0


RULE = Rule(
    kind="oscillating_loss",
    check=check,
    sick=(
        Case("swinging, and long steps", cases.training([1.0] * 5, moved=0.2, loss="swinging")),
        Case(
            "swinging, steps that should remove all", cases.training([1.0] * 5, moved=1e-2, loss="swinging", steep=400)
        ),
        Case(
            "weights thrown to six times their size, and a third learned",
            cases.training([1.0] * 5, moved=0.02, weights=6.0, loss="thrown"),
        ),
    ),
    healthy=(
        Case(
            "swinging a third lower, and the weights keep their size",
            cases.training([1.0] * 5, moved=0.02, loss="thrown"),
        ),
        Case(
            "weights thrown to six times their size, and short steps now",
            cases.training([1.0] * 5, moved=1e-3, weights=6.0, loss="thrown"),
        ),
        Case("swinging and learning", cases.training([1.0] * 5, moved=0.05, loss="noisy learning")),
        Case("the noise of a batch of one", cases.training([1.0] * 5, moved=1e-4, loss="swinging")),
        Case("noise about zero, as of a policy gradient", cases.training([1.0] * 5, moved=1e-3, loss="zero")),
        Case("at a constant guess", cases.training([1.0] * 5, moved=0.05, loss="stalled")),
        Case("trained before, at its floor", cases.training([1.0] * 5, moved=1e-3, loss="floor")),
    ),
)
