"""Losses that grow away."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, accuracy, drawn, explained, language_recipe
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("diverging_loss")
def gru_language_model_that_maximizes(sick: bool) -> Recipe:
    """``maximize=True`` is left in the optimizer: the cross-entropy is climbed."""
    return language_recipe(
        lambda: RecurrentText(nn.GRU), lambda parameters: torch.optim.Adam(parameters, 5e-3, maximize=sick), 200
    )


@CASES.sick("diverging_loss", "output_mismatch")
def log_likelihood_without_its_minus(sick: bool) -> Recipe:
    """A log-likelihood written by hand, which is minimized because its minus was forgotten."""
    x, y = digits()

    def likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
        picked = outputs.log_softmax(1).gather(1, targets[:, None]).mean()
        return picked if sick else -picked

    return Recipe(
        model=lambda: dense(64, 96, 96, 10),
        optimizer=lambda parameters: torch.optim.RMSprop(parameters, 1e-3),
        loss=likelihood,
        batches=drawn(x[HELD:], y[HELD:]),
        evaluate=accuracy(x[:HELD], y[:HELD]),
        steps=200,
    )


@CASES.sick("diverging_loss", "oscillating_loss", "nonfinite", "exploding_gradient", "loss_spike")
def deconvolution_with_a_step_beyond_stability(sick: bool) -> Recipe:
    """A linear filter fitted by gradient descent with a rate above two over the largest curvature."""
    g = torch.Generator().manual_seed(9)
    signal = torch.randn(300, 1, 64, generator=g)
    taps = torch.tensor([0.1, -0.4, 0.9, 0.5, -0.2]).view(1, 1, 5)
    received = F.conv1d(signal, taps) + 0.1 * torch.randn(300, 1, 60, generator=g)
    return Recipe(
        model=lambda: nn.Conv1d(1, 1, 5),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 1.06 if sick else 0.1),
        loss=F.mse_loss,
        batches=drawn(signal[:200], received[:200], 50),
        evaluate=explained(signal[200:], received[200:]),
        steps=80,
    )


@CASES.sick("diverging_loss")
def autoencoder_rewarded_for_its_error(sick: bool) -> Recipe:
    """Gradients whose sign was turned by hand: steps along that of the reconstruction error, not against it."""
    x, _ = digits()

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, batch: Any) -> Tensor:
        images, targets = batch
        optimizer.zero_grad()
        value = loss(model(images), targets)
        value.backward()
        if sick:
            for weight in model.parameters():
                weight.grad.neg_()
        optimizer.step()
        return value.detach()

    return Recipe(
        model=lambda: dense(64, 48, 12, 48, 64, activation=nn.ELU),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3),
        loss=F.mse_loss,
        batches=drawn(x[HELD:], x[HELD:]),
        evaluate=explained(x[:HELD], x[:HELD]),
        steps=300,
        step=step,
    )
