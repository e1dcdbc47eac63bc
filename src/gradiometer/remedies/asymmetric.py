"""Randomized asymmetric weights against ReLU networks that are born dead."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.draws import Draw
from gradiometer.remedies.flow import Flow
from gradiometer.remedies.gains import gain
from gradiometer.remedies.weights import Weight, normal, zero_bias
from gradiometer.remedies.whole import whole

RECTIFIERS = frozenset(("relu", "relu6"))
"""Activations that are zero, with a slope of zero, for half of what may come."""


def asymmetric_(layer: Any) -> None:
    """One of each unit's weights and bias from Beta(2, 1), which is positive, the others from a normal distribution."""
    weight, bias = layer.weight, layer.bias
    rows = torch.randn(len(weight), weight[0].numel() + 1) * 0.6007 / weight[0].numel() ** 0.5
    chosen = torch.randint(rows.shape[1], (len(rows), 1))
    rows.scatter_(1, chosen, torch.rand(len(rows), 1).sqrt())  # the square root of a uniform number is Beta(2, 1)
    weight.copy_(rows[:, :-1].view_as(weight))
    bias.copy_(rows[:, -1])


def scheme(weight: Weight) -> tuple[Draw, ...]:
    """Asymmetric in front of ReLU, He's elsewhere."""
    plain = weight.module is not None and weight.module._parameters.get("weight") is not None
    if weight.operation in RECTIFIERS and weight.bias and weight.regular and plain:
        return (Draw(weight.path, "", asymmetric_),)
    return (normal(weight, gain(weight.activation)), *zero_bias(weight))


def plan(model: nn.Module, seen: Flow) -> list[Draw]:
    """The draws of a whole network.

    Raises:
        UnusableError: if there is no ReLU between its layers.
    """
    if not any(step.operation in RECTIFIERS for step in seen.hidden()):
        raise UnusableError("There is no ReLU between the layers of this network, so none of its units can be dead.")
    return whole(model, seen, scheme)
