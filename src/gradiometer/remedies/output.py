"""Remedies for an output and a loss that do not fit each other, by what the loss was seen to compare."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.records import Task
from gradiometer.records.task import BOUNDED
from gradiometer.remedies import fitting
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.known import (
    findings,
    first_batches,
    made_optimizer,
    needs_own_loss,
    objection,
    outputs_of,
    rounded,
    targets_of,
    tasks,
)
from gradiometer.remedies.last import InEvaluation, activation_name, replaced, replaced_code
from gradiometer.remedies.recipe import Loss, Recipe
from gradiometer.rules.mismatch import BINARY, DIFFERENCES, ENTROPIES, first, nearest

Plan = Callable[[Situation], Any]


def _task(situation: Situation, *losses: str) -> Task:
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


def _shapes(situation: Situation) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the first batch.

    Raises:
        UnusableError: if they are not one tensor each.
    """
    outputs, targets = outputs_of(situation.model, situation), targets_of(situation.batch)
    if not isinstance(outputs, Tensor) or targets is None:
        raise UnusableError("outputs and targets are not one tensor each")
    return outputs, targets


def _targets(situation: Situation) -> Tensor:
    found = [t.reshape(-1) for batch in first_batches(situation) if (t := targets_of(batch)) is not None]
    if not found:
        raise UnusableError("the batches have no targets of their own")
    return torch.cat(found)


# -- without an activation --------------------------------------------------------------------------------------------------


def _twice(situation: Situation) -> tuple[str, ...]:
    """The activation that the loss has once more, or that keeps its scores within bounds."""
    task = _task(situation, *ENTROPIES, "binary_cross_entropy_with_logits")
    operation = nearest(task)
    if task.loss in ENTROPIES and task.before[:1] != ("log_softmax",):
        raise UnusableError("the loss takes log-probabilities and gets what the network's own log_softmax gives")
    if operation in BOUNDED or operation == "log_softmax":
        return (operation,)
    raise UnusableError("the loss gets raw scores already")


def _beyond(situation: Situation) -> tuple[str, ...]:
    """The activation whose range the targets leave."""
    task = _task(situation, *DIFFERENCES, "l1_loss")
    operation = activation_name(situation.model, situation) or nearest(task)
    if operation not in BOUNDED:
        raise UnusableError("the output is linear already")
    low, high = BOUNDED[operation]
    targets = _targets(situation)
    if low <= float(targets.min()) and float(targets.max()) <= high:
        raise UnusableError(f"all targets lie within what {operation} gives")
    return (operation,)


def _without(kinds: Callable[[Situation], tuple[str, ...]]) -> dict[str, Any]:
    """What a remedy does that takes the last activation away."""
    return {
        "model": lambda model, situation: replaced(model, situation, kinds(situation), nn.Identity),
        "code": lambda situation: replaced_code(situation, kinds(situation), "nn.Identity()"),
        "unusable": objection(lambda s: replaced_code(s, kinds(s), "nn.Identity()")),
    }


def _other_dimension(situation: Situation) -> str:
    """The softmax that runs over another dimension than the classes."""
    task = _task(situation, "nll_loss", "cross_entropy", "kl_div")
    low, high = task.sums or (1.0, 1.0)
    if low >= 0.95 and high <= 1.05:
        raise UnusableError("the probabilities sum to one over the classes already")
    operation = activation_name(situation.model, situation)
    if "softmax" not in operation:
        raise UnusableError("the network's outputs do not come out of a softmax: give the one in the loss dim=1")
    return operation


# -- a loss that is given something else ----------------------------------------------------------------------------------


def _changed(
    check: Plan, change: Callable[[Situation], tuple[Callable[[Loss], Loss], str, tuple[Any, ...]]]
) -> dict[str, Any]:
    """What a remedy does that gives the loss function something else.

    ``change`` gives what makes the new one of the old, the line that says so, and the functions in it.
    """

    def plan(situation: Situation) -> tuple[Callable[[Loss], Loss], str, tuple[Any, ...]]:
        needs_own_loss(situation)
        check(situation)
        return change(situation)

    def recipe(given: Recipe, situation: Situation) -> Recipe:
        assert given.loss is not None
        return replace(given, loss=plan(situation)[0](given.loss))

    def code(situation: Situation) -> Code:
        _, line, classes = plan(situation)
        return Code(imports=("import torch",), classes=classes, loss=f"loss = {line}")

    return {"recipe": recipe, "code": code, "unusable": objection(plan)}


def _scores_from(operation: str) -> tuple[Callable[[Loss], Loss], str, tuple[Any, ...]]:
    line = f"of_outputs(loss, lambda outputs: {fitting.INVERSES[operation]})"
    return lambda loss: fitting.of_outputs(loss, fitting.raw(operation)), line, (fitting.of_outputs,)


def _activated(situation: Situation) -> str:
    """The activation that the loss should look through."""
    task = _task(situation, *ENTROPIES, "kl_div", "binary_cross_entropy_with_logits")
    operation = nearest(task)
    probabilities = task.loss in ("kl_div", "nll_loss") and first(task) == "softmax"
    twice = task.before[:1] == ("log_softmax",) or task.loss == "binary_cross_entropy_with_logits"
    if operation not in ("softmax", "sigmoid", "tanh") or not (probabilities or twice):
        raise UnusableError("the loss gets what it expects: no activation stands between it and the raw scores")
    return operation


def _raw_scores(situation: Situation) -> int:
    """The dimension of the classes in raw scores that a loss takes for log-probabilities."""
    task = _task(situation, "nll_loss", "kl_div")
    if task.outputs is not None and task.outputs[1] <= 1e-5:
        raise UnusableError("none of the outputs is above zero: they are log-probabilities")
    if first(task) in ("softmax", "log_softmax"):
        raise UnusableError(f"the outputs come out of a {first(task)}: they are no raw scores")
    return 1 if task.loss == "nll_loss" else -1


def _log_softmax(situation: Situation) -> tuple[Callable[[Loss], Loss], str, tuple[Any, ...]]:
    dim = _raw_scores(situation)
    line = f"of_outputs(loss, lambda outputs: torch.log_softmax(outputs, {dim}))"
    return lambda loss: fitting.of_outputs(loss, lambda y: torch.log_softmax(y, dim)), line, (fitting.of_outputs,)


def _other_shape(situation: Situation) -> None:
    outputs, targets = _shapes(situation)
    if outputs.shape == targets.shape or outputs.numel() != targets.numel() or not targets.is_floating_point():
        raise UnusableError("outputs and targets have one shape, or different numbers of elements")


# -- another loss -----------------------------------------------------------------------------------------------------------


def _of_classes(situation: Situation) -> tuple[Callable[[Loss], Loss], str, tuple[Any, ...]]:
    """Cross-entropy for a loss that takes classes for numbers.

    Raises:
        UnusableError: if there are no classes.
    """
    _task(situation, *DIFFERENCES, "l1_loss", *BINARY)
    outputs, targets = _shapes(situation)
    several = outputs.dim() == 2 and outputs.shape[1] > 1
    if targets.is_floating_point():
        classes = several and targets.shape == outputs.shape and bool((targets >= 0).all())
        classes = classes and torch.allclose(targets.sum(1), torch.ones_like(targets[:, 0]), atol=1e-4)
    else:
        classes = several and targets.shape == outputs.shape[:1] and int(targets.min()) >= 0
        classes = classes and int(targets.max()) < outputs.shape[1]
    if not classes:
        raise UnusableError("the targets are no classes: neither numbers below that of the outputs nor one-hot rows")
    operation = activation_name(situation.model, situation)
    operation = operation if operation in fitting.INVERSES else ""
    if not operation:
        return lambda _: fitting.of_classes, "of_classes", (fitting.of_classes,)
    _, line, (wrapper,) = _scores_from(operation)
    made_of = line.replace("(loss,", "(of_classes,")
    return lambda _: fitting.of_outputs(fitting.of_classes, fitting.raw(operation)), made_of, (fitting.of_classes, wrapper)


def _of_yes_or_no(situation: Situation) -> bool:
    """Whether a sigmoid stands before a loss that is not, or not yet, binary cross-entropy of raw scores.

    Raises:
        UnusableError: if the targets are not zeros and ones, or that is the loss already.
    """
    needs_own_loss(situation)
    outputs, targets = _shapes(situation)
    values = _targets(situation)
    single = outputs.numel() == targets.numel()
    if not single or not bool(((values == 0) | (values == 1)).all()) or not bool((values != values[0]).any()):
        raise UnusableError("the targets are not zeros and ones, one for every output")
    operation = activation_name(situation.model, situation)
    known = tasks(situation)
    if known and known[0].loss == "binary_cross_entropy_with_logits":
        raise UnusableError("the loss is binary cross-entropy of raw scores already")
    if operation not in ("sigmoid", "", "log_softmax", "softmax"):
        raise UnusableError(f"the outputs come out of {operation}, which is no probability")
    return operation == "sigmoid"


def _logits(model: nn.Module, situation: Situation) -> nn.Module:
    if not _of_yes_or_no(situation):
        return model
    return replaced(model, situation, ("sigmoid",), lambda: InEvaluation(nn.Sigmoid()))


def _logits_code(situation: Situation) -> Code:
    here = Code()
    if _of_yes_or_no(situation):
        here = replaced_code(situation, ("sigmoid",), "InEvaluation(nn.Sigmoid())", InEvaluation)
    imports = tuple(dict.fromkeys(("import torch", *here.imports)))
    return replace(here, imports=imports, classes=(*here.classes, fitting.of_yes_or_no), loss="loss = of_yes_or_no")


def _outside(situation: Situation) -> tuple[float, float]:
    """Smallest and largest target of a binary cross-entropy that lie outside of 0 to 1.

    Raises:
        UnusableError: if they do not.
    """
    told = findings(situation, "output_mismatch", "binary_cross_entropy", "binary cross-entropy")
    if not told:
        _task(situation, *BINARY)
    values = _targets(situation)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        raise UnusableError("all targets lie between 0 and 1")
    return rounded(low), rounded(high)


def _between(situation: Situation) -> tuple[Callable[[Loss], Loss], str, tuple[Any, ...]]:
    low, high = _outside(situation)
    line = f"of_targets_between(loss, {low:g}, {high:g})"
    return lambda loss: fitting.of_targets_between(loss, low, high), line, (fitting.of_targets_between,)


def _marked(situation: Situation) -> None:
    values = _targets(situation)
    if values.is_floating_point() or not bool((values < 0).any()):
        raise UnusableError("no target is a negative class")


def _is_upside_down(situation: Situation) -> bool:
    """Whether the loss function can be turned around (else the optimizer is).

    Raises:
        UnusableError: if nothing says that the loss is maximized.
    """
    told = findings(situation, "diverging_loss", "sign of the loss", "without bound")
    losses = [x for x in situation.losses if math.isfinite(x)]
    if not told and not (losses and losses[-1] < min(0.0, losses[0])):
        raise UnusableError("the loss does not fall below zero, as one does whose sign is turned around")
    try:
        needs_own_loss(situation)
    except UnusableError:
        groups = made_optimizer(situation).param_groups
        if not all("maximize" in group for group in groups):
            raise
        return False
    return True


def _negate(recipe: Recipe, situation: Situation) -> Recipe:
    if _is_upside_down(situation):
        assert recipe.loss is not None
        return replace(recipe, loss=fitting.negated(recipe.loss))

    def change(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        for group in optimizer.param_groups:
            group["maximize"] = not group["maximize"]
        return optimizer

    return recipe.with_optimizer(change)


def _negate_code(situation: Situation) -> Code:
    if _is_upside_down(situation):
        return Code(classes=(fitting.negated,), loss="loss = negated(loss)")
    return Code(optimizer='for group in optimizer.param_groups:\n    group["maximize"] = not group["maximize"]')


def _sums(situation: Situation) -> None:
    """Raises unless twice the examples make twice the loss."""
    outputs, targets = _shapes(situation)
    loss = situation.recipe.loss
    assert loss is not None
    try:
        with torch.no_grad():
            once = float(loss(outputs.clone(), targets.clone()))
            twice = float(loss(torch.cat([outputs] * 2), torch.cat([targets] * 2)))
    except Exception as error:  # whatever a user's function raises
        raise UnusableError(f"the loss cannot be asked for more examples: {error}") from error
    if len(outputs) < 2 or not math.isfinite(once) or not once or not 1.8 <= twice / once <= 2.2:
        raise UnusableError("the loss is a mean over the examples already: twice as many leave it as it is")


def _squeeze(situation: Situation) -> tuple[Callable[[Loss], Loss], str, tuple[Any, ...]]:  # noqa: ARG001 - a plan
    return fitting.of_same_shape, "of_same_shape(loss)", (fitting.of_same_shape,)
