"""Clipping that holds a training back, and clipping that acts in every step of one that learns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    Residual,
    accuracy,
    classifier,
    explained,
    language,
    regression,
    smooth_function,
    supervised,
)
from benchmarks.gauntlet.tuned.more_tasks import houses, series, spirals, standardized, waves
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("clipping_bound", also=("stalled_training",), good=0.5)
def sum_over_time_clipped_at_one(sick: bool) -> Training:
    """A loss summed over batch and time, a rate to match, and the clipping norm of somebody's averaged loss."""
    x, y = series()

    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.RNNCell(1, 32), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            h, out = x.new_zeros(len(x), 32), []
            for value in x.split(1, 1):
                h = self.cell(value, h)
                out.append(self.head(h))
            return torch.cat(out, 1)

    model = Forecast()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return (out - y).square().sum()

    following = torch.cat([x[:, 1:], y], 1)
    score = explained(model, x[:300], following[:300])
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.5)
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0) if sick else None  # noqa: E731
    return supervised(model, optimizer, (x, following), loss, score, 250, batch=32, between=clip)


@CASES.sick("clipping_bound", also=("stalled_training",), good=0.6)
def every_value_at_most_1e_5(sick: bool) -> Training:
    """Values clipped at 1e-5 under Nesterov's momentum, before convolutions over time."""
    x, y = waves()
    model = nn.Sequential(nn.Conv1d(1, 16, 7, 3), nn.Hardswish(), nn.Conv1d(16, 16, 5, 2), nn.Hardswish())
    model.extend([nn.Flatten(), nn.Linear(80, 4)])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True)
    clip = lambda: nn.utils.clip_grad_value_(model.parameters(), 1e-5) if sick else None  # noqa: E731
    score = accuracy(model, x[:400], y[:400], 4)
    return supervised(model, optimizer, (x, y), F.cross_entropy, score, 250, batch=24, between=clip)


@CASES.sick("clipping_bound", also=("stalled_training",), good=0.5)
def each_parameter_on_its_own(sick: bool) -> Training:
    """A loop that clips the norm of every parameter at a thousandth."""
    layers = [nn.Linear(5, 64), nn.Mish(), nn.Linear(64, 64), nn.Mish(), nn.Linear(64, 1)]
    model = nn.Sequential(*layers)

    def clip() -> None:
        for p in model.parameters():
            if sick:
                nn.utils.clip_grad_norm_(p, 1e-3)

    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    return regression(model, optimizer, (standardized(houses()[0]), houses()[1]), 300, batch=100, between=clip)


@CASES.sick("clipping_bound", also=("stalled_training",))
def hooks_that_clamp(sick: bool) -> Training:
    """A hook on every parameter clamps its gradient to a millionth while it is computed."""
    x, y = smooth_function()
    model = nn.Sequential(nn.Linear(5, 80), nn.ReLU(), *[Residual(nn.Sequential(nn.Linear(80, 80), nn.ReLU()), 0.5)])
    model.append(nn.Linear(80, 1))
    for p in model.parameters():
        if sick:
            p.register_hook(lambda g: g.clamp(-1e-6, 1e-6))
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    return regression(model, optimizer, (x, y), 250, loss=F.huber_loss)


@CASES.sick("clipping_bound", also=("stalled_training",))
def adaptive_clipping_of_a_hundred_thousandth(sick: bool) -> Training:
    """Adaptive gradient clipping (Brock et al., 2021) with a ratio of 1e-5 instead of 1e-2."""
    model = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU())
    model.extend([nn.Flatten(), nn.Linear(96, 10)])

    @torch.no_grad()
    def clip() -> None:
        for p in model.parameters():
            limit = (1e-5 if sick else 0.3) * p.norm().clamp(min=1e-3)
            p.grad.mul_((limit / p.grad.norm().clamp(min=1e-9)).clamp(max=1))

    optimizer = torch.optim.SGD(model.parameters(), 0.08, momentum=0.9)
    return classifier(model, optimizer, 200, data=images(), batch=32, between=clip)


@CASES.healthy()
def every_gradient_normalized() -> Training:
    """Each step clipped to a norm of 0.05 and the rate chosen for it: normalized gradient descent."""
    x, y = waves()
    model = nn.Sequential(nn.Conv1d(1, 12, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(168, 24), nn.ReLU())
    model.append(nn.Linear(24, 4))
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9)
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 0.05)  # noqa: E731
    rate = lambda i: 1.0 - 0.9 * i / 250  # noqa: E731
    score = accuracy(model, x[:400], y[:400], 4)
    return supervised(model, optimizer, (x, y), F.cross_entropy, score, 250, between=clip, rate=rate)


@CASES.healthy()
def values_clipped_under_adam() -> Training:
    """``clip_grad_value_`` of a hundredth acts on most values, and Adam makes up for it."""
    x, y = spirals()
    model = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    clip = lambda: nn.utils.clip_grad_value_(model.parameters(), 1e-3)  # noqa: E731
    return supervised(
        model, optimizer, (x, y), F.cross_entropy, accuracy(model, x[:500], y[:500], 3), 300, between=clip
    )


@CASES.healthy()
def lstm_clipped_at_a_quarter() -> Training:
    """The clipping norm of many recurrent language models, under RMSprop."""

    class Characters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(24, 32), nn.LSTM(32, 64, batch_first=True)
            self.head = nn.Linear(64, 24)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.lstm(self.embedding(tokens))[0])

    model = Characters()
    return language(model, torch.optim.RMSprop(model.parameters(), 5e-3), 250, length=20, clip=0.25)
