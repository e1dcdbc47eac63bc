"""The loss grows away from where it began."""

from __future__ import annotations

from gradiometer.records import Finding
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.curve import Curve, curve, finite
from gradiometer.rules.hints import DRIFT, drift, without_warm_up
from gradiometer.rules.reversed_sign import reversed_sign
from gradiometer.rules.steps import LONG, gradients, length, reach, typical
from gradiometer.rules.unbounded_loss import unbounded_loss

TWICE = 1.0
"""Rise above the beginning and above a constant guess, as a share of the larger of both, from which on a loss has
grown away: a network that answers anything at all does better than twice a constant guess."""

WILD = 9.0
"""The same where it is not known what a constant guess costs, and the loss may have grown since the task did (targets
that are made by the network itself): ten times the beginning."""

RUNAWAY = 999.0
"""The same beside another optimizer: an adversary's loss is meant to rise, though not to a thousand times itself."""

TENFOLD = 10.0
"""Growth of the gradient's norm that goes with a loss that is running away."""

STILL = 0.03
"""Swing (standard deviation within the last half) over level of a loss that stays where it was blown to. Above it one
that does not grow either oscillates."""


def check(patient: Patient) -> list[Finding]:
    """One finding for a loss that is maximized, or ends far above its beginning and above a constant guess."""
    turned = reversed_sign(patient) or unbounded_loss(patient)
    if turned is not None:
        return [turned]
    values = finite(patient.losses)
    shape = curve(values)
    if shape is None or patient.progress.learning:
        return []
    guess = patient.progress.guess
    start = max(abs(values[0]), abs(guess or 0.0))
    rise = (shape.level - max(values[0], guess if guess is not None else values[0])) / (start or 1.0)
    limit = RUNAWAY if not patient.alone else TWICE if guess is not None else WILD
    if rise <= limit or not (shape.growing or _stays(shape)):
        return []
    longest = typical(patient.recent, length, last=10) or 0.0
    grown = _grown(patient)
    ahead = [far / abs(r.loss) for r in patient.recent if r.loss and (far := reach(r)) is not None]
    too_long = longest >= LONG or max(ahead, default=0.0) >= 1.0
    if guess is None and (not (too_long or grown >= TENFOLD) or _longer(patient)):
        return []
    cause = "steps too long for the loss: each overshoots" if too_long else "the loss rises, and not by long steps"
    remedies = ("a learning rate ten times smaller", "gradient clipping", "warm-up")
    if blocks := without_warm_up(patient):
        cause += f"; {len(blocks)} normalizations behind a sum (post-norm) and no warm-up"
        remedies = ("warm-up of the learning rate", "pre-norm: the normalization inside the branch", *remedies[:2])
    if (drifted := drift(patient)) >= DRIFT:
        cause += f"; the outputs have drifted to {drifted:.2g} times their size"
        remedies = (*remedies, "a penalty on the outputs' size (z-loss)")
    return [
        Finding(
            kind="diverging_loss",
            severity="critical",
            sites=("loss",),
            evidence={
                "loss_at_first": values[0],
                "loss": shape.level,
                "constant_guess": guess,
                "quarters": shape.parts,
                "update_to_weight_ratio": longest,
                "growth_of_the_gradient": grown,
                "growth_of_the_outputs": drifted,
                "first_order_decrease_over_loss": max(ahead, default=None),
                "onset": next((step for step, loss in patient.losses if loss > values[0] + start), 0),
            },
            cause=cause,
            explanation=(
                f"The loss has grown from {values[0]:.3g} to {shape.level:.3g}"
                + (f", where a constant guess costs {guess:.3g}." if guess is not None else ".")
                + f" The gradient's norm has grown {grown:.2g}-fold, and a step moves the weights by "
                f"{longest:.1e} of their size: {cause}."
            ),
            remedies=remedies,
            wrong_if="the loss comes back below its beginning by itself",
        )
    ]


def _stays(shape: Curve) -> bool:
    """Whether the newest losses are where they were a quarter of the training before, and swing no more than noise."""
    return shape.level >= 0.7 * shape.parts[2] and shape.swing < STILL * abs(shape.level)


def _longer(patient: Patient) -> bool:
    """Whether the examples have another size than at first: a loss that is summed over them grows with it."""
    shapes = [{row.name: row.shape[1:] for row in r.sites} for r in (patient.early[0], patient.last)]
    return any(shape != shapes[1].get(name, shape) for name, shape in shapes[0].items())


def _grown(patient: Patient) -> float:
    norms = [n for r in patient.readings if (n := gradients(r)) > 0]
    return max(norms[1:], default=0.0) / norms[0] if norms else 0.0


RULE = Rule(
    kind="diverging_loss",
    check=check,
    sick=(
        Case("growing step by step", cases.training([1.0] * 5, moved=0.2, loss="growing")),
        Case("blown up and staying there", cases.training([1.0] * 5, moved=0.2, loss="blown up")),
        Case("a minus before the loss", cases.training([1.0] * 5, moved=1e-3, loss="negative", flipped=True)),
        Case("below zero, and ever faster", cases.training([1.0] * 5, moved=1e-3, loss="endless")),
    ),
    healthy=(
        Case("learning", cases.training([1.0] * 5, moved=1e-3, loss="learning")),
        Case("not learning, at a constant guess", cases.training([1.0] * 5, moved=1e-3, loss="stalled")),
        Case("a wild start that comes down", cases.training([1.0] * 5, moved=1e-2, loss="coming down")),
        Case("negative by nature, and falling", cases.training([1.0] * 5, moved=1e-3, loss="negative")),
        Case("a likelihood that slows down", cases.training([1.0] * 5, moved=1e-3, loss="likelihood")),
        Case("one that grew threefold", cases.training([1.0] * 5, moved=1e-3, loss="threefold")),
        Case("one that began below zero, ever faster", cases.training([1.0] * 5, moved=1e-3, loss="from below")),
        Case("one that passed zero, evenly", cases.training([1.0] * 5, moved=1e-3, loss="through zero")),
        Case("one spike", cases.training([1.0] * 5, moved=1e-3, loss="spike")),
    ),
)
