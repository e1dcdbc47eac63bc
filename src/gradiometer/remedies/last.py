"""The last activation of a network, and the same network without it, or with another one in its place."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import nn

from gradiometer.remedies.anatomy import ACTIVATIONS
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.flow import Flow, Step, flow
from gradiometer.remedies.functional import Shallow, exchange, find


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


@dataclass(frozen=True)
class _Place:
    """Where it is: the paths of a module, or names of calls in the forward of the module at a path."""

    paths: tuple[str, ...] = ()
    owner: str = ""
    calls: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    line: str = ""


def _place(model: nn.Module, situation: Situation, kinds: Collection[str]) -> _Place:
    """Where the last activation is, if it is of these kinds.

    Raises:
        UnusableError: if it is none of them, or stands where nobody can reach it.
    """
    found = last_activation(model, situation)
    if found is None or found[1].operation not in kinds:
        raise UnusableError(f"the network's outputs do not come out of {' or '.join(sorted(kinds))}")
    seen, step = found
    if step.module is not None and len(seen.of(step.module)) == 1:
        every = model.named_modules(remove_duplicate=False)
        return _Place(paths=tuple(path for path, module in every if module is step.module and path))
    if step.module is not None and isinstance(model.get_submodule(step.caller), nn.Sequential):
        owner = model.get_submodule(step.caller)
        name = [name for name, child in owner._modules.items() if child is step.module][-1]
        return _Place(paths=(f"{step.caller}.{name}".lstrip("."),))
    calls, absent = find(model, situation.batch, seen, step.caller, [step])
    return _Place(owner=step.caller, calls=calls, absent=absent, line=step.line)


def replaced(
    model: nn.Module, situation: Situation, kinds: Collection[str], make: Callable[[], nn.Module]
) -> nn.Module:
    """The network with another module in the place of its last activation."""
    where = _place(model, situation, kinds)
    for path in where.paths:
        model.set_submodule(path, make().train(model.training))
    if where.calls:
        exchange(model.get_submodule(where.owner), where.calls, make, where.absent)
    return model


def replaced_code(situation: Situation, kinds: Collection[str], made: str, *classes: type) -> Code:
    """What a user would write for that."""
    where = _place(situation.model, situation, kinds)
    if where.paths:
        lines = [f'model.set_submodule("{path}", {made})' for path in where.paths]
        return Code(("from torch import nn",), classes, "\n".join(lines))
    owner = f'model.get_submodule("{where.owner}")' if where.owner else "model"
    absent = f", {where.absent!r}" if where.absent else ""
    note = f"# the same by hand: leave it out in {where.line}\n" if where.line else ""
    imports = ("from collections.abc import Callable, Sequence", "from typing import Any", "from torch import fx, nn")
    return Code(
        imports, (*classes, Shallow, exchange), f"{note}exchange({owner}, {where.calls!r}, lambda: {made}{absent})"
    )


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
