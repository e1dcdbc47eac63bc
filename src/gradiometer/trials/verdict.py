"""The verdict over a trial: better beyond the noise over the seeds, and the finding gone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t

from gradiometer.records.trial import Arm, Interval

LEVEL = 0.95
"""Of the interval, two-sided."""


NOISY = "better, but not beyond the noise over the seeds"
"""Why most of those that are better are not verified."""

MISTAKES = frozenset(("frozen_parameters",))
"""Kinds that are a mistake in a script: one that is only worth knowing because the loss falls is there all the same."""


@dataclass(frozen=True)
class Complaint:
    """What must be gone: a finding of this kind, and a loss that stands."""

    kind: str


def interval(differences: Sequence[float], level: float = LEVEL) -> Interval | None:
    """The mean of paired differences and its interval; ``None`` of fewer than two.

    Formula: ``mean +- t_{(1 + level) / 2, n-1} s / sqrt(n)``.

    Args:
        differences: one a seed; an infinite one is that of an arm without a score.
        level: share of such intervals that hold the true mean.

    Returns:
        An `Interval`. Where some differences are infinite and others not, no noise can be told, and it reaches from the
        smallest to the largest, but never lies above zero; where all are, both ends are.

    Raises:
        nothing.

    Example:
        >>> found = interval([0.5, 0.6, 0.55])
        >>> round(found.mean, 2), round(found.low, 3), round(found.high, 3)
        (0.55, 0.426, 0.674)

    Source:
        Student, The probable error of a mean (1908).
    """
    if len(differences) < 2:
        return None
    finite = [value for value in differences if math.isfinite(value)]
    if not finite:
        return Interval(min(differences), min(differences), max(differences))
    if len(finite) < len(differences):
        worst, best = min(differences), max(differences)
        return Interval(worst if worst == -math.inf else best, min(0.0, worst), best)
    mean = fmean(differences)
    half = float(t.ppf((1 + level) / 2, len(differences) - 1)) * stdev(differences) / math.sqrt(len(differences))
    return Interval(mean, mean - half, mean + half)


def judged(untreated: Arm, treated: Arm, complaint: Complaint, tried: int = 1) -> tuple[Interval | None, str]:
    """The difference of two arms, and why the trial does not verify the remedy; an empty reason if it does.

    ``tried`` counts the proofs so far, this one included: the level rises with them (Bonferroni), so that trying again
    and again proves nothing.
    """
    pairs = list(zip(treated.scores, untreated.scores, strict=False))
    level = 1 - (1 - LEVEL) / tried
    gain = interval([_difference(a, b) for a, b in pairs], level) if len(pairs) > 1 else None
    if treated.failure:
        return gain, treated.failure
    if gain is None:
        return gain, "one seed alone, so that the noise is not known"
    if not gain.low > 0:
        return gain, "no better than untreated" if gain.mean <= 0 else NOISY
    return gain, _left(treated, complaint)


def _left(treated: Arm, complaint: Complaint) -> str:
    """What is left of the complaint, in words; nothing if it is gone."""
    name = complaint.kind.replace("_", " ") or "failure"
    diagnosis = treated.diagnosis
    if diagnosis is None or diagnosis.healthy is None:
        return f"better, but nobody can say whether the {name} is gone"
    if treated.stands:
        return "better, but the loss still does not fall"
    if any(f.kind == complaint.kind and (f.severity != "info" or f.kind in MISTAKES) for f in diagnosis):
        return f"better, but still: {name}"
    return ""


def _difference(treated: float, untreated: float) -> float:
    """Of two scores; one that is NaN, or infinitely bad, is worse than any."""
    if not treated > -math.inf:
        return -math.inf
    return treated - untreated if untreated > -math.inf else math.inf
