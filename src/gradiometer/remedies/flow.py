"""Where outputs go: which activations lie between weights, which gate, which weights lie in front of an addition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gradiometer.probe.given import call as call_model
from gradiometer.probe.traceless import traceless
from gradiometer.remedies.base import Situation
from gradiometer.remedies.following import Recorder, Step


@dataclass(frozen=True)
class Flow:
    """The steps of one forward pass, in their order; ``traced`` keeps what was found out of their modules besides."""

    steps: tuple[Step, ...]
    traced: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def hidden(self) -> list[Step]:
        """The activations between weights that do not gate anything, wherever they are written."""
        gates = {step.place for step in self.steps if step.role == "activation" and step.gates}
        return [
            step
            for step in self.steps
            if step.role == "activation" and step.follows and step.reached and step.place not in gates
        ]

    def activation_of(self, module: nn.Module | None, parameter: str = "") -> Step | None:
        """The hidden activation that the output of some weights goes through first."""
        hidden = set(map(id, self.hidden()))
        for step in self.steps:
            if id(step) in hidden and any(_is(source, module, parameter) for source in step.behind):
                return step
        return None

    def of(self, module: nn.Module | None, parameter: str = "") -> list[Step]:
        """The steps of some weights."""
        return [step for step in self.steps if _is(step, module, parameter)]

    def is_output(self, module: nn.Module | None, parameter: str = "") -> bool:
        """Whether some weights were used and no further weights read what they gave."""
        steps = self.of(module, parameter)
        return bool(steps) and not any(step.reached for step in steps)

    def joins(self, module: nn.Module) -> bool:
        """Whether the output of a module is added to another signal before anything else is done with it."""
        return any("add" in step.uses for step in self.of(module))


def _is(step: Step, module: nn.Module | None, parameter: str) -> bool:
    return step.parameter == parameter if module is None else step.module is module


def flow(model: nn.Module, batch: Any) -> Flow:
    """Runs a model on one batch in the mode it is in, leaving no trace, and notes where its outputs go.

    Formula: none.

    Args:
        model: the network.
        batch: ``(inputs, targets)`` or a mapping of the model's keywords.

    Returns:
        A `Flow`.

    Raises:
        whatever the model raises.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), nn.Sigmoid())
        >>> found = flow(model, (torch.randn(2, 4), None))
        >>> [step.path for step in found.hidden()], found.is_output(model[2])
        (['1'], True)

    Source:
        none.
    """
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    recorder = Recorder(model)
    with traceless(model), torch.no_grad(), recorder:
        recorder.given(inputs)
        call_model(model, inputs)
    return Flow(tuple(recorder.steps))


def flow_of(situation: Situation) -> Flow:
    """The flow of the untreated network, which is found once."""
    found = situation.__dict__.get("_flow")
    if found is None:
        found = situation.__dict__["_flow"] = flow(situation.model, situation.batch)
    return found
