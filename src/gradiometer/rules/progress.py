"""Does the training learn? Judged by the loss against a constant guess, its beginning, and its own best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from gradiometer.records import Reading
from gradiometer.rules.curve import MAD, curve

ENOUGH = 20
"""Losses below this number say nothing: a first drop and its noise cannot be told apart."""

FALL = 0.2
"""Share of the loss that must be gone for a training to count as learning.

The constant guess is known from batches, to a few hundredths of itself; where it is not known, and the loss is compared
with its beginning, a freshly made output layer that learns nothing but the frequencies of the classes takes about a
tenth of it away. A fifth is twice that.
"""

LITTLE = 0.05
"""Share of a constant guess, beyond the noise, from which on something was learned that looks at the input: the guess
itself is known to a few hundredths. Whether a noisy target holds more than that, nobody can say."""

KEPT = 0.5
"""Share of the best improvement that must still be there: a training that had learned and lost half of it is ill."""

TRAINED = 0.9
"""Share of the constant guess below which a loss at the first step is not that of a network just made."""

OUTLIER = 5.0
"""Losses so many times the median of their neighbours are left out of a mean."""

BEYOND = 10.0
"""Standard errors by which a loss must have fallen to fall beyond doubt."""

NEAR = 0.3
"""How near to the constant guess a network just made begins, if its loss is what it seems to be."""


@dataclass(frozen=True, slots=True)
class Progress:
    """``learning`` is ``None`` as long as nothing can be said; ``ever`` tells whether it did at some time.

    ``initial`` and ``current`` are the loss at the first steps and at the newest ones, ``guess`` is that of a
    constant guess, where it is known. ``gap`` is the share of the reference (the guess, or else the beginning) that is
    gone, ``noise`` the standard error of ``current`` as such a share. ``trained`` says that it began well
    below its guess, ``steady`` that it falls in every quarter, far beyond its noise, where no guess is known: a large
    constant may be in it.
    """

    learning: bool | None
    ever: bool = False
    initial: float | None = None
    current: float | None = None
    guess: float | None = None
    gap: float = 0.0
    noise: float = 0.0
    trained: bool = False
    steady: bool = False

    @property
    def little(self) -> bool:
        """Whether it has learned something, though not much: of a noisy target that may be all there is."""
        return self.guess is not None and self.gap > LITTLE + 3 * self.noise


def progress(losses: Sequence[tuple[int, float]], readings: Sequence[Reading] = ()) -> Progress:
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
    guess = constant_guess(readings, initial)
    reference = initial if guess is None else guess
    length = max(5, len(values) // 10)
    tail = values[-length:]
    current = _level(tail)
    spread = median(abs(v - current) for v in tail)
    best = min(median(values[i : i + length]) for i in range(0, len(values) - length + 1, length))
    enough = max(FALL * abs(reference), spread)
    ever = reference - min(best, current) >= enough
    kept = reference - current >= KEPT * (reference - best)
    finite = math.isfinite(losses[-1][1])
    scale = abs(reference) or 1.0
    learning: bool | None = reference - current >= enough and kept and finite
    noise = MAD * spread / math.sqrt(length) / scale
    gap = (reference - current) / scale
    # A first loss may be low by chance, ten of them are not.
    trained = guess is not None and max(initial, _level(values[:10])) < TRAINED * guess
    if not learning and kept and trained and finite:
        learning = None  # trained before, and on its plateau now
    return Progress(learning, ever, initial, current, guess, gap, noise, trained, _steady(values, guess, gap, noise))


def _steady(values: list[float], guess: float | None, gap: float, noise: float) -> bool:
    shape = curve(values)
    if guess is not None or shape is None:
        return False
    a, b, c, d = shape.parts
    return a > b > c > d and gap > BEYOND * noise


def _level(values: Sequence[float]) -> float:
    """The mean, as the constant guess is one, without the few values that would be all of it."""
    middle = median(values)
    kept = [v for v in values if middle <= 0 or v <= OUTLIER * middle]
    return math.fsum(kept) / len(kept)


def constant_guess(readings: Sequence[Reading], initial: float) -> float | None:
    """Loss of always answering the same, the mean over the readings; ``None`` where it is not known.

    Where something is done to the loss before backward (a factor, a second loss) what the loss function compares
    counts only if the training begins near its guess: the verdict must not depend on the scale of the loss.
    """
    known = []
    for reading in readings:
        guesses = [task.guess for task in reading.tasks if task.guess is not None]
        if guesses and len(guesses) == len(reading.tasks):
            plain = len(guesses) == 1 and reading.tasks[0].direct
            known.append((math.fsum(guesses) * max(reading.passes, 1), plain))
    if not known or len(known) < len([r for r in readings if r.tasks]):
        return None
    guess = math.fsum(value for value, _ in known) / len(known)
    direct = all(plain for _, plain in known)
    return guess if direct or abs(initial - guess) <= NEAR * guess else None
