"""Gradients that fade: by squashing slopes, by scales below one on every path, and by gates that forget."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import classify, first_of, spirals, table, textures, waves
from benchmarks.gauntlet.tuned.common import he, initialized, mlp, regression, xavier
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"))
def signals_through_hard_sigmoids(sick: bool) -> Training:
    """Eight convolutions over a signal; a hard sigmoid passes a sixth of the gradient."""
    stack = nn.Sequential()
    for k in range(8):
        stack.add_module(f"conv{k}", nn.Conv1d(12 if k else 1, 12, 5, padding=2, stride=2 if k in (2, 5) else 1))
        stack.add_module(f"act{k}", nn.Hardsigmoid() if sick else nn.ELU())
    initialized(stack, xavier())
    model = nn.Sequential(stack, nn.Flatten(), nn.Linear(12 * 12, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, nesterov=True)
    return classify(model, optimizer, waves(), 200, batch=48)


class Patches(nn.Module):
    """Six patches of an image mixed by attention and by layers of their own, in blocks with a scale on the skip."""

    def __init__(self, skip: float, branch: float, depth: int = 7) -> None:
        super().__init__()
        self.skip, self.branch = skip, branch
        self.patch = nn.Conv2d(3, 24, 4, 4)
        self.place = nn.Parameter(0.1 * torch.randn(9, 24))
        self.attend = nn.ModuleList(nn.MultiheadAttention(24, 3, batch_first=True) for _ in range(depth))
        self.think = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24)) for _ in range(depth)
        )
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2) + self.place
        for attend, think in zip(self.attend, self.think, strict=True):
            h = self.skip * h + self.branch * attend(h, h, h, need_weights=False)[0]
            h = self.skip * h + self.branch * think(h)
        return self.head(h.mean(1))


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"))
def patches_with_faint_skips(sick: bool) -> Training:
    """Skips of 0.3 and branches of 0.05 in fourteen steps: neither path carries the gradient down."""
    model = Patches(0.3 if sick else 1.0, 0.05 if sick else 0.3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return classify(model, optimizer, textures(), 120, batch=32)


class Remembering(nn.Module):
    """An LSTM that is asked at the end for what it saw first."""

    def __init__(self, forget: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 24, batch_first=True)
        nn.init.zeros_(self.lstm.bias_hh_l0)
        self.lstm.bias_ih_l0.data[24:48].fill_(forget)
        self.tell = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.tell(self.lstm(x)[1][0][0])


@CASES.sick("vanishing_gradient", "saturated_units", sites=r"lstm", also=("stalled_training", "rank_collapse"))
def forget_gates_shut(sick: bool) -> Training:
    """A forget bias of minus five where plus four was meant: a state keeps under a hundredth from step to step."""
    model = Remembering(-5.0 if sick else 4.0)
    return regression(model, torch.optim.Adam(model.parameters(), 1e-2), first_of(20), 250, batch=32)


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"), good=0.25)
def decoder_of_sigmoids(sick: bool) -> Training:
    """An autoencoder whose encoder is well and whose decoder has eight sigmoid layers."""
    x = digits()[0]
    model = nn.Sequential()
    model.add_module("encoder", mlp(2, nn.ReLU, he(), inputs=64, outputs=12, width=40))
    decoder = mlp(8, nn.Sigmoid if sick else nn.LeakyReLU, xavier(1.4), inputs=12, outputs=64, width=40)
    model.add_module("decoder", decoder)
    return regression(model, torch.optim.SGD(model.parameters(), 0.2, momentum=0.8), (x, x), 300, batch=100)


class Damped(nn.Module):
    """Layers in plain operations, ``tanh(slope * (h @ w + b))``."""

    def __init__(self, slope: float, depth: int = 9, width: int = 32) -> None:
        super().__init__()
        self.slope = slope
        sizes = [8, *[width] * depth]
        self.w = nn.ParameterList(torch.randn(a, b) / a**0.5 for a, b in pairwise(sizes))
        self.b = nn.ParameterList(torch.zeros(width) for _ in range(depth))
        self.out = nn.Parameter(torch.randn(width, 1) / width**0.5)

    def forward(self, h: Tensor) -> Tensor:
        for w, b in zip(self.w, self.b, strict=True):
            h = torch.tanh(self.slope * (h @ w + b))
        return h @ self.out


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse", "bad_initialization"))
def regression_through_flat_tanh(sick: bool) -> Training:
    """A slope of 0.25 inside each of nine tanh: well drawn weights, and a quarter of the gradient a layer."""
    model = Damped(0.25 if sick else 1.0)
    return regression(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.5), table(), 250, batch=40)


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"))
def spirals_through_five_sigmoids(sick: bool) -> Training:
    """Only five sigmoids, narrow and trained in full batches: not much is lost, and enough to stand still."""
    x, y = spirals()
    model = nn.Sequential(nn.Linear(2, 24))
    for _ in range(4):
        model.extend([nn.Sigmoid() if sick else nn.Tanh(), nn.Linear(24, 24)])
    model.extend([nn.Sigmoid() if sick else nn.Tanh(), nn.Linear(24, 3)])
    initialized(model, xavier(1.6))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    training = classify(model, optimizer, (x, y), 350)

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[:512]), y[:512])
        loss.backward()
        optimizer.step()
        return loss.item()

    training.step = step
    return training


class Trunk(nn.Module):
    """A stem of plain convolutions before a residual trunk."""

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(7):
            layers += [nn.Conv2d(8 if k else 3, 8, 3, padding=1, stride=3 if k == 2 else 1), act()]
        self.stem = nn.Sequential(*layers)
        self.trunk = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv in self.trunk:
            x = x + F.relu(conv(x))
        return self.head(x.flatten(1))


@CASES.sick("vanishing_gradient", sites=r"^stem", also=("stalled_training", "rank_collapse"))
def stem_of_sigmoids_before_a_residual_trunk(sick: bool) -> Training:
    """The trunk has skips, and the seven sigmoid convolutions below it have none."""
    model = Trunk(nn.Sigmoid if sick else nn.ReLU)
    initialized(model, he())
    for conv in model.trunk:
        conv.weight.data.mul_(0.3)
    return classify(model, torch.optim.SGD(model.parameters(), 0.02, momentum=0.5), textures(), 250, batch=24)
