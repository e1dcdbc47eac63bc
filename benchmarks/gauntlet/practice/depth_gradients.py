"""Gradients that vanish and units that die: gated stacks, long memories, sparse dictionaries, shifted norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, convolutions, explained, pooled_head, supervised
from torch import Tensor, nn

CASES = Cases()


class Gated(nn.Module):
    """Dilated convolutions over time, tanh times sigmoid, as in WaveNet."""

    def __init__(self, depth: int, skips: bool) -> None:
        super().__init__()
        self.skips = skips
        self.stem = nn.Conv1d(1, 24, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(24, 48, 3, padding=2 ** (k % 3), dilation=2 ** (k % 3)) for k in range(depth)
        )
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for layer in self.layers:
            a, b = layer(h).chunk(2, 1)
            h = h * self.skips + a.tanh() * b.sigmoid()
        return self.head(h.mean(2))


def waves(count: int = 1000, length: int = 32) -> tuple[Tensor, Tensor]:
    """Noisy waves of one of four periods."""
    g = torch.Generator().manual_seed(51)
    y = torch.randint(4, (count,), generator=g)
    period = torch.tensor([4.0, 6.0, 9.0, 14.0])[y][:, None]
    phase = 6.2832 * torch.rand(count, 1, generator=g)
    x = (6.2832 * torch.arange(length) / period + phase).sin()
    return (x + 0.3 * torch.randn(count, length, generator=g))[:, None], y


@CASES.sick("vanishing_gradient", "rank_collapse", also=("stalled_training", "bad_initialization"))
def gated_convolutions_without_skips(sick: bool) -> Training:
    """Sixteen gated convolutions in a row: each halves the signal and the gradient, and no skip carries them past."""
    model = Gated(16, skips=not sick)
    x, y = waves()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return supervised(model, optimizer, (x, y), F.cross_entropy, accuracy(model, x[:400], y[:400], 4), 60, batch=32)


class Recalling(nn.Module):
    """A plain recurrent network, step by step, read at its end."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(6, 48), nn.Linear(48, 5)
        nn.init.orthogonal_(self.cell.weight_hh, gain)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 48)
        for now in x.unbind(1):
            h = self.cell(now, h)
        return self.head(h)


@CASES.sick("vanishing_gradient", "bad_initialization", also=("stalled_training", "rank_collapse"))
def memory_that_halves_with_every_moment(sick: bool) -> Training:
    """Recurrent weights orthogonal times 0.4: what was said thirty moments ago, and its gradient, are gone."""
    g = torch.Generator().manual_seed(52)
    y = torch.randint(5, (1500,), generator=g)
    x = 0.1 * torch.randn(1500, 30, 6, generator=g)
    x[:, 0] += F.one_hot(y, 6)
    model = Recalling(0.4 if sick else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return supervised(model, optimizer, (x, y), F.cross_entropy, accuracy(model, x[:400], y[:400], 5), 200)


class Dictionary(nn.Module):
    """A sparse autoencoder: an overcomplete ReLU code."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.act, self.decoder = nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.act(self.encoder(x))
        return self.decoder(code), code


@CASES.sick(
    "dead_units",
    also=("stalled_training", "frozen_parameters", "vanishing_gradient", "rank_collapse"),
    sites=r"^(encoder|act)",
)
def dictionary_killed_by_its_penalty(sick: bool) -> Training:
    """A sparse autoencoder whose penalty on the code is a thousand times too strong: no atom ever fires again."""
    x, _ = digits()
    model = Dictionary()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw = minibatches(64, len(x))

    def step(_: int) -> float:
        b = x[draw()]
        guess, code = model(b)
        optimizer.zero_grad()
        loss = F.mse_loss(guess, b) + (1.0 if sick else 1e-3) * code.abs().sum(1).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, explained(lambda b: model(b)[0], x[:500], x[:500], model))


@CASES.sick(
    "dead_units",
    "bad_initialization",
    also=("stalled_training", "rank_collapse", "vanishing_gradient", "frozen_parameters"),
    sites=r"^[345]\b",
)
def norm_that_shifts_below_zero(sick: bool) -> Training:
    """The second batch norm's shift begins at -8, and the ReLU behind it passes nothing."""
    model = nn.Sequential(*convolutions([1, 16, 24, 24], nn.ReLU, nn.BatchNorm2d), *pooled_head(24))
    if sick:
        nn.init.constant_(model[4].bias, -8.0)
    return classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 120, data=images(), batch=32)
