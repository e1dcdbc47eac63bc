"""What the remedies of outputs and losses ask: which loss there is, what it compares, and how to give it another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradiometer.records import Task
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.known import first_batches, needs_own_loss, objection, outputs_of, targets_of, tasks
from gradiometer.remedies.recipe import Loss, Recipe

Change = tuple[Callable[[Loss], Loss], str, tuple[Any, ...]]
"""What makes the new loss function of the old one, the line that says so, and the functions in it."""


def task_of(situation: Situation, *losses: str) -> Task:
    """The loss of these kinds among those of a step.

    Raises:
        UnusableError: if there is none.
    """
    compared = tasks(situation)
    found = next((task for task in compared if task.loss in losses), None)
    if found is None:
        seen = ", ".join(task.loss for task in compared) or "not seen"
        raise UnusableError(f"it is for {' and '.join(losses)}, and the loss is {seen}")
    return found


def pair_of(situation: Situation) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the first batch.

    Raises:
        UnusableError: if they are not one tensor each.
    """
    outputs, targets = outputs_of(situation.model, situation), targets_of(situation.batch)
    if not isinstance(outputs, Tensor) or targets is None:
        raise UnusableError("outputs and targets are not one tensor each")
    return outputs, targets


def all_targets(situation: Situation) -> Tensor:
    """The targets of the first batches, in one row.

    Raises:
        UnusableError: if there are none.
    """
    found = [t.reshape(-1) for batch in first_batches(situation) if (t := targets_of(batch)) is not None]
    if not found:
        raise UnusableError("the batches have no targets of their own")
    return torch.cat(found)


def changed(plan: Callable[[Situation], Change]) -> dict[str, Any]:
    """What a remedy does that gives the recipe another loss function."""

    def usable(situation: Situation) -> Change:
        needs_own_loss(situation)
        return plan(situation)

    def recipe(given: Recipe, situation: Situation) -> Recipe:
        assert given.loss is not None
        return replace(given, loss=usable(situation)[0](given.loss))

    def code(situation: Situation) -> Code:
        _, line, classes = usable(situation)
        return Code(imports=("import torch",), classes=classes, loss=f"loss = {line}")

    return {"recipe": recipe, "code": code, "unusable": objection(usable)}
