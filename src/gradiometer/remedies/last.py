"""The last activation of a network, and the same network without it, or with another one in its place."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import nn

from gradiometer.remedies.anatomy import ACTIVATIONS
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.by_line import Instead, exchange_by_line
from gradiometer.remedies.flow import Flow, Step, flow
from gradiometer.remedies.functional import Found, Shallow, exchange, find

IMPORTS = (
    "import sys",
    "from collections.abc import Callable, Mapping, Sequence",
    "from pathlib import Path",
    "from typing import Any",
    "from torch import fx, nn",
    "from torch.overrides import TorchFunctionMode",
)
"""What is needed to exchange calls of functions."""


class InEvaluation(torch.nn.Module):
    """An activation of the outputs that is there in evaluation only; in training the loss has one of its own."""

    def __init__(self, activation):
        """An activation as a module."""
        super().__init__()
        self.activation = activation

    def forward(self, x):
        """Raw scores in training, activated ones in evaluation."""
        return x if self.training else self.activation(x)


def last_activation(model: nn.Module, situation: Situation) -> tuple[Flow, Step] | None:
    """The activation that the outputs went through last, behind all weights; ``None`` if there is none."""
    seen = flow(model, situation.batch)
    for step in reversed(seen.steps):
        if step.role == "activation":
            return None if step.reached else (seen, step)
        if step.role in ("weights", "recurrent", "attention", "embedding"):
            return None
    return None


def activation_name(model: nn.Module, situation: Situation) -> str:
    """Its name, nothing if there is none."""
    found = last_activation(model, situation)
    return found[1].operation if found is not None else ""


def _place(model: nn.Module, situation: Situation, kinds: Collection[str]) -> tuple[tuple[str, ...], Found | None, str]:
    """The paths of the last activation if it is a module of its own, else where it is called, and in which line.

    Raises:
        UnusableError: if it is none of these kinds, or stands where nobody can reach it.
    """
    found = last_activation(model, situation)
    if found is None or found[1].operation not in kinds:
        raise UnusableError(f"the network's outputs do not come out of {' or '.join(sorted(kinds))}")
    seen, step = found
    if step.module is not None and len(seen.of(step.module)) == 1:
        every = model.named_modules(remove_duplicate=False)
        return tuple(path for path, module in every if module is step.module and path), None, ""
    if step.module is not None and isinstance(model.get_submodule(step.caller), nn.Sequential):
        owner = model.get_submodule(step.caller)
        name = [name for name, child in owner._modules.items() if child is step.module][-1]
        return (f"{step.caller}.{name}".lstrip("."),), None, ""
    return (), find(model, situation.batch, seen, step.caller, [step]), step.line


def replaced(
    model: nn.Module, situation: Situation, kinds: Collection[str], make: Callable[[], nn.Module]
) -> nn.Module:
    """The network with another module in the place of its last activation."""
    paths, calls, _ = _place(model, situation, kinds)
    for path in paths:
        model.set_submodule(path, make().train(model.training))
    if calls is not None:
        calls.exchange(model, make)
    return model


def replaced_code(situation: Situation, kinds: Collection[str], made: str, *classes: type) -> Code:
    """What a user would write for that."""
    paths, calls, line = _place(situation.model, situation, kinds)
    if calls is None:
        lines = [f'model.set_submodule("{path}", {made})' for path in paths]
        return Code(("from torch import nn",), classes, "\n".join(lines))
    note = f"# the same by hand: change it in {line}\n" if line else ""
    needed = (Instead, exchange_by_line) if calls.places else (Shallow, exchange)
    return Code(IMPORTS, (*classes, *needed), f"{note}{calls.written(f'lambda: {made}')}")


def constructor(operation: str) -> str:
    """How its module is made, softmax along the classes.

    Example:
        >>> constructor("softmax"), constructor("tanh")
        ('nn.Softmax(1)', 'nn.Tanh()')
    """
    along = "1" if "softmax" in operation else ""
    return f"nn.{ACTIVATIONS[operation].__name__}({along})"


def made(operation: str) -> nn.Module:
    """Its module."""
    return ACTIVATIONS[operation](*([1] if "softmax" in operation else []))
