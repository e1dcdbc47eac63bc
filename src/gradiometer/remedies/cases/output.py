"""Sick recipes whose output and loss do not fit each other."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.remedies.cases.examples import fitting_a_curve, images, layers, telling_digits
from gradiometer.remedies.recipe import Recipe

slow = partial(torch.optim.SGD, lr=0.1)


def one_hot(targets: Tensor) -> Tensor:
    """Rows of zeros with a one."""
    return F.one_hot(targets, 10).float()


def large(targets: Tensor) -> Tensor:
    """Whether a digit is at least five, as a column of zeros and ones."""
    return (targets >= 5).float()[:, None]


def ended(last: nn.Module, outputs: int = 10, inputs: int = 64, **options: Any) -> nn.Sequential:
    """A network whose outputs come out of an activation."""
    return nn.Sequential(*layers(inputs, outputs, **options), last)


class Functional(nn.Module):
    """A network whose last activation is a function in its ``forward``."""

    def __init__(self, inputs: int, outputs: int, function: Any) -> None:
        """Two layers."""
        super().__init__()
        self.body, self.function = layers(inputs, outputs), function

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the function makes of it."""
        return self.function(self.body(x))


class Probable(nn.Module):
    """A classifier that gives probabilities."""

    def __init__(self) -> None:
        """Two layers."""
        super().__init__()
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """By a softmax as a function."""
        return F.softmax(self.last(F.relu(self.first(x))), dim=1)


# -- classes ----------------------------------------------------------------------------------------------------------


def softmax_twice() -> Recipe:
    """A softmax before cross-entropy."""
    return telling_digits(lambda: ended(nn.Softmax(1)), slow, 150)


def softmax_as_a_function() -> Recipe:
    """The same as a function."""
    return telling_digits(Probable, slow, 150)


def sigmoid_twice() -> Recipe:
    """A sigmoid before binary cross-entropy with logits, and a threshold on raw scores."""
    return telling_digits(
        lambda: ended(nn.Sigmoid(), 1),
        slow,
        targets=large,
        loss=F.binary_cross_entropy_with_logits,
        right=lambda y, t: (y[:, 0] > 0.9) == (t >= 5),
    )


def likelihood_of_raw_scores() -> Recipe:
    """A negative log-likelihood of what are no logarithms."""
    return telling_digits(optimizer=slow, loss=F.nll_loss)


def softmax_over_the_batch() -> Recipe:
    """Probabilities in which the examples compete, so that one by itself has none."""
    recipe = telling_digits(lambda: ended(nn.LogSoftmax(0)), slow, loss=F.nll_loss)
    data = images()

    def one_by_one(network: nn.Module) -> float:
        pairs = zip(data.test_inputs[:200].split(1), data.test_targets, strict=False)
        return sum(float(network(x).argmax(1) == y) for x, y in pairs) / 200

    return replace(recipe, evaluate=one_by_one)


def sure(outputs: int) -> nn.Sequential:
    """A network that ends with a sigmoid, and begins sure of itself."""
    network = ended(nn.Sigmoid(), outputs)
    nn.init.constant_(network.get_parameter("2.bias"), -12.0)
    return network


def squared_errors_of_classes() -> Recipe:
    """Squared errors of a sigmoid for every class."""
    return telling_digits(lambda: sure(10), slow, targets=one_hot, loss=F.mse_loss)


def squared_errors_of_yes_or_no() -> Recipe:
    """Squared errors of one sigmoid."""
    return telling_digits(
        lambda: sure(1), slow, targets=large, loss=F.mse_loss, right=lambda y, t: (y[:, 0] > 0.5) == (t >= 5)
    )


def raw_scores_as_probabilities() -> Recipe:
    """Binary cross-entropy of raw scores, at which torch stops."""
    return telling_digits(
        lambda: layers(64, 1),
        slow,
        targets=large,
        loss=F.binary_cross_entropy,
        right=lambda y, t: (y[:, 0] > 0) == (t >= 5),
    )


def signs_as_targets() -> Recipe:
    """Binary cross-entropy of targets of -1 and 1."""
    return telling_digits(
        lambda: layers(64, 1),
        slow,
        targets=lambda t: 2 * large(t) - 1,
        loss=F.binary_cross_entropy_with_logits,
        right=lambda y, t: (y[:, 0] > 0) == (t >= 5),
    )


def labels_from_one() -> Recipe:
    """Classes from 1 to 10, and ten outputs."""
    return telling_digits(targets=lambda t: t + 1, right=lambda y, t: y.argmax(1) == t + 1)


def labels_left_out() -> Recipe:
    """A tenth of the labels is -1, which marks what nobody has labelled."""
    return telling_digits(targets=lambda t: torch.where(torch.arange(len(t)) % 10 == 0, -1, t))


# -- numbers ----------------------------------------------------------------------------------------------------------


def output_behind_relu() -> Recipe:
    """A ReLU as the output, and targets of both signs."""
    return fitting_a_curve(lambda: ended(nn.ReLU(), 1, 8, activation=nn.Tanh), targets=lambda y: y - 1)


def output_behind_a_tanh_call() -> Recipe:
    """A tanh as the output, called as a function, and targets far outside."""
    return fitting_a_curve(lambda: Functional(8, 1, torch.tanh), targets=lambda y: 5 * y)


def shapes_that_broadcast() -> Recipe:
    """A column of outputs against a row of targets."""
    return fitting_a_curve(targets=lambda y: y[:, 0], loss=lambda y, t: (y - t).square().mean())


def own_step_that_broadcasts() -> Recipe:
    """The same in a step that computes its loss itself."""

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> float:  # noqa: ARG001 - a step is called so
        optimizer.zero_grad()
        value = (model(batch[0]) - batch[1]).square().mean()
        value.backward()
        optimizer.step()
        return value.item()

    return replace(shapes_that_broadcast(), step=step)


# -- signs and sums ---------------------------------------------------------------------------------------------------


def maximized() -> Recipe:
    """A minus too many."""
    return telling_digits(optimizer=slow, loss=lambda y, t: -F.cross_entropy(y, t))


def maximized_by_its_step() -> Recipe:
    """The same in a step that computes its loss itself."""

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> float:  # noqa: ARG001 - a step is called so
        optimizer.zero_grad()
        value = -F.cross_entropy(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
        return value.item()

    return replace(telling_digits(optimizer=slow), step=step)


def sum_over_the_batch() -> Recipe:
    """Squared errors that are summed up, at a rate for their mean."""
    return fitting_a_curve(
        optimizer=partial(torch.optim.SGD, lr=0.1), loss=lambda y, t: F.mse_loss(y, t, reduction="sum")
    )
