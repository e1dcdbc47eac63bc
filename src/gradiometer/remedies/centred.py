"""Biases that centre each unit on the first batch, so that ReLU units fire for half of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.probe.given import call as call_model
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.draws import listed
from gradiometer.remedies.flow import Flow, flow, flow_of
from gradiometer.remedies.lsuv import IMPORTS, inputs_of, passed
from gradiometer.remedies.weights import weights


@contextmanager
def centred(model: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Moves the biases of layers, in the order in which they are called, so that each unit has mean zero."""
    done = set()

    def centre(layer: Any, _: Any, output: Tensor) -> Tensor:
        unit = output.ndim - layer.weight.ndim + 1  # the dimension of the units: of linear layers it is the last
        mean = output.mean([d for d in range(output.ndim) if d != unit], keepdim=True)
        if layer in done or not mean.isfinite().all():
            return output
        done.add(layer)
        layer.bias.sub_(mean.flatten())
        return output - mean

    hooks = [model.get_submodule(path).register_forward_hook(centre) for path in paths]
    with torch.no_grad():
        yield
    for hook in hooks:
        hook.remove()


def plan(model: nn.Module, seen: Flow) -> tuple[str, ...]:
    """The paths of the hidden layers with a bias.

    Raises:
        UnusableError: if there is none.
    """
    layers = [w for w in weights(model, seen) if not isinstance(w.module, nn.Bilinear)]
    found = [w for w in layers if w.bias and not w.output and w.activation != "linear"]
    if not found:
        raise UnusableError("No layer of this network has a bias in front of an activation.")
    return tuple(weight.path for weight in found)


def change(model: nn.Module, situation: Situation) -> nn.Module:
    """Moves the biases."""
    paths = plan(model, flow(model, situation.batch))
    with centred(model, paths):
        call_model(model, inputs_of(situation.batch))
    return model


def code(situation: Situation) -> Code:
    """One pass of the first batch, which is ``inputs``."""
    paths = plan(situation.model, flow_of(situation))
    lines = [f"with centred(model, {listed(paths)}):", f"    {passed(situation.batch)}"]
    return Code(imports=IMPORTS, classes=(centred,), model="\n".join(lines))


def unusable(situation: Situation) -> str | None:
    """Why no bias can be moved."""
    try:
        plan(situation.model, flow_of(situation))
    except UnusableError as error:
        return str(error)
    return None
