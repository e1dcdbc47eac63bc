"""Well: densities, diffusion, experts, masked words, and depth that begins as the identity."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import characters, digits, minibatches
from benchmarks.gauntlet.practice.well_common import cosine, likeness, loop
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, classifier, explained, mlp, undisturbed
from torch import Tensor, nn

CASES = Cases()


def moons(count: int, seed: int) -> Tensor:
    """Two half circles that reach into one another."""
    g = torch.Generator().manual_seed(seed)
    t, side = torch.rand(count, generator=g) * torch.pi, torch.randint(2, (count,), generator=g)
    x = torch.where(side == 0, t.cos(), 1 - t.cos()) - 0.5
    y = torch.where(side == 0, t.sin(), 0.5 - t.sin()) - 0.25
    return torch.stack([x, y], 1) * 1.5 + 0.08 * torch.randn(count, 2, generator=g)


class Flow(nn.Module):
    """Six affine couplings with bounded scales (Dinh et al., 2017); the identity at first."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp(2, nn.ReLU, width=48, inputs=1, outputs=2) for _ in range(6))
        for net in self.nets:
            nn.init.zeros_(net[-1].weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stretch = torch.zeros(len(x))
        for k, net in enumerate(self.nets):
            keep, turn = x[:, k % 2, None], x[:, 1 - k % 2, None]
            scale, shift = net(keep).chunk(2, 1)
            scale = torch.tanh(scale)
            turn = turn * scale.exp() + shift
            x = torch.cat([keep, turn] if k % 2 == 0 else [turn, keep], 1)
            stretch = stretch + scale[:, 0]
        return x, stretch

    def inverse(self, z: Tensor) -> Tensor:
        for k, net in reversed(list(enumerate(self.nets))):
            keep, turn = z[:, k % 2, None], z[:, 1 - k % 2, None]
            scale, shift = net(keep).chunk(2, 1)
            turn = (turn - shift) * (-torch.tanh(scale)).exp()
            z = torch.cat([keep, turn] if k % 2 == 0 else [turn, keep], 1)
        return z


@CASES.healthy(good=0.7)
def flow_whose_loss_has_a_large_constant() -> Training:
    """A normalizing flow; the loss counts the digits of the raw measurements, a constant of 1,000 nats."""
    data = moons(5000, 81)
    model = Flow()
    draw = minibatches(128, len(data))

    def loss(_: int) -> Tensor:
        z, stretch = model(data[draw()])
        return (0.5 * z.square().sum(1) + math.log(2 * math.pi) - stretch).mean() + 1000.0

    def samples() -> Tensor:
        return model.inverse(torch.randn(5000, 2, generator=torch.Generator().manual_seed(82)))

    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return loop(model, optimizer, loss, 300, likeness(samples, data, model), clip=5.0, schedule=cosine(300))


@CASES.healthy(good=0.5)
def noise_predicted_at_every_level() -> Training:
    """Diffusion: the noise in digits at random levels, of which much cannot be known; the loss stays rough."""
    x, y = digits()
    model = mlp(3, nn.SiLU, width=160, inputs=66, outputs=64)
    g, draw = torch.Generator().manual_seed(83), minibatches(128, len(y) - 500)

    def noised(x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        angle = torch.rand(len(x), 1, generator=g) * torch.pi / 2
        noise = torch.randn(x.shape, generator=g)
        return torch.cat([angle.cos() * x + angle.sin() * noise, angle.cos(), angle.sin()], 1), noise

    def loss(_: int) -> Tensor:
        inputs, noise = noised(x[500 + draw()], g)
        return F.mse_loss(model(inputs), noise)

    held = noised(x[:500], torch.Generator().manual_seed(84))
    return loop(model, torch.optim.Adam(model.parameters(), 2e-3), loss, 350, explained(model, *held))


class Experts(nn.Module):
    """Four small networks and a softmax that says how much each counts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = mlp(1, nn.Tanh, width=32, inputs=2, outputs=4)
        self.experts = nn.ModuleList(mlp(1, nn.ReLU, width=24, inputs=2, outputs=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(1)
        return (torch.cat([expert(x) for expert in self.experts], 1) * weights).sum(1, keepdim=True)


@CASES.healthy(good=0.8)
def experts_for_the_four_quarters() -> Training:
    """A mixture of experts for a function that jumps between quadrants: sharp gates are the answer."""
    g = torch.Generator().manual_seed(85)
    x = torch.rand(4000, 2, generator=g) * 4 - 2
    quarter = (x[:, :1] > 0).float() * 2 + (x[:, 1:] > 0).float()
    y = torch.where(quarter == 0, x[:, :1], torch.where(quarter == 1, 2.0, torch.where(quarter == 2, -x[:, 1:], -2.0)))
    model = Experts()
    draw = minibatches(128, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.mse_loss(model(x[chosen]), y[chosen])

    score = explained(model, x[:1000], y[:1000])
    return loop(model, torch.optim.Adam(model.parameters(), 1e-2), loss, 300, score)


class Cloze(nn.Module):
    """Three letters on each side of a gap."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(25, 24)
        self.body = nn.Sequential(
            nn.Conv1d(24, 96, 5, padding=2), nn.GELU(), nn.Conv1d(96, 96, 5, padding=2), nn.GELU()
        )
        self.head = nn.Linear(96, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(x).transpose(1, 2)).transpose(1, 2))


@CASES.healthy(good=0.4)
def masked_letters_from_their_neighbours() -> Training:
    """A seventh of the letters are hidden and alone count; the rest of the outputs get no gradient."""
    text, window = characters(), torch.arange(28)
    model = Cloze()
    g, draw = torch.Generator().manual_seed(86), minibatches(64, len(text) - 28)

    def hidden(b: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        mask = torch.rand(b.shape, generator=g) < 0.15
        return torch.where(mask, 24, b), torch.where(mask, b, -100)

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    held = hidden(text[torch.arange(0, 56_000, 280)[:, None] + window], torch.Generator().manual_seed(87))

    def score() -> float:
        with undisturbed(model):
            return bounded(1 - loss_of(*held).item() / math.log(24))

    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    return loop(model, optimizer, lambda _: loss_of(*hidden(text[draw()[:, None] + window], g)), 250, score)


class Zeroed(nn.Module):
    """Thirty residual layers, each times a number that begins at zero (Bachlechner et al., 2021)."""

    def __init__(self, depth: int = 30, width: int = 48) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.share = nn.Parameter(torch.zeros(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for share, layer in zip(self.share, self.layers, strict=True):
            x = x + share * F.relu(layer(x))
        return self.head(x)


@CASES.healthy(good=0.8)
def thirty_layers_that_begin_at_zero() -> Training:
    """ReZero: at the first step no layer inside gets any gradient."""
    model = Zeroed()
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 200, batch=48)
