"""Does the training learn? Judged by the loss against a constant guess, its beginning, and its own best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from gradiometer.records import Reading

ENOUGH = 20
"""Losses below this number say nothing: a first drop and its noise cannot be told apart."""

FALL = 0.2
"""Share of the loss that must be gone for a training to count as learning.

An output layer that only learns the frequencies of the classes, with every layer below it dead, takes the loss from
its value at birth to that of a constant guess, and in a freshly made classifier those two differ by
less than a tenth. A fifth is twice that.
"""

KEPT = 0.5
"""Share of the best improvement that must still be there: a training that had learned and lost half of it is ill."""

TRAINED = 0.9
"""Share of the constant guess below which a loss at the first step is not that of a network just made."""

NEAR = 0.3
"""How near to the constant guess a network just made begins, if its loss is what it seems to be."""

_PLAIN = frozenset(
    """nll_loss nll_loss2d cross_entropy log_softmax binary_cross_entropy binary_cross_entropy_with_logits sigmoid
    softmax log mean view reshape permute transpose unsafe_view squeeze unsqueeze select slice t clone""".split()
)


@dataclass(frozen=True, slots=True)
class Progress:
    """``learning`` is ``None`` as long as nothing can be said; ``ever`` tells whether it did at some time.

    ``guess`` is the loss of a constant guess, where it is known.
    """

    learning: bool | None
    ever: bool = False
    initial: float | None = None
    current: float | None = None
    guess: float | None = None


def progress(losses: Sequence[tuple[int, float]], reading: Reading | None = None) -> Progress:
    """Compares the newest losses with the loss of a constant guess, or with the first ones where that is not known.

    Formula: learning if ``reference - current >= FALL * |reference|`` and beyond the noise, and if
    ``reference - current >= KEPT * (reference - best)``. The reference is the constant guess: neither a wild start that
    fell to it nor a plateau far below it from the first step on then misleads.
    """
    values = [value for _, value in losses if math.isfinite(value)]
    if len(losses) < ENOUGH or len(values) < ENOUGH:
        return Progress(None)
    # The first few only: a network that learns within twenty steps shall not be compared with itself.
    initial = median(values[:3])
    guess = _constant_guess(reading, initial)
    reference = initial if guess is None else guess
    length = max(5, len(values) // 10)
    tail = values[-length:]
    current = median(tail)
    noise = median(abs(v - current) for v in tail)
    best = min(median(values[i : i + length]) for i in range(0, len(values) - length + 1, length))
    enough = max(FALL * abs(reference), noise)
    ever = reference - min(best, current) >= enough
    kept = reference - current >= KEPT * (reference - best)
    learning = reference - current >= enough and kept and math.isfinite(losses[-1][1])
    if not learning and kept and guess is not None and initial < TRAINED * guess and math.isfinite(losses[-1][1]):
        return Progress(None, ever, initial, current, guess)  # trained before, and on its plateau now
    return Progress(learning, ever, initial, current, guess)


def _constant_guess(reading: Reading | None, initial: float) -> float | None:
    """Loss of always answering the same: ``ln C`` for cross-entropy over C classes, ``ln 2`` for the binary one."""
    outputs = [row for row in reading.sites if row.site.cause == "weights"] if reading is not None else []
    if reading is None or not outputs:
        return None
    output = outputs[-1]
    names = {*reading.loss_operations, *(row.site.operation for row in reading.sites if row.site.cause == "loss")}
    if names & {"nll_loss", "cross_entropy", "nll_loss2d"} and output.units > 1:
        guess = math.log(output.units)
    elif any(name.startswith("binary_cross_entropy") for name in names):
        guess = math.log(2)
    else:
        return None
    # A sum over the batch instead of a mean is told by its size, and by its gradient: each example's is at most sqrt(2)
    # long before the reduction, so that N of them, averaged, are at most sqrt(2/N) together.
    count = output.examples
    # Where something is done to the loss before backward (a factor, a second loss) the guess holds only if the loss
    # begins near it: the verdict must not depend on the scale of the loss.
    if not names <= _PLAIN and abs(initial - guess) > NEAR * guess:
        return None
    long = output.grad_norm is not None and output.grad_norm > 1.01 * math.sqrt(2 / count)
    return guess * count if count > 4 and long and initial > 0.5 * guess * count else guess
