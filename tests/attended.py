"""Entropy and sharpness of attention weights, row by row in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import Tensor


def oracle(weights: Tensor) -> tuple[float, float]:
    """From weights alone, row by row: a place is open if it has any, and logits are known up to a number."""
    entropies, distances = [], []
    for row in weights.double().reshape(-1, weights.shape[-1]).tolist():
        logs = [math.log(a) for a in row if a > 0]
        if len(logs) > 1:
            entropies.append(-sum(math.exp(a) * a for a in logs) / math.log(len(logs)))
            distances.append(max(logs) - sum(logs) / len(logs))
    n = len(entropies)
    return (sum(entropies) / n, sum(distances) / n) if n else (1.0, 0.0)


def agree(found: Any, weights: Tensor, tolerance: float = 1e-4) -> bool:
    return found == pytest.approx(oracle(weights), rel=tolerance, abs=1e-6)


def pair(found: dict[str, Any]) -> tuple[Any, Any]:
    return found["entropy"], found["sharpness"]
