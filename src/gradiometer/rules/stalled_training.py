"""The loss does not fall: the steps are too short to move the weights, or they move and nothing is learned."""

from __future__ import annotations

import math
from statistics import mean, stdev
from typing import NamedTuple

from gradiometer.records import Finding, Severity
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.curve import curve, finite
from gradiometer.rules.depth import MOVING
from gradiometer.rules.drawn import as_drawn
from gradiometer.rules.hints import without_warm_up
from gradiometer.rules.progress import KEPT, LITTLE
from gradiometer.rules.slow_training import slow_training
from gradiometer.rules.steps import ended, length, removable, typical, weights

SHORT = 0.05
"""Share of the loss that all steps together can at most have removed, below which they are too short.

A bound from above (see `reach`), and a loss falls by a twentieth only if every step went straight downhill.
"""

MANY = 100
"""Steps from which on a training is judged by what it has had, and not by what a warm-up may yet bring."""

RISING = 1.5
"""Growth of the learning rate in the second half of a training that is warming up (a linear one doubles)."""

TINY = 1e-6
"""Learning rate from which on down no optimizer trains: a thousandth of what Adam, the most careful, is used with."""

PULLED = 0.1
"""Share of the norm at birth that is left of weights that decay holds down."""

WILD = 10.0
"""First loss in constant guesses, from which on to come down to one is to have learned something."""

FALLING = 0.9
"""Loss of the last quarter of a training over that of the quarter before, below which it is still coming down."""

PATIENCE = 200
"""Steps at a constant guess after which that is worth a word though the steps are long enough: twice `MANY`, since here
nothing but the loss speaks for it."""


def check(patient: Patient) -> list[Finding]:
    """One finding for a training that has learned nothing, or that stopped on its way."""
    slow = slow_training(patient)
    return _standing(patient) or ([slow] if slow is not None else [])


def _standing(patient: Patient) -> list[Finding]:
    """Of one that has learned nothing, with what is known of its steps."""
    progress = patient.progress
    if progress.learning is not False or progress.ever or patient.failed or not patient.recent:
        return []
    count = len(patient.losses)
    far = removable(patient)
    moved = typical(patient.recent, length)
    reference = progress.guess if progress.guess is not None else progress.initial
    why = _why(patient)
    if far is None or reference is None or (progress.gap >= LITTLE and (why is None or not why.schedule)):
        return []
    share = far / abs(reference) if reference else math.inf
    evidence: dict[str, object] = {
        "step": patient.last.step,
        "loss": progress.current,
        "loss_at_first": progress.initial,
        "constant_guess": progress.guess,
        "update_to_weight_ratio": moved,
        "removable_share_of_the_loss": share,
        "onset": 0,
    }
    said = f"After {count:,} steps the loss is {progress.current:.3g}, and was {patient.losses[0][1]:.3g} at first"
    said += f" (that of a constant guess is {progress.guess:.3g})." if progress.guess is not None else "."
    fallen = (progress.initial or 0.0) - (progress.current or 0.0) > SHORT * abs(progress.initial or 0.0)
    if not patient.alone or _warming_up(patient):
        return []
    known = progress.guess is not None or as_drawn(list(patient.early[0].parameters)) is not None
    if share < SHORT and count >= MANY and known and not (fallen and progress.guess is None):
        cause, todo, evidence["made_by_the_optimizer"], _ = why or _SHORT
        said += f" A step moves the weights by {moved or 0.0:.1e} of their size; all of them together can have removed "
        return [_finding("critical", evidence, cause, f"{said}{100 * share:.1g} % of the loss at most: {cause}.", todo)]
    at_guess = progress.guess is not None and (abs(progress.gap) < LITTLE or _above(patient))
    if count < (MANY if why else PATIENCE) or not (at_guess or (why is not None and why.schedule)):
        return []
    if why is None and (_below(patient, progress.guess) or _came_down(patient)):
        return []
    cause, todo, evidence["made_by_the_optimizer"], _ = why or _UNKNOWN
    said += (
        f" The weights move by {moved or 0.0:.1e} of their size a step, and no effect of that on the loss can be told "
    )
    said += f"from its noise: {cause}."
    return [_finding("critical" if why else "warning", evidence, cause, said, todo)]


def idle(patient: Patient) -> bool:
    """Whether the learning rate is next to nothing in all readings: the loss then says nothing of the network."""
    rates = [r.learning_rate for r in patient.readings]
    lengths = [length(r) or 0.0 for r in patient.readings]  # of very large gradients even such a rate makes long steps
    return bool(rates) and all(rate is not None and rate <= TINY for rate in rates) and max(lengths) < MOVING


class _Why(NamedTuple):
    """What holds a training back; ``optimizer`` says that it comes from there, and is no consequence of the network.

    ``schedule`` says that it explains as well why only a little was learned.
    """

    cause: str
    remedies: tuple[str, ...]
    optimizer: bool = False
    schedule: bool = False


_SHORT = _Why("the steps are too short for the weights", ("a larger learning rate", "Adam"))
_UNKNOWN = _Why(
    "why is not known",
    (
        "check that inputs and targets belong to each other (shuffled apart?)",
        "overfit one batch: if that fails, the model is at fault, else the data (it may be all noise)",
        "another learning rate",
    ),
)


def _why(patient: Patient) -> _Why | None:
    """What has made the steps, or the weights, so small; ``None`` if they were from the beginning."""
    if idle(patient):
        cause = f"a learning rate of {patient.last.learning_rate or 0.0:.1g}, with which nothing trains"
        return _Why(cause, ("a learning rate as usual (1e-3 with Adam)", "a shorter warm-up"), optimizer=True)
    first, now = weights(patient.early[0]), weights(patient.last)
    if first > 0 and now <= PULLED * first:
        cause = f"weight decay has pulled the weights down to {now / first:.1g} of what they were"
        return _Why(cause, ("less weight decay", "no decay for the first trials"), optimizer=True)
    if not any(length(r) for r in patient.readings):
        return _Why(
            "no weight moves at all", ("look at the gradients of the parameters, and at what the optimizer holds",)
        )
    if blocks := without_warm_up(patient):
        cause = f"{len(blocks)} normalizations behind a sum (post-norm) and no warm-up"
        todo = ("warm-up of the learning rate", "pre-norm: the normalization inside the branch")
        return _Why(cause, todo, schedule=True)
    if ended(patient) is not None:
        cause = "the schedule has brought the learning rate down before anything was learned"
        todo = ("a schedule that falls later", "a constant learning rate at first")
        return _Why(cause, todo, optimizer=True, schedule=True)
    return None


def _below(patient: Patient, guess: float | None) -> bool:
    """Whether the last half lies below the constant guess by more than its noise: a little was learned."""
    half = finite(patient.losses)[len(patient.losses) // 2 :]
    return guess is not None and guess - mean(half) > 3 * stdev(half) / math.sqrt(len(half))


def _came_down(patient: Patient) -> bool:
    """Whether it has learned the constant guess, from far above it: that may be all there is to learn."""
    initial, guess = patient.progress.initial, patient.progress.guess
    return initial is not None and guess is not None and initial > WILD * guess and not _above(patient)


def _above(patient: Patient) -> bool:
    """Whether the loss stays above a constant guess: it has not come down from its beginning, and does not."""
    progress, shape = patient.progress, curve(finite(patient.losses))
    if shape is None or progress.gap >= 0 or progress.current is None or progress.initial is None:
        return False
    return progress.current > KEPT * progress.initial and shape.parts[-1] >= FALLING * shape.parts[-2]


def _finding(severity: Severity, evidence: dict[str, object], cause: str, said: str, todo: tuple[str, ...]) -> Finding:
    return Finding(
        kind="stalled_training",
        severity=severity,
        sites=("loss",),
        evidence=evidence,
        cause=cause,
        explanation=said,
        remedies=todo,
        wrong_if="the loss falls within as many steps again, or the targets cannot be told from the inputs at all",
    )


def _warming_up(patient: Patient) -> bool:
    """Whether the learning rate is still growing."""
    before = [r.learning_rate for r in patient.readings if r.step <= patient.last.step / 2]
    now, then = patient.last.learning_rate, before[-1] if before else None
    return bool(now and then and now > RISING * then)


_HALVING = tuple(1e-3 * 0.5**step for step in (0, 49, 99, 149, 199))

_ENDED = (1e-3, 1e-4, *[1e-9] * 3)

RULE = Rule(
    kind="stalled_training",
    check=check,
    sick=(
        Case("steps of a millionth", cases.training([1.0] * 5, moved=1e-7)),
        Case("a schedule that fell to nothing", cases.training([1.0] * 5, moved=(1e-3, 1e-3, *[1e-9] * 3))),
        Case("weight decay that leaves nothing", cases.training([1.0] * 5, moved=1e-4, weights=1e-3)),
        Case(
            "a schedule that halves the rate every step, and a tenth learned",
            cases.training([1.0] * 5, moved=_HALVING, loss="little"),
        ),
        Case(
            "a learning rate of 1e-7 and a steep loss",
            cases.training([1.0] * 5, moved=2e-6, rate=1e-7, steep=1e4, steps=150),
        ),
        Case("a schedule that ended with half of the loss left", cases.training([1.0] * 5, moved=_ENDED, loss="half")),
        Case("a crawl", cases.training([1.0] * 5, moved=5e-5, loss="crawling", steps=400)),
        Case("steps as usual, and the loss of a constant guess", cases.training([1.0] * 5, moved=1e-3, steps=400)),
        Case("above a constant guess from the beginning on", cases.training([1.0] * 5, moved=1e-3, loss="above")),
        Case(
            "post-norm without warm-up, and a tenth learned",
            cases.training([1.0] * 5, moved=1e-3, loss="little", post_norm=4),
        ),
    ),
    healthy=(
        Case("learning", cases.training([1.0] * 5, moved=1e-3, loss="learning")),
        Case("warming up", cases.training([1.0] * 5, moved=(*[1e-8] * 3, *[1e-7] * 2))),
        Case("a schedule that ended after all was learned", cases.training([1.0] * 5, moved=_ENDED, loss="learning")),
        Case("slowly, with steps as usual", cases.training([1.0] * 5, moved=1e-3, loss="crawling", steps=400)),
        Case("twenty short steps", cases.training([1.0] * 5, moved=1e-4, steps=24)),
        Case("noise about zero, as of a policy gradient", cases.training([1.0] * 5, moved=1e-3, loss="zero")),
        Case("trained before, at its floor", cases.training([1.0] * 5, moved=1e-6, loss="floor")),
        Case("coming down from a wild start", cases.training([1.0] * 5, moved=1e-3, loss="coming down", steps=400)),
        Case("come down to it from far above", cases.training([1.0] * 5, moved=1e-3, loss="fallen", steps=400)),
        Case("above a constant guess, and sinking", cases.training([1.0] * 5, moved=1e-3, loss="sinking", steps=400)),
        Case(
            "a schedule that ends at zero, and a tenth learned",
            cases.training([1.0] * 5, moved=(1e-3, 8.5e-4, 5e-4, 1.5e-4, 1e-9), loss="little"),
        ),
        Case(
            "a burst that is over, and a tenth learned",
            cases.training([1.0] * 5, moved=(1e-3, 1e-1, *[1e-3] * 3), loss="little"),
        ),
        Case(
            "short steps at a usual rate, of a steep loss",
            cases.training([1.0] * 5, moved=2e-6, rate=1e-3, steep=1e4, steps=150),
        ),
        Case(
            "post-norm after a warm-up, and a tenth learned",
            cases.training([1.0] * 5, moved=(1e-4, *[1e-3] * 4), loss="little", post_norm=4),
        ),
        Case(
            "one block of post-norm, and a tenth learned",
            cases.training([1.0] * 5, moved=1e-3, loss="little", post_norm=2),
        ),
        Case("a little learned, of a noisy target", cases.training([1.0] * 5, moved=1e-3, loss="little")),
    ),
)
