"""Sigmoid, tanh and softmax units in their flat part."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.held_out.common_a import (
    dense_stack,
    digit_classifier,
    regression,
    seeded,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.sick(
    "saturated_units", "bad_initialization", also=("stalled_training", "vanishing_gradient"), sites=r"^[45]\b", good=0.6
)
def cloned_policy_with_a_steep_last_layer(sick: bool) -> Training:
    """Actions between -1 and 1 by a tanh whose last layer begins at a standard deviation of six."""
    g = seeded(41)
    x = torch.randn(2000, 6, generator=g)
    y = torch.tanh(0.4 * x @ torch.randn(6, 3, generator=g)) * 0.8
    model = nn.Sequential(*dense_stack([6, 64, 64, 3]), nn.Tanh())
    nn.init.normal_(model[4].weight, std=6.0 if sick else 0.05)
    return regression(model, torch.optim.Adam(model.parameters(), 1e-3), (x, y), 300)


class Forecaster(nn.Module):
    """An LSTM that reads a window of a series and foretells its next value."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 32, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@CASES.sick(
    "unscaled_inputs", "saturated_units", also=("stalled_training", "vanishing_gradient", "rank_collapse"), good=0.6
)
def forecaster_fed_with_raw_prices(sick: bool) -> Training:
    """Prices around 4,000 go into the gates as they are; the twin's are standardized. The targets are, in both."""
    t = torch.arange(1500.0)
    series = (t / 7).sin() + 0.5 * (t / 2.3).sin() + 0.1 * torch.randn(1500, generator=seeded(42))
    series = (series - series.mean()) / series.std()
    windows = series.unfold(0, 21, 1)
    x, y = windows[:, :20, None], windows[:, 20:]
    model = Forecaster()
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), (x * 60 + 4000 if sick else x, y), 250)


class SoftTree(nn.Module):
    """A tree of four levels whose nodes send an example both ways, by a sigmoid (Frosst and Hinton, 2017)."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.nodes, self.sigmoid = nn.Linear(64, 15), nn.Sigmoid()
        self.leaves = nn.Parameter(torch.zeros(16, 10))
        self.steepness = steepness

    def forward(self, x: Tensor) -> Tensor:
        right = self.sigmoid(self.steepness * self.nodes(x))
        paths = torch.ones(len(x), 1)
        for level in range(4):
            here = right[:, 2**level - 1 : 2 ** (level + 1) - 1]
            paths = torch.stack([paths * (1 - here), paths * here], 2).flatten(1)
        return paths @ self.leaves


@CASES.sick("saturated_units", also=("stalled_training", "vanishing_gradient"), sites=r"nodes|sigmoid", good=0.7)
def soft_decision_tree_with_hard_decisions(sick: bool) -> Training:
    """A sigmoid a thousand times too steep in every node: only the leaves learn, the questions stay random."""
    model = SoftTree(1000.0 if sick else 1.0)
    return digit_classifier(model, torch.optim.Adam(model.parameters(), 2e-2), 300)


class Mixture(nn.Module):
    """Four linear experts, mixed by a softmax."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.gate = nn.Linear(2, 4)
        self.softmax = nn.Softmax(dim=1)
        self.experts = nn.Linear(2, 4)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return (self.softmax(self.gate(x) / self.temperature) * self.experts(x)).sum(1, keepdim=True)


@CASES.sick("saturated_units", "attention_collapse", also=("stalled_training", "vanishing_gradient"), good=0.8)
def mixture_whose_gate_is_frozen_cold(sick: bool) -> Training:
    """The gate's softmax at a temperature of 1e-4: who is asked never changes, and nobody learns the kinks."""
    x = torch.randn(2000, 2, generator=seeded(43))
    y = (x[:, :1] + x[:, 1:]).abs() - (x[:, :1] - x[:, 1:]).abs()
    model = Mixture(1e-4 if sick else 1.0)
    return regression(model, torch.optim.Adam(model.parameters(), 2e-2), (x, y), 300)


class Excited(nn.Module):
    """Convolution, batch norm, ReLU, and a gate for each channel."""

    def __init__(self, inputs: int, channels: int, bias: float) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.squeeze, self.excite = nn.Linear(channels, 4), nn.Linear(4, channels)
        self.gate = nn.Sigmoid()
        nn.init.constant_(self.excite.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return x * self.gate(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))[:, :, None, None]


@CASES.sick(
    "saturated_units",
    "bad_initialization",
    "vanishing_gradient",
    also=("stalled_training", "rank_collapse"),
    sites=r"gate|excite",
    good=0.6,
)
def channel_gates_that_begin_shut(sick: bool) -> Training:
    """Squeeze-and-excitation gates with a bias of -25: every channel is multiplied by nothing."""
    bias = -25.0 if sick else 1.0
    body = [Excited(1, 16, bias), nn.MaxPool2d(2), Excited(16, 16, bias)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(256, 10))
    return digit_classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 120, shape=(1, 8, 8), batch=32)
