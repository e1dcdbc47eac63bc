"""Gradients that grow: through chaotic states, gains above one, sums of everything before, and long Euler steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import series, table, textures, waves
from benchmarks.gauntlet.tuned.common import initialized, regression
from torch import Tensor, nn

CASES = Cases()


class Elman(nn.Module):
    """A tanh recurrence of 48 units through ``nn.RNNCell``."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(1, 48), nn.Linear(48, 1)
        nn.init.normal_(self.cell.weight_hh, std=gain / 48**0.5)
        nn.init.normal_(self.cell.weight_ih, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 48)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


@CASES.sick(
    "exploding_gradient",
    "bad_initialization",
    sites=r"cell",
    also=("saturated_units", "oscillating_loss", "stalled_training", "loss_spike", "clipping_bound"),
)
def chaotic_recurrence(sick: bool) -> Training:
    """Recurrent weights of four times the critical scale: the state stays within one, the gradient does not."""
    model = Elman(4.0 if sick else 0.9)
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 2.0)  # noqa: E731
    return regression(model, torch.optim.SGD(model.parameters(), 0.05), series(), 250, batch=32, between=clip)


@CASES.sick(
    "exploding_gradient",
    "bad_initialization",
    also=("loss_spike", "oscillating_loss", "stalled_training", "dead_units", "diverging_loss"),
)
def kernel_forgotten_in_the_fan(sick: bool) -> Training:
    """Seven 5x5 convolutions drawn by their channels alone: each multiplies by five, before a squared loss."""
    layers: list[nn.Module] = []
    for k in range(7):
        conv = nn.Conv2d(10 if k else 3, 10, 5, padding=2, stride=2 if k in (1, 4) else 1)
        nn.init.normal_(conv.weight, std=(2 / (conv.in_channels * (1 if sick else 25))) ** 0.5)
        layers += [conv, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(90, 4))
    x, y = textures()
    target = F.one_hot(y, 4).float()
    return regression(model, torch.optim.Adam(model.parameters(), 2e-3), (x, target), 120, batch=24)


class Amplified(nn.Module):
    """Layers of GELU, each multiplied by a gain."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.layers = nn.ModuleList(nn.Linear(40 if k else 8, 40) for k in range(12))
        self.out = nn.Linear(40, 1)
        initialized(self, lambda w: nn.init.normal_(w, std=w.shape[1] ** -0.5))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.gain * F.gelu(layer(x))
        return self.out(x)


@CASES.sick(
    "exploding_gradient", also=("bad_initialization", "loss_spike", "oscillating_loss", "clipping_bound", "dead_units")
)
def gain_of_four_after_every_gelu(sick: bool) -> Training:
    """Four where 1.5 keeps the signal, in twelve layers, and a clipped norm that keeps it finite."""
    model = Amplified(4.0 if sick else 1.5)
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # noqa: E731
    return regression(model, torch.optim.Adam(model.parameters(), 1e-3), table(), 300, batch=64, between=clip)


class Dense(nn.Module):
    """Every layer reads the sum, or the mean, of all outputs before it."""

    def __init__(self, mean: bool, depth: int = 16) -> None:
        super().__init__()
        self.mean = mean
        self.inp = nn.Conv1d(1, 12, 7, padding=3, stride=2)
        self.convs = nn.ModuleList(nn.Conv1d(12, 12, 3, padding=1) for _ in range(depth))
        self.head = nn.Linear(12 * 24, 4)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.inp(x)]
        for conv in self.convs:
            gathered = torch.stack(kept).mean(0) if self.mean else torch.stack(kept).sum(0)
            kept.append(gathered + 0.3 * conv(gathered).relu())
        return self.head(kept[-1].flatten(1))


@CASES.sick(
    "exploding_gradient",
    also=("loss_spike", "oscillating_loss", "diverging_loss", "dead_units", "bad_initialization"),
    good=0.3,
)
def sum_of_all_layers_before(sick: bool) -> Training:
    """Dense connections that add: the signal doubles in each of sixteen layers."""
    model = Dense(mean=not sick)
    x, y = waves()
    target = F.one_hot(y, 4).float()
    return regression(
        model, torch.optim.Adam(model.parameters(), 2e-3), (x, target), 130, loss=F.smooth_l1_loss, batch=32
    )


class Flow(nn.Module):
    """``dx/dt = f(x)`` by Euler's method, one ``f`` for all steps."""

    def __init__(self, length: float, steps: int = 20) -> None:
        super().__init__()
        self.length, self.steps = length, steps
        self.lift = nn.Linear(8, 20)
        self.f = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 20))
        self.out = nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for _ in range(self.steps):
            x = x + self.length * self.f(x)
        return self.out(x)


@CASES.sick(
    "exploding_gradient",
    also=("loss_spike", "oscillating_loss", "diverging_loss", "nonfinite", "stalled_training", "bad_initialization"),
)
def euler_steps_of_four(sick: bool) -> Training:
    """Steps of four where a tenth was meant: twenty of them make a flow into an explosion."""
    model = Flow(4.0 if sick else 0.1)
    return regression(model, torch.optim.Adam(model.parameters(), 2e-3), table(), 250, loss=F.smooth_l1_loss, batch=100)


class Accumulating(nn.Module):
    """A recurrence in plain operations that adds to its state."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.p = nn.ParameterDict(
            {
                "read": 0.3 * torch.randn(1, 32),
                "recur": torch.randn(32, 32) / 32**0.5,
                "tell": torch.randn(32, 1) / 32**0.5,
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 32)
        for row in x.unbind(1):
            h = h + self.scale * F.leaky_relu(h @ self.p["recur"] + row @ self.p["read"], 0.1)
        return h @ self.p["tell"]


@CASES.sick(
    "exploding_gradient",
    also=("loss_spike", "oscillating_loss", "diverging_loss", "clipping_bound", "bad_initialization"),
)
def state_that_only_adds(sick: bool) -> Training:
    """A residual recurrence with whole steps: the state grows by half or more in each of twenty-four."""
    model = Accumulating(1.0 if sick else 0.15)
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # noqa: E731
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    return regression(model, optimizer, series(), 200, batch=32, between=clip)
