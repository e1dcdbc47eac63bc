"""What is known to make trainings fail together with what the loss does: a cause to name where no other is found."""

from __future__ import annotations

from itertools import pairwise

from gradiometer.records import Reading
from gradiometer.rules.base import Patient
from gradiometer.rules.steps import length

DEEP = 4
"""Sums with a normalization behind them (two to a transformer block) from which on a warm-up is needed: Xiong et al.
(2020) see post-norm transformers of six blocks fail without one, and those of one block train."""

WARMED = 0.3
"""Length of the first step over the longest, below which there was a warm-up."""

DRIFT = 10.0
"""Growth of the outputs' rms from which on logits drift: at ten times the scale a softmax of random ones is one-hot."""


def post_norm(reading: Reading) -> list[str]:
    """Normalizations that stand behind a sum, in the order of the forward pass."""
    return [
        after.name
        for before, after in pairwise(reading.sites)
        if before.site.operation == "add" and after.site.cause == "normalization"
    ]


def without_warm_up(patient: Patient) -> list[str]:
    """The same of a training whose steps were long from the first one on; empty if there are few, or they grew."""
    found = post_norm(patient.last) if patient.recent else []
    lengths = [value for r in patient.readings if (value := length(r)) is not None]
    warmed = len(lengths) > 1 and lengths[0] < WARMED * max(lengths)
    return [] if warmed or len(found) < DEEP else found


def drift(patient: Patient) -> float:
    """How much larger the outputs of the last layer have become since the first reading: output-logit drift.

    Source:
        Chowdhery et al., PaLM (2022), section 5: the z-loss against logits that drift.
    """
    ends = [_output(r) for r in (patient.early[0], patient.last)] if patient.early and patient.recent else []
    return ends[1] / ends[0] if len(ends) == 2 and ends[0] > 0 else 1.0


def _output(reading: Reading) -> float:
    return next((row.rms for row in reversed(reading.sites) if row.site.cause == "weights"), 0.0)
