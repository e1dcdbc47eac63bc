"""Classifiers of one to three layers."""

from __future__ import annotations

import torch
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import classifier, mlp
from torch import nn

CASES = Cases()


@CASES.healthy()
def logistic_regression() -> Training:
    """The simplest of all."""
    model = nn.Linear(64, 10)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 200)


@CASES.healthy()
def logistic_regression_one_example_at_a_time() -> Training:
    """The loss of a step is that of one digit."""
    model = nn.Linear(64, 10)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 500, batch=1)


@CASES.healthy()
def two_tanh_layers() -> Training:
    """As in the textbook."""
    model = mlp(2, nn.Tanh)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.2), 250)


@CASES.healthy()
def one_sigmoid_layer() -> Training:
    """Sigmoid units are no fault in a shallow network."""
    model = mlp(1, nn.Sigmoid)
    return classifier(model, torch.optim.SGD(model.parameters(), 1.0), 300)


@CASES.healthy()
def relu_batches_of_four_rmsprop() -> Training:
    """A noisy gradient, an adaptive step."""
    model = mlp(3)
    return classifier(model, torch.optim.RMSprop(model.parameters(), 1e-3), 400, batch=4)


@CASES.sick("stalled_training")
def learning_rate_1e_6(sick: bool) -> Training:
    """A step so short that nothing moves."""
    model = mlp(1)
    return classifier(model, torch.optim.SGD(model.parameters(), 1e-6 if sick else 0.1), 200)
