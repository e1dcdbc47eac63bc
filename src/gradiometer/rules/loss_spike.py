"""A step whose loss leaves its recent range by far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from gradiometer.records import Finding
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.curve import MAD, finite
from gradiometer.rules.steps import LONG, gradients, length, weights

WINDOW = 40
"""Losses before a step that make its recent range."""

HISTORY = 20
"""Losses without which there is no range, as many as `progress.ENOUGH` asks for."""

PASSING = 2
"""Steps after which a single bad batch is over, and no harm done."""

HARD = 10.0
"""Height in constant guesses (or in losses of the beginning, if these were higher) up to which a batch that passes may
be one of rare examples: being sure and wrong of a few, with a weight of ten on their class, costs no more."""

NOTHING = 1e-6
"""Share of the largest loss so far below which the usual loss is zero."""

BEYOND = 5.0
"""Distance of the logarithm from its median in the window, in standard deviations. The losses of small batches spread
by factors and not by differences: of log-normal noise one in three million lies so far out, whatever its width."""

TIMES = 4.0
"""How far above the largest loss of the window the spike stands, over the median: a batch of one has single
losses twice as large as those before every few hundred steps."""

ODD = 20.0
"""The same of losses that may be negative, which double and halve for no reason."""

ALONE = 0.5
"""Share of a spike's height at which the next losses are where one bad batch made it. Where they stay up, with weights
that were not thrown anywhere, the task has changed."""

MOVED = 0.1
"""Change of the weights' norm (its logarithm) from the reading before to the one after that is more than the learning
in between brings: a step as long as half of the weights, at a right angle to them."""

TOP = 0.5
"""Height of a spike in constant guesses (or in losses of the beginning): below that it does no harm."""


def check(patient: Patient) -> list[Finding]:
    """One finding for the highest spike."""
    values = finite(patient.losses)
    if not patient.alone or patient.failed or len(values) < len(patient.losses):
        return []
    found = [(values[i] / _before(values, i), i) for i in range(HISTORY, len(values)) if _is_spike(patient, values, i)]
    if not found:
        return []
    times, at = max(found)
    step = patient.losses[at][0]
    back = next((k for k, v in enumerate(values[at + 1 :], 1) if v <= 2 * _before(values, at)), None)
    thrown = _thrown(patient, step)
    following = values[at + 1 : at + 4]
    over = back is not None or patient.progress.learning
    if not thrown and over and following and median(following) > ALONE * values[at]:
        return []  # the weights are where they were, and what they are asked for has changed
    passing = (
        not thrown
        and back is not None
        and back <= PASSING
        and values[at] < HARD * max(_level(patient, values), abs(median(values[:HISTORY])))
    )
    near = {r.step: r for r in patient.readings if abs(r.step - step) <= 1}
    told = "; ".join(
        f"step {k}: gradient {gradients(r):.2g}, update {length(r) or 0:.1e} of the weights" for k, r in near.items()
    )
    recovered = (
        f"came back within {back} step{'s' if back != 1 else ''}" if back is not None else "has not come back since"
    )
    return [
        Finding(
            kind="loss_spike",
            severity="info" if passing else "warning",
            sites=("loss",),
            evidence={
                "step": step,
                "loss": values[at],
                "before": _before(values, at),
                "times": times,
                "spikes": len(found),
                "steps_until_it_came_back": back,
                "weights_thrown": thrown,
                "onset": step,
            },
            cause="one step too long" if thrown else "one batch unlike the others",
            explanation=(
                f"At step {step} the loss is {values[at]:.3g}, {times:.2g} times what it was in the steps before "
                f"({_before(values, at):.3g}), and {recovered}." + (f" Measured near it: {told}." if told else "")
            ),
            remedies=("gradient clipping", "a smaller learning rate or warm-up", "look at the batch of that step"),
            wrong_if="the task was changed on purpose at that step (a new data set, a new stage)",
        )
    ]


def _thrown(patient: Patient, step: int) -> bool:
    """Whether a long step was seen there, or the weights have another size than before."""
    readings = sorted({r.step: r for r in patient.readings}.values(), key=lambda r: r.step)
    if any((length(r) or 0.0) >= LONG for r in readings if abs(r.step - step) <= 1):
        return True
    before = [weights(r) for r in readings if r.step < step]
    after = [weights(r) for r in readings if r.step > step]
    return bool(before and after and before[-1] > 0 and abs(math.log(after[0] / before[-1])) > MOVED)


def _level(patient: Patient, values: Sequence[float]) -> float:
    """What a constant guess costs, or else what the first steps did."""
    guess = patient.progress.guess
    return abs(guess if guess is not None else median(values[:HISTORY]))


def _before(values: Sequence[float], i: int) -> float:
    return max(abs(median(values[max(0, i - WINDOW) : i])), 1e-30)


def _is_spike(patient: Patient, values: Sequence[float], i: int) -> bool:
    window = values[max(0, i - WINDOW) : i]
    middle = median(window)
    height = values[i] - middle
    level = max(_level(patient, values), abs(middle))
    if abs(middle) <= NOTHING * max(map(abs, values[: i + 1])):
        return False  # a loss that is mostly zero has no range to leave
    if height <= TOP * level or height <= TIMES * (max(window) - middle):
        return False
    if min(window) < 0:  # a log-likelihood: it has no zero to count in factors from, and tails of any length
        return height > ODD * (max(window) - middle)
    spread = MAD * median(abs(math.log(v / middle)) for v in window if v)
    return math.log(values[i] / middle) > BEYOND * spread


RULE = Rule(
    kind="loss_spike",
    check=check,
    sick=(
        Case("one step far out, and back", cases.training([1.0] * 5, moved=1e-3, loss="spike")),
        Case("far out, and half of it stays", cases.training([1.0] * 5, moved=1e-3, loss="jump")),
        Case("far out, and all of it stays", cases.training([1.0] * 5, moved=1e-3, loss="lost", steps=400)),
    ),
    healthy=(
        Case("learning", cases.training([1.0] * 5, moved=1e-3, loss="learning")),
        Case("the noise of a batch of one", cases.training([1.0] * 5, moved=1e-3, loss="heavy tails")),
        Case("noise about zero, as of a policy gradient", cases.training([1.0] * 5, moved=1e-3, loss="zero")),
        Case("a task that changed, and is learned", cases.training([1.0] * 5, moved=1e-3, loss="new task", steps=400)),
        Case("a restart of the schedule", cases.training([1.0] * 5, moved=1e-3, loss="restart")),
    ),
)
