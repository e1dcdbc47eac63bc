"""Weights and biases drawn at the edge of chaos of the activation behind them."""

from __future__ import annotations

from torch import nn

from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.draws import Draw
from gradiometer.remedies.flow import Flow
from gradiometer.remedies.gains import critical
from gradiometer.remedies.weights import Weight, normal, number, zero_bias
from gradiometer.remedies.whole import whole


def scheme(weight: Weight) -> tuple[Draw, ...]:
    """Normal weights with variance ``sw^2 / fan_in`` and biases with ``sb^2``; output layers with one and zero."""
    found = critical(weight.activation)
    if found is None:
        raise UnusableError(
            f"{weight.operation} has no edge of chaos that could be found: no scale of the weights keeps both the "
            "signal and the gradient."
        )
    scale, spread = found
    if not spread or not weight.bias:
        return (normal(weight, scale), *zero_bias(weight))
    return normal(weight, scale), Draw(weight.path, weight.bias, nn.init.normal_, (("std", number(spread)),))


def plan(model: nn.Module, seen: Flow) -> list[Draw]:
    """The draws of a whole network."""
    return whole(model, seen, scheme)
