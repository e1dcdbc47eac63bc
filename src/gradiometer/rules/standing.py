"""Parameters that stand still: what part of a model they are, and the finding that tells of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradiometer.records import Finding, ParameterReading, Reading, Severity
from gradiometer.rules.base import Patient, percent
from gradiometer.rules.patience import in_time

MOST = 0.5
"""Share of a model's parameters from which on their standing still is what keeps it from learning."""

SEVERAL = 3
"""Readings from which on it is clear that parameters take no part, or that an optimizer will not come any more."""


def _size(parameters: Sequence[ParameterReading]) -> int:
    return sum(math.prod(p.parameter.shape) for p in parameters)


def share(reading: Reading, some: Sequence[ParameterReading]) -> float:
    """What part of the parameters of the models under watch these are."""
    whole = [p for p in reading.parameters if not stranger(p)]
    return min(_size(some) / max(_size(whole), 1), 1.0)


def stranger(p: ParameterReading) -> bool:
    """Whether an optimizer holds it, and no model under watch has it."""
    return p.name.startswith("param_groups[")


def finding(
    patient: Patient,
    some: Sequence[ParameterReading],
    severe: Severity,
    cause: str,
    said: str,
    remedies: tuple[str, ...],
    wrong_if: str,
) -> Finding:
    """What is said of some parameters: ``cause``, and in a sentence about them ``said``."""
    largest = sorted(some, key=lambda p: -math.prod(p.parameter.shape))
    part = share(patient.last, some)
    tensors = f"{len(some)} tensor{'s' if len(some) > 1 else ''}"
    start = f"Parameters such as {largest[0].name} ({tensors}, {percent(part)} of the model)"
    return Finding(
        kind="frozen_parameters",
        severity=severe,
        sites=tuple(p.name for p in largest),
        evidence={
            "step": patient.last.step,
            "onset": in_time(patient)[0].step,
            "share_of_parameters": part,
            "parameters": len(some),
        },
        cause=cause,
        explanation=f"{start} {said}.",
        remedies=remedies,
        wrong_if=wrong_if,
    )
