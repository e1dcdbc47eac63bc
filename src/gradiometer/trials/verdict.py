"""The verdict over a trial: better beyond the noise over the seeds, and the finding gone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.stats import t

from gradiometer.records import Diagnosis
from gradiometer.records.trial import Arm, Interval

LEVEL = 0.95
"""Of the interval, two-sided."""


def interval(differences: Sequence[float]) -> Interval | None:
    """The mean of paired differences and its interval; ``None`` of fewer than two.

    Formula: ``mean +- t_{0.975, n-1} s / sqrt(n)``.

    Args:
        differences: one a seed.

    Returns:
        An `Interval`.

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
    if not all(map(math.isfinite, differences)):
        return Interval(sum(differences), min(differences), max(differences))
    mean = fmean(differences)
    half = float(t.ppf((1 + LEVEL) / 2, len(differences) - 1)) * stdev(differences) / math.sqrt(len(differences))
    return Interval(mean, mean - half, mean + half)


def judged(untreated: Arm, treated: Arm, kind: str) -> tuple[Interval | None, str]:
    """The difference of two arms, and why the trial does not verify the remedy; an empty reason if it does."""
    pairs = list(zip(treated.scores, untreated.scores, strict=False))
    gain = interval([_difference(a, b) for a, b in pairs]) if len(pairs) > 1 else None
    if treated.failure:
        return gain, treated.failure
    if gain is None:
        return gain, "one seed alone, so that the noise is not known"
    if not gain.low > 0:
        return gain, "no better than untreated" if gain.mean <= 0 else "better, but not beyond the noise over the seeds"
    if still_there(treated.diagnosis, kind):
        return gain, f"better, but the {kind.replace('_', ' ')} is still there"
    return gain, ""


def still_there(diagnosis: Diagnosis | None, kind: str) -> bool:
    """Whether a finding of this kind is told as more than a piece of information."""
    return diagnosis is not None and any(f.kind == kind and f.severity != "info" for f in diagnosis)


def _difference(treated: float, untreated: float) -> float:
    """Of two scores; one that is NaN is worse than any."""
    if math.isnan(treated):
        return -math.inf
    return math.inf if math.isnan(untreated) else treated - untreated
