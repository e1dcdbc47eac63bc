"""Output layers scaled down until the first loss is that of a constant guess."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gradiometer.probe.given import call as call_model
from gradiometer.probe.outputs import tensors
from gradiometer.probe.traceless import traceless
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.draws import attribute, named
from gradiometer.remedies.flow import Flow, flow, flow_of
from gradiometer.remedies.lsuv import inputs_of
from gradiometer.remedies.weights import Weight, weights

SIZE = 0.1
"""Root mean square of the outputs to begin with, in units of the targets' own (1 of classes): the loss is then within
half a per cent of a constant guess, since cross-entropy exceeds it by about the square over two."""

LOUD = 3.0
"""Outputs below this size are not loud: at 3 the cross-entropy of ten classes is twice that of a constant guess."""


def plan(model: nn.Module, batch: Any, seen: Flow) -> list[tuple[str, str, float]]:
    """Paths and parameters of what has to be scaled, and the factors, as they are written down.

    Raises:
        UnusableError: if the outputs are not loud, or no output layer is found.
    """
    outputs = [weight for weight in weights(model, seen) if weight.output and _plain(model, weight)]
    if not outputs:
        raise UnusableError(
            "No linear layer or convolution that gives the output was found. Scale down the last weights by hand."
        )
    targets = _size(batch[1]) if isinstance(batch, (tuple, list)) and len(batch) == 2 else 1.0
    scaled: list[tuple[str, str, float]] = []
    largest = 0.0
    for weight in outputs:
        without_bias, bias = _sizes(model, weight, batch)
        largest = max(largest, without_bias / targets, bias / targets)
        if without_bias > LOUD * targets:
            scaled.append((weight.path, weight.parameter, _factor(SIZE * targets / without_bias)))
        if bias > LOUD * targets:
            scaled.append((weight.path, weight.bias, 0.0))
    if not scaled:
        raise UnusableError(f"The outputs begin with {largest:.2g} times the size of the targets, which is not loud.")
    return scaled


def _plain(model: nn.Module, weight: Weight) -> bool:
    """Whether it is a parameter, and not computed from others, which need not be smaller when they are."""
    return weight.parameter in model.get_submodule(weight.path)._parameters


def _factor(x: float) -> float:
    return float(f"{x:.2g}") if math.isfinite(x) else 0.0


def _size(targets: Any) -> float:
    """Root mean square of floating targets about their mean, at least as large as the mean is; one of classes."""
    y = next((y for _, y in tensors(targets)), None)
    if y is None or not y.is_floating_point() or not y.numel():
        return 1.0
    size = float(y.detach().double().square().mean().sqrt())
    return size if math.isfinite(size) and size > 0 else 1.0


def _sizes(model: nn.Module, weight: Weight, batch: Any) -> tuple[float, float]:
    """Root mean squares of an output layer's output without its bias, and of the bias."""
    seen: list[Any] = []
    bias = getattr(weight.module, weight.bias, None) if weight.bias else None
    with traceless(model), torch.no_grad():
        kept = 0.0 if bias is None else float(bias.double().square().mean().sqrt())
        if bias is not None:
            bias.zero_()
        handles = []
        if weight.module is not None:
            handles.append(weight.module.register_forward_hook(lambda _, __, output: seen.append(output)))
        y = call_model(model, inputs_of(batch))
        for handle in handles:
            handle.remove()
        found = seen or [x for _, x in tensors(y) if x.is_floating_point()][:1]
        size = max((float(x.double().square().mean().sqrt()) for x in found), default=0.0)
    return size, kept


def change(model: nn.Module, situation: Situation) -> nn.Module:
    """Scales the output layers."""
    scaled = plan(model, situation.batch, flow(model, situation.batch))
    with torch.no_grad():
        for path, parameter, factor in scaled:
            getattr(model.get_submodule(path), parameter).mul_(factor)
    return model


def code(situation: Situation) -> Code:
    """The factors that the first batch asks for."""
    lines = ["with torch.no_grad():"]
    for path, parameter, factor in plan(situation.model, situation.batch, flow_of(situation)):
        lines.append(f"    {attribute(named(path), parameter)}.mul_({factor})")
    return Code(model="\n".join(lines))


def unusable(situation: Situation) -> str | None:
    """Why nothing has to be scaled."""
    try:
        plan(situation.model, situation.batch, flow_of(situation))
    except UnusableError as error:
        return str(error)
    return None
