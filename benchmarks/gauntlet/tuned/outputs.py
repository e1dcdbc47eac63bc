"""Outputs and losses that do not fit each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    bounded,
    classifier,
    he,
    mlp,
    regression,
    smooth_function,
    supervised,
    undisturbed,
)
from torch import Tensor, nn

CASES = Cases()


def ended(model: nn.Sequential, end: nn.Module | None) -> nn.Sequential:
    """The model with one more module behind it."""
    return nn.Sequential(*model, end) if end is not None else model


def even(y: Tensor) -> Tensor:
    """Is the digit even?"""
    return (y % 2 == 0).float()[:, None]


def binary(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, loss: object, threshold: float) -> Training:
    """Even against odd digits, scored by the accuracy above a half."""
    x, y = digits()
    y = even(y)

    def score() -> float:
        with undisturbed(model):
            return bounded(2 * ((model(x[:500]) > threshold) == (y[:500] > 0.5)).float().mean().item() - 1)

    return supervised(model, optimizer, (x, y), loss, score, steps)  # type: ignore[arg-type]


@CASES.sick("output_mismatch", also=("stalled_training", "vanishing_gradient", "saturated_units"), good=0.8)
def softmax_before_cross_entropy(sick: bool) -> Training:
    """Probabilities where the loss expects scores: it takes their softmax a second time."""
    model = ended(mlp(3), nn.Softmax(1) if sick else None)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 300)


@CASES.sick("output_mismatch", also=("stalled_training", "vanishing_gradient", "saturated_units"), good=0.8)
def sigmoid_before_cross_entropy(sick: bool) -> Training:
    """Each class score between zero and one: no probability can pass a quarter."""
    model = ended(mlp(3), nn.Sigmoid() if sick else None)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 300)


@CASES.sick("output_mismatch", also=("stalled_training", "saturated_units"), good=0.5)
def sigmoid_before_logits_loss(sick: bool) -> Training:
    """A rare class: the loss that expects logits gets probabilities, which it takes for positive logits."""
    x, y = digits()
    y = (y == 3).float()[:, None]
    model = ended(mlp(2, outputs=1), nn.Sigmoid() if sick else None)

    def score() -> float:
        with undisturbed(model):
            z = model(x[:800])
        p = torch.sigmoid(z)
        error = F.binary_cross_entropy(p, y[:800]).item()
        rate = y.mean()
        return bounded(1 - error / F.binary_cross_entropy(rate.expand(800, 1), y[:800]).item())

    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    return supervised(model, optimizer, (x, y), F.binary_cross_entropy_with_logits, score, 300)


@CASES.sick("output_mismatch", sites=r"^5\b", also=("stalled_training", "dead_units"))
def relu_output_for_negative_targets(sick: bool) -> Training:
    """A ReLU behind the last layer, and targets that are mostly negative."""
    x, y = smooth_function()
    model = ended(mlp(2, nn.ReLU, he(), inputs=5, outputs=1), nn.ReLU() if sick else None)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), (x, y - 3), 300)


@CASES.sick("output_mismatch", sites=r"^5\b", also=("saturated_units", "stalled_training"))
def tanh_output_for_large_targets(sick: bool) -> Training:
    """A tanh cannot reach targets of ten and fifty."""
    x, y = smooth_function()
    model = ended(mlp(2, nn.ReLU, he(), inputs=5, outputs=1), nn.Tanh() if sick else None)
    return regression(model, torch.optim.Adam(model.parameters(), 1e-2), (x, 10 * y), 400)


@CASES.sick("output_mismatch", sites=r"^5\b", also=("saturated_units", "stalled_training"))
def sigmoid_output_for_centred_targets(sick: bool) -> Training:
    """A sigmoid for targets on both sides of zero."""
    x, y = smooth_function()
    model = ended(mlp(2, nn.ReLU, he(), inputs=5, outputs=1), nn.Sigmoid() if sick else None)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), (x, 2 * y - 1), 350)


@CASES.sick("output_mismatch", also=("stalled_training", "frozen_parameters", "vanishing_gradient"))
def softmax_over_one_output(sick: bool) -> Training:
    """The softmax of a single score is one whatever the score."""
    model = ended(mlp(2, outputs=1), nn.Softmax(1) if sick else nn.Sigmoid())
    loss = F.mse_loss
    return binary(model, torch.optim.SGD(model.parameters(), 0.5), 300, loss, 0.5)


@CASES.sick("output_mismatch", also=("diverging_loss", "exploding_gradient", "loss_spike", "nonfinite"))
def likelihood_of_raw_scores(sick: bool) -> Training:
    """``nll_loss`` without ``log_softmax``: the loss falls below zero for ever, and nothing is compared."""
    model = ended(mlp(2), None if sick else nn.LogSoftmax(1))
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 250, loss=F.nll_loss)


@CASES.sick("output_mismatch", also=("stalled_training", "saturated_units", "vanishing_gradient"), good=0.8)
def likelihood_of_probabilities(sick: bool) -> Training:
    """``nll_loss`` on softmax, the logarithm was forgotten: the loss is minus the probability."""
    model = ended(mlp(3), nn.Softmax(1) if sick else nn.LogSoftmax(1))
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 300, loss=F.nll_loss)


@CASES.sick("output_mismatch", also=("stalled_training",))
def column_against_row(sick: bool) -> Training:
    """Outputs ``(B, 1)`` and targets ``(B,)`` broadcast to a matrix: the mean is all it can learn."""
    x, y = smooth_function()
    model = mlp(2, inputs=5, outputs=1)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - (target[:, 0] if sick else target)).square().mean()

    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), (x, y), 300, loss=loss)


@CASES.sick("output_mismatch", also=("diverging_loss", "stalled_training", "exploding_gradient"))
def targets_beyond_one(sick: bool) -> Training:
    """Classes one and two as targets of a binary cross-entropy: it has no minimum."""
    model = mlp(2, outputs=1)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output, target + (1 if sick else 0))

    return binary(model, torch.optim.Adam(model.parameters(), 2e-3), 300, loss, 0.0)


@CASES.sick("output_mismatch", good=0.75)
def one_class_too_few(sick: bool) -> Training:
    """Nine outputs for ten classes: the loss raises an error where the first nine comes, after a dozen batches."""
    x, y = digits()
    order = torch.cat([(y != 9).nonzero()[:, 0], (y == 9).nonzero()[:, 0]])
    model = mlp(2, outputs=9 if sick else 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    position = iter(range(10**6))
    g = torch.Generator().manual_seed(1)

    def step(_: int) -> float:
        reach = len(y) if next(position) >= 12 else 1500
        chosen = order[torch.randint(reach, (64,), generator=g)]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, accuracy(model, x[:500], y[:500]))


@CASES.healthy()
def sigmoid_with_its_own_loss() -> Training:
    """Sigmoid and ``binary_cross_entropy``, as it should be."""
    model = ended(mlp(2, outputs=1), nn.Sigmoid())
    return binary(model, torch.optim.Adam(model.parameters(), 2e-3), 300, F.binary_cross_entropy, 0.5)


@CASES.healthy()
def softplus_output_for_positive_targets() -> Training:
    """A positive output for positive targets."""
    x, y = smooth_function()
    model = ended(mlp(2, inputs=5, outputs=1), nn.Softplus())
    return regression(model, torch.optim.Adam(model.parameters(), 5e-3), (x, y.exp().clamp(max=5)), 350)
