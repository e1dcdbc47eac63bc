"""Clipping that holds every step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense
from benchmarks.gauntlet.held_out.common_b import accuracy, explained, fit, language
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("clipping_bound", "stalled_training")
def lstm_language_model_clipped_at_a_thousandth(sick: bool) -> Training:
    """SGD with a limit of 0.001 for the norm of the gradient, which is a few tenths; the twin's limit is 5."""
    model = RecurrentText(nn.LSTM)
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9)
    limit = 1e-3 if sick else 5.0
    return language(model, optimizer, 300, between=lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), limit))


@CASES.sick("clipping_bound", "stalled_training")
def cnn_with_every_entry_clipped_at_a_hundred_thousandth(sick: bool) -> Training:
    """``clip_grad_value_`` with 1e-5: of every gradient hardly more than its sign is left, and that short."""
    x, y = images()
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*body, nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    limit = 1e-5 if sick else 1.0

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    score = accuracy(model, x[:500], y[:500])
    between = lambda: torch.nn.utils.clip_grad_value_(model.parameters(), limit)  # noqa: E731
    return fit(model, optimizer, loss, len(x), 250, score, batch=32, between=between)


@CASES.sick("clipping_bound", "stalled_training")
def summed_loss_with_the_clipping_of_a_mean(sick: bool) -> Training:
    """The squared error is summed over pixels and batch, its gradient has a norm of hundreds, and the usual limit of
    one holds every step; the rate was chosen for the sum.
    """
    x, _ = digits()
    model = dense(64, 48, 16, 48, 64, activation=nn.ELU)
    optimizer = torch.optim.SGD(model.parameters(), 3e-5, momentum=0.9)
    limit = 1.0 if sick else 5e3

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(x[chosen]), x[chosen], reduction="sum")

    score = explained(model, x[:500], x[:500], model)
    between = lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), limit)  # noqa: E731
    return fit(model, optimizer, loss, len(x), 400, score, batch=64, between=between)
