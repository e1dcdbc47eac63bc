"""Loss functions in the place of one that does not fit what the network gives, or is asked for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gradiometer.remedies import fitting
from gradiometer.remedies.around import Around
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.compared import Change, all_targets, pair_of, task_of
from gradiometer.remedies.known import findings, made_optimizer, needs_own_loss, objection, rounded, tasks
from gradiometer.remedies.last import InEvaluation, activation_name, replaced, replaced_code
from gradiometer.remedies.recipe import Recipe
from gradiometer.rules.mismatch import BINARY, DIFFERENCES, ENTROPIES, first, nearest

PROBABLE = ("sigmoid", "softmax", "log_softmax")
"""Activations behind which a yes or no is given as a probability, or was meant to be."""


# -- the same loss of something else ----------------------------------------------------------------------------------


def through(operation: str, loss: str = "loss") -> Change:
    """The loss of the raw scores behind an activation."""
    line = f"of_outputs({loss}, lambda outputs: {fitting.INVERSES[operation]})"
    return lambda loss: fitting.of_outputs(loss, fitting.raw(operation)), line, (fitting.of_outputs,)


def of_raw_scores(situation: Situation) -> Change:
    """A loss that looks through the softmax, sigmoid or tanh at the outputs.

    Raises:
        UnusableError: if it takes what it gets.
    """
    task = task_of(situation, *ENTROPIES, "kl_div", "binary_cross_entropy_with_logits")
    operation = nearest(task)
    probabilities = task.loss in ("kl_div", "nll_loss") and first(task) == "softmax"
    twice = task.before[:1] == ("log_softmax",) or task.loss == "binary_cross_entropy_with_logits"
    if operation not in ("softmax", "sigmoid", "tanh") or not (probabilities or twice):
        raise UnusableError("the loss gets what it expects: no activation stands between it and the raw scores")
    if activation_name(situation.model, situation) != operation:
        raise UnusableError(f"the {operation} stands in the loss function and not in the network: leave it out there")
    return through(operation)


def of_log_probabilities(situation: Situation) -> Change:
    """A loss that gets the logarithms of probabilities, where it got raw scores.

    Raises:
        UnusableError: if it gets them already.
    """
    task = task_of(situation, "nll_loss", "kl_div")
    if first(task) in ("softmax", "log_softmax"):
        raise UnusableError(f"the outputs come out of a {first(task)}: they are no raw scores")
    if task.outputs is not None and task.outputs[1] <= 1e-5:
        raise UnusableError("none of the outputs is above zero: they are log-probabilities")
    dim = 1 if task.loss == "nll_loss" else -1
    line = f"of_outputs(loss, lambda outputs: torch.log_softmax(outputs, {dim}))"
    return lambda loss: fitting.of_outputs(loss, lambda y: torch.log_softmax(y, dim)), line, (fitting.of_outputs,)


def of_targets_between(situation: Situation) -> Change:
    """Binary cross-entropy of targets that were outside of 0 to 1.

    Raises:
        UnusableError: if they are not, or it is another loss.
    """
    if not findings(situation, "output_mismatch", "binary_cross_entropy", "binary cross-entropy"):
        task_of(situation, *BINARY)
    values = all_targets(situation)
    low, high = rounded(float(values.min())), rounded(float(values.max()))
    if low >= 0 and high <= 1:
        raise UnusableError("all targets lie between 0 and 1")
    line = f"of_targets_between(loss, {low:g}, {high:g})"
    return lambda loss: fitting.of_targets_between(loss, low, high), line, (fitting.of_targets_between,)


def of_known_classes(situation: Situation) -> Change:
    """The loss without the examples of a negative class.

    Raises:
        UnusableError: if there are none.
    """
    values = all_targets(situation)
    if values.is_floating_point() or not bool((values < 0).any()):
        raise UnusableError("no target is a negative class")
    return fitting.of_known_classes, "of_known_classes(loss)", (fitting.of_known_classes,)


def of_means(situation: Situation) -> Change:
    """The loss over the number of targets, where twice the examples make twice the loss.

    Raises:
        UnusableError: if they do not.
    """
    outputs, targets = pair_of(situation)
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
    return fitting.mean_of, "mean_of(loss)", (fitting.mean_of,)


# -- another loss -----------------------------------------------------------------------------------------------------


def of_classes(situation: Situation) -> Change:
    """Cross-entropy for a loss that takes classes for numbers.

    Raises:
        UnusableError: if there are no classes.
    """
    task_of(situation, *DIFFERENCES, "l1_loss", *BINARY)
    outputs, targets = pair_of(situation)
    classes = outputs.dim() == 2 and outputs.shape[1] > 1
    if targets.is_floating_point():
        classes = classes and targets.shape == outputs.shape and bool((targets >= 0).all())
        classes = classes and torch.allclose(targets.sum(1), torch.ones_like(targets[:, 0]), atol=1e-4)
    else:
        classes = classes and targets.shape == outputs.shape[:1]
        classes = classes and int(targets.min()) >= 0 and int(targets.max()) < outputs.shape[1]
    if not classes:
        raise UnusableError("the targets are no classes: neither numbers below that of the outputs nor one-hot rows")
    operation = activation_name(situation.model, situation)
    if not fitting.INVERSES.get(operation):
        return lambda _: fitting.of_classes, "of_classes", (fitting.of_classes,)
    make, line, parts = through(operation, "of_classes")
    return lambda _: make(fitting.of_classes), line, (fitting.of_classes, *parts)


def yes_or_no(situation: Situation) -> str:
    """The activation behind which zeros and ones are given, nothing if there is none.

    Raises:
        UnusableError: if the targets are others, or the loss is binary cross-entropy of raw scores already.
    """
    needs_own_loss(situation)
    outputs, targets = pair_of(situation)
    values = all_targets(situation)
    if (
        outputs.numel() != targets.numel()
        or not bool(((values == 0) | (values == 1)).all())
        or values.unique().numel() < 2
    ):
        raise UnusableError("the targets are not zeros and ones, one for every output")
    operation, known = activation_name(situation.model, situation), tasks(situation)
    if operation not in ("", *PROBABLE):
        raise UnusableError(f"the outputs come out of {operation}, which is no probability")
    if not operation and known and known[0].loss == "binary_cross_entropy_with_logits":
        raise UnusableError("the loss is binary cross-entropy of raw scores already")
    return operation


def logits() -> dict[str, Any]:
    """What a remedy does that has binary cross-entropy look at raw scores; in evaluation the sigmoid stays."""

    def model(network: nn.Module, situation: Situation) -> nn.Module:
        if not yes_or_no(situation):
            return network
        return replaced(network, situation, PROBABLE, lambda: InEvaluation(nn.Sigmoid()))

    def recipe(given: Recipe, situation: Situation) -> Recipe:
        yes_or_no(situation)
        return replace(given, loss=fitting.of_yes_or_no)

    def code(situation: Situation) -> Code:
        here = Code()
        if yes_or_no(situation):
            here = replaced_code(situation, PROBABLE, "InEvaluation(nn.Sigmoid())", InEvaluation)
        imports = tuple(dict.fromkeys(("import torch", *here.imports)))
        return replace(here, imports=imports, classes=(*here.classes, fitting.of_yes_or_no), loss="loss = of_yes_or_no")

    return {"model": model, "recipe": recipe, "code": code, "unusable": objection(code)}


def of_probabilities(situation: Situation) -> Change:
    """Binary cross-entropy of the probabilities that a sigmoid gives.

    Raises:
        UnusableError: if there is none, or that is the loss already.
    """
    if yes_or_no(situation) != "sigmoid":
        raise UnusableError("the network's outputs do not come out of a sigmoid")
    if any(task.loss == "binary_cross_entropy" for task in tasks(situation)):
        raise UnusableError("the loss is binary cross-entropy of probabilities already")
    return lambda _: fitting.of_probabilities, "of_probabilities", (fitting.of_probabilities,)


# -- a loss upside down, and of another shape -------------------------------------------------------------------------


def _in_the_loss(situation: Situation) -> bool:
    """Whether the loss function can be changed; else the optimizer or the network has to be."""
    try:
        needs_own_loss(situation)
    except UnusableError:
        return False
    return True


def turned(situation: Situation) -> bool:
    """Whether to turn the loss around; else the optimizer.

    Raises:
        UnusableError: if nothing says that the loss is maximized.
    """
    told = findings(situation, "diverging_loss", "sign of the loss", "without bound")
    losses = [x for x in situation.losses if math.isfinite(x)]
    if not told and not (losses and losses[-1] < min(0.0, losses[0])):
        raise UnusableError("the loss does not fall below zero, as one does whose sign is turned around")
    if _in_the_loss(situation):
        return True
    if not all("maximize" in group for group in made_optimizer(situation).param_groups):
        raise UnusableError("neither the loss nor the optimizer can be turned around from outside: leave out the minus")
    return False


def turning() -> dict[str, Any]:
    """What a remedy does that minimizes what was maximized."""

    def recipe(given: Recipe, situation: Situation) -> Recipe:
        if turned(situation):
            assert given.loss is not None
            return replace(given, loss=fitting.negated(given.loss))

        def change(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
            for group in optimizer.param_groups:
                group["maximize"] = not group["maximize"]
            return optimizer

        return given.with_optimizer(change)

    def code(situation: Situation) -> Code:
        if turned(situation):
            return Code(classes=(fitting.negated,), loss="loss = negated(loss)")
        return Code(optimizer='for group in optimizer.param_groups:\n    group["maximize"] = not group["maximize"]')

    return {"recipe": recipe, "code": code, "unusable": objection(turned)}


class Squeezed(Around):
    """A network that gives one number for an example, without a dimension of its own."""

    def forward(self, *args, **kwargs):
        """What the network gives."""
        return self.network(*args, **kwargs).squeeze(-1)


def reshaped(situation: Situation) -> bool:
    """Whether the loss can be given targets in the shape of the outputs; else the outputs lose a dimension.

    Raises:
        UnusableError: if they have one shape.
    """
    outputs, targets = pair_of(situation)
    if outputs.shape == targets.shape or outputs.numel() != targets.numel() or not targets.is_floating_point():
        raise UnusableError("outputs and targets have one shape, or different numbers of elements")
    if _in_the_loss(situation):
        return True
    if outputs.shape != (*targets.shape, 1):
        raise UnusableError("the step computes its loss itself: give it targets.view_as(outputs)")
    return False


def squeezing() -> dict[str, Any]:
    """What a remedy does that gives outputs and targets one shape."""

    def model(network: nn.Module, situation: Situation) -> nn.Module:
        return network if reshaped(situation) else Squeezed(network)

    def recipe(given: Recipe, situation: Situation) -> Recipe:
        if not reshaped(situation) or given.loss is None:
            return given
        return replace(given, loss=fitting.of_same_shape(given.loss))

    def code(situation: Situation) -> Code:
        if reshaped(situation):
            return Code(classes=(fitting.of_same_shape,), loss="loss = of_same_shape(loss)")
        return Code(("import torch",), (Around, Squeezed), "model = Squeezed(model)")

    return {"model": model, "recipe": recipe, "code": code, "unusable": objection(reshaped)}
