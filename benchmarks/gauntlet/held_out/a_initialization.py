"""Weights that begin at the wrong scale."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.common_a import (
    HELD,
    dense_stack,
    digit_classifier,
    he_,
    looped,
    regression,
    right_answers,
    seeded,
    table,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


class Adapted(nn.Module):
    """A frozen linear layer and a correction of low rank (Hu et al., 2021)."""

    def __init__(self, linear: nn.Linear, rank: int, both_zero: bool) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.zeros(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        if not both_zero:
            nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.down.T @ self.up.T


@CASES.sick(
    "bad_initialization",
    "frozen_parameters",
    "vanishing_gradient",
    also=("stalled_training", "symmetric_units"),
    good=0.7,
)
def low_rank_adapters_with_both_factors_zero(sick: bool) -> Training:
    """Fine-tuning by adapters of which both factors begin at zero: each waits for ever for the other."""
    x, y = digits()
    base = dense_stack([64, 64, 64, 10])
    optimizer = torch.optim.Adam(base.parameters(), 3e-3)
    for first in range(HELD, HELD + 1280, 32):
        optimizer.zero_grad()
        F.cross_entropy(base(x[first : first + 32]), y[first : first + 32]).backward()
        optimizer.step()
    optimizer.zero_grad()
    model = nn.Sequential(*[Adapted(part, 8, sick) if isinstance(part, nn.Linear) else part for part in base])
    turned = x.view(-1, 8, 8).flip(2).flatten(1)
    trained = [p for p in model.parameters() if p.requires_grad]
    loss = lambda chosen: F.cross_entropy(model(turned[HELD:][chosen]), y[HELD:][chosen])  # noqa: E731
    score = right_answers(model, turned[:HELD], y[:HELD])
    return looped(model, torch.optim.AdamW(trained, 5e-3), loss, len(y) - HELD, 200, score)


@CASES.sick(
    "bad_initialization", "vanishing_gradient", also=("stalled_training", "rank_collapse", "dead_units"), good=0.6
)
def deep_convolutions_at_a_hundredth(sick: bool) -> Training:
    """Ten convolutions drawn at a standard deviation of 0.01, as was done before there were deep networks."""
    layers: list[nn.Module] = []
    for k in range(10):
        layers += [nn.Conv2d(16 if k else 1, 16, 3, padding=1, stride=2 if k == 3 else 1), nn.ReLU()]
    model = he_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)))
    for part in model:
        if sick and isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(part.weight, std=0.01)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20)
    return digit_classifier(model, optimizer, 200, shape=(1, 8, 8), batch=32, schedule=schedule)


class Handmade(nn.Module):
    """A perceptron of bare parameters."""

    def __init__(self, sizes: list[int], scaled: bool) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        self.weights = nn.ParameterList(torch.randn(a, b) * ((2 / a) ** 0.5 if scaled else 1.0) for a, b in pairs)
        self.biases = nn.ParameterList(torch.zeros(b) for _, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = F.relu(x @ weight + bias)
        return x @ self.weights[-1] + self.biases[-1]


@CASES.sick(
    "bad_initialization",
    "exploding_gradient",
    "diverging_loss",
    "loss_spike",
    "nonfinite",
    also=("oscillating_loss", "stalled_training", "dead_units"),
)
def handmade_layers_straight_from_randn(sick: bool) -> Training:
    """``torch.randn(a, b)`` as it comes, in five layers of a hundred units; the twin scales it by the fan."""
    model = Handmade([8, 100, 100, 100, 100, 1], scaled=not sick)
    return regression(model, torch.optim.Adam(model.parameters(), 1e-3), table(), 300)


class Sine(nn.Module):
    """A linear layer and a sine of thirty times its output."""

    def __init__(self, inputs: int, outputs: int, bound: float | None) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        if bound is not None:
            nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


@CASES.sick("bad_initialization", "exploding_gradient", also=("stalled_training", "oscillating_loss"), good=0.6)
def sine_network_drawn_like_any_other(sick: bool) -> Training:
    """An implicit picture by sines (Sitzmann et al., 2020) whose weights are torch's own, twelve times too large."""
    g = seeded(51)
    x = torch.rand(3000, 2, generator=g) * 2 - 1
    y = (4 * x[:, :1] * x[:, 1:]).sin() + (3 * math.pi * x[:, :1]).cos() * 0.5
    hidden = None if sick else (6 / 64) ** 0.5 / 30
    model = nn.Sequential(Sine(2, 64, 0.5), Sine(64, 64, hidden), Sine(64, 64, hidden), nn.Linear(64, 1))
    return regression(model, torch.optim.Adam(model.parameters(), 3e-4), (x, y), 300)
