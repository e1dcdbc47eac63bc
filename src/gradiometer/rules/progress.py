"""Does the training learn? Judged by the loss against where it began and against a constant guess."""

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


@dataclass(frozen=True, slots=True)
class Progress:
    """``learning`` is ``None`` as long as nothing can be said; ``guess`` is the loss of a constant guess, if known."""

    learning: bool | None
    initial: float | None = None
    current: float | None = None
    guess: float | None = None


def progress(losses: Sequence[tuple[int, float]], reading: Reading | None = None) -> Progress:
    """Compares the newest losses with the first ones, and with the loss of a constant guess where that is known.

    Formula: learning if ``reference - current >= FALL * |reference|``, and beyond the noise, where ``reference`` is
    the smaller of the initial loss and the constant guess.
    """
    values = [value for _, value in losses if math.isfinite(value)]
    if len(losses) < ENOUGH or len(values) < ENOUGH:
        return Progress(None)
    if not math.isfinite(losses[-1][1]):
        return Progress(False, values[0])
    # The first few only: a network that learns within twenty steps shall not be compared with itself.
    initial = median(values[:3])
    tail = values[-max(5, len(values) // 10) :]
    current = median(tail)
    noise = median(abs(v - current) for v in tail)
    guess = _constant_guess(reading, initial)
    # A loss that fell from a wild start to that of a constant guess has not learned anything yet.
    reference = initial if guess is None else min(initial, guess)
    learning = reference - current >= max(FALL * abs(reference), noise)
    return Progress(learning, initial, current, guess)


def _constant_guess(reading: Reading | None, initial: float) -> float | None:
    """Loss of always answering the same: ``ln C`` for cross-entropy over C classes, ``ln 2`` for the binary one."""
    if reading is None or not reading.sites:
        return None
    outputs = [row for row in reading.sites if row.site.cause == "weights"]
    operations = set(reading.loss_operations) | {
        row.site.operation for row in reading.sites if row.site.cause == "loss"
    }
    if operations & {"nll_loss", "cross_entropy", "nll_loss2d"} and outputs and outputs[-1].units > 1:
        guess = math.log(outputs[-1].units)
    elif any(name.startswith("binary_cross_entropy") for name in operations):
        guess = math.log(2)
    else:
        return None
    # A sum over the batch instead of a mean is told by its size.
    count = outputs[-1].examples if outputs else 1
    if count > 4 and 0.5 < initial / (guess * count) < 2:
        guess *= count
    return guess
