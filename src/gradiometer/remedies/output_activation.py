"""Outputs that come out of an activation which the loss, or the targets, do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gradiometer.records.task import BOUNDED
from gradiometer.remedies.anatomy import anatomy
from gradiometer.remedies.around import Around
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.compared import all_targets, task_of
from gradiometer.remedies.known import findings, literal, needs_own_loss, objection, rounded
from gradiometer.remedies.last import activation_name, constructor, made, replaced, replaced_code
from gradiometer.remedies.recipe import Recipe
from gradiometer.remedies.scaling import Rescaled, exactly, in_deviations
from gradiometer.rules.mismatch import DIFFERENCES, ENTROPIES, nearest


def taken_twice(situation: Situation) -> tuple[str, ...]:
    """The activation that the loss has once more, or that keeps its scores within bounds."""
    task = task_of(situation, *ENTROPIES, "binary_cross_entropy_with_logits")
    operation = nearest(task)
    if task.loss in ENTROPIES and task.before[:1] != ("log_softmax",):
        raise UnusableError("the loss takes log-probabilities and gets what the network's own log_softmax gives")
    if operation in BOUNDED or operation == "log_softmax":
        return (operation,)
    raise UnusableError("the loss gets raw scores already")


def out_of_range(situation: Situation) -> tuple[str, ...]:
    """The activation whose range the targets leave."""
    task = task_of(situation, *DIFFERENCES, "l1_loss")
    operation = activation_name(situation.model, situation) or nearest(task)
    if operation not in BOUNDED:
        raise UnusableError("the output is linear already")
    low, high = BOUNDED[operation]
    targets = all_targets(situation)
    if low <= float(targets.min()) and float(targets.max()) <= high:
        raise UnusableError(f"all targets lie within what {operation} gives")
    return (operation,)


def without(kinds: Callable[[Situation], tuple[str, ...]]) -> dict[str, Any]:
    """What a remedy does that takes the last activation away."""
    return {
        "model": lambda model, situation: replaced(model, situation, kinds(situation), nn.Identity),
        "code": lambda situation: replaced_code(situation, kinds(situation), "nn.Identity()"),
        "unusable": objection(lambda s: replaced_code(s, kinds(s), "nn.Identity()")),
    }


def other_dimension(situation: Situation) -> str:
    """The softmax that runs over another dimension than the classes."""
    task = task_of(situation, "nll_loss", "cross_entropy", "kl_div")
    low, high = task.sums or (1.0, 1.0)
    if low >= 0.95 and high <= 1.05:
        raise UnusableError("the probabilities sum to one over the classes already")
    operation = activation_name(situation.model, situation)
    if "softmax" not in operation:
        raise UnusableError("the network's outputs do not come out of a softmax: give the one in the loss dim=1")
    return operation


def along_classes() -> dict[str, Any]:
    """What a remedy does that lets the softmax of the outputs run over the classes."""

    def model(network: nn.Module, situation: Situation) -> nn.Module:
        operation = other_dimension(situation)
        return replaced(network, situation, (operation,), lambda: made(operation))

    def code(situation: Situation) -> Code:
        operation = other_dimension(situation)
        return replaced_code(situation, (operation,), constructor(operation))

    return {"model": model, "code": code, "unusable": objection(code)}


# -- targets brought into the range of the outputs --------------------------------------------------------------------

PART = 0.8
"""Share of a range that the targets are to fill: its ends take infinitely large weights."""


def into_range(situation: Situation) -> tuple[float, float]:
    """Mean and deviation with which the targets lie within what the outputs can be.

    Raises:
        UnusableError: if they do already, or the range is not known.
    """
    needs_own_loss(situation)
    task = task_of(situation, *DIFFERENCES, "l1_loss")
    targets = all_targets(situation)
    if not targets.is_floating_point():
        raise UnusableError("the targets are no floating-point numbers")
    held = [f.evidence["outputs"] for f in findings(situation, "output_mismatch") if "outputs" in f.evidence]
    operation = activation_name(situation.model, situation) or nearest(task)
    if held:
        low, high = held[0]
    elif operation in BOUNDED:
        low, high = BOUNDED[operation]
    else:
        raise UnusableError("no activation bounds the outputs")
    least, most = float(targets.min()), float(targets.max())
    if low <= least and most <= high:
        raise UnusableError("all targets lie within what the outputs can be")
    if not most > least:
        raise UnusableError("all targets are the same")
    if high == float("inf"):
        deviation = rounded(float(targets.std()))
        return exactly(least - (1 - PART) * deviation, deviation), deviation
    deviation = rounded((most - least) / (PART * (high - low)))
    return exactly((least + most) / 2 - deviation * (low + high) / 2, deviation), deviation


def ranged() -> dict[str, Any]:
    """What a remedy does that scales targets to the range of the outputs."""

    def model(network: nn.Module, situation: Situation) -> nn.Module:
        return Rescaled(network, *into_range(situation))

    def recipe(given: Recipe, situation: Situation) -> Recipe:
        return replace(given, loss=in_deviations(given.loss, into_range(situation)[1]))

    def code(situation: Situation) -> Code:
        mean, deviation = into_range(situation)
        return Code(
            imports=("import torch",),
            classes=(Around, Rescaled, in_deviations),
            model=f"model = Rescaled(model, {literal(mean)}, {literal(deviation)})",
            loss=f"loss = in_deviations(loss, {literal(deviation)})",
        )

    return {"model": model, "recipe": recipe, "code": code, "unusable": objection(into_range)}


# -- more outputs -----------------------------------------------------------------------------------------------------


def wider(layer, outputs):
    """A linear layer with more outputs, of which the first are those that it has."""
    made = torch.nn.Linear(layer.in_features, outputs, layer.bias is not None).to(layer.weight)
    with torch.no_grad():
        made.weight[: layer.out_features] = layer.weight
        if layer.bias is not None:
            made.bias[: layer.out_features] = layer.bias
    return made


def too_few(model: nn.Module, situation: Situation) -> tuple[str, int]:
    """The path of the output layer, and the number of outputs that the classes need.

    Raises:
        UnusableError: if there are as many, or the output layer is not linear.
    """
    targets, layers = all_targets(situation), anatomy(model, situation.batch).weights
    if targets.is_floating_point() or not layers or type(layers[-1].module) is not nn.Linear:
        raise UnusableError(
            "the targets are no classes, or the output layer is not nn.Linear: give it more outputs by hand"
        )
    needed = int(targets.max()) + 1
    if needed <= layers[-1].module.out_features:
        raise UnusableError("there is an output for every class already")
    return layers[-1].path, needed


def widened() -> dict[str, Any]:
    """What a remedy does that gives the output layer a unit for every class."""

    def model(network: nn.Module, situation: Situation) -> nn.Module:
        path, outputs = too_few(network, situation)
        made = wider(network.get_submodule(path), outputs).train(network.training)
        if not path:
            return made
        network.set_submodule(path, made)
        return network

    def code(situation: Situation) -> Code:
        path, outputs = too_few(situation.model, situation)
        line = f'model.set_submodule("{path}", wider(model.get_submodule("{path}"), {outputs}))'
        return Code(("import torch",), (wider,), line if path else f"model = wider(model, {outputs})")

    return {"model": model, "code": code, "unusable": objection(lambda s: too_few(s.model, s))}
