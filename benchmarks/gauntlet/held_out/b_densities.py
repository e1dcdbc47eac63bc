"""Losses other than the two usual ones, all well: denoising, densities, quantiles, survival, several tasks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.b_networks import dense
from benchmarks.gauntlet.held_out.common_b import bounded, explained, fit, quiet, tidy_houses
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


def spiral(count: int) -> Tensor:
    """Points in the plane, standardized."""
    g = torch.Generator().manual_seed(14)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=g))
    points = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 8
    return points + 0.03 * torch.randn(count, 2, generator=g)


@CASES.healthy(good=0.4)
def diffusion_of_a_spiral() -> Training:
    """Predicts the noise in points of a spiral at random levels, of which much cannot be known."""
    points = spiral(4000)
    model = dense(2 + 8, 96, 96, 96, 2, activation=nn.SiLU)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    g = torch.Generator().manual_seed(2)
    powers = 2.0 ** torch.arange(4)

    def noised(rows: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        t = torch.rand(len(rows), 1, generator=g)
        noise = torch.randn(rows.shape, generator=g)
        mixed = (t * math.pi / 2).cos() * rows + (t * math.pi / 2).sin() * noise
        return torch.cat([mixed, (t * powers).sin(), (t * powers).cos()], 1), noise

    def loss(chosen: Tensor) -> Tensor:
        inputs, noise = noised(points[chosen], g)
        return F.mse_loss(model(inputs), noise)

    held = noised(points[:1000], torch.Generator().manual_seed(3))
    return fit(model, optimizer, loss, len(points), 400, explained(model, *held, model), batch=128)


@CASES.healthy(good=0.6)
def three_quantiles_of_a_price() -> Training:
    """The pinball loss for the first, fifth and ninth tenth of noisy prices."""
    x, y = tidy_houses()
    noisy = y + (0.2 + 0.3 * torch.sigmoid(x[:, :1])) * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    model = dense(6, 64, 64, 3)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    levels = torch.tensor([0.1, 0.5, 0.9])

    def loss(chosen: Tensor) -> Tensor:
        over = noisy[chosen] - model(x[chosen])
        return torch.maximum(levels * over, (levels - 1) * over).mean()

    def score() -> float:
        with quiet(model):
            q = model(x[:1000])
            inside = ((noisy[:1000, 0] > q[:, 0]) & (noisy[:1000, 0] < q[:, 2])).float().mean().item()
            error = (q[:, 1:2] - y[:1000]).square().mean() / y[:1000].var()
        return bounded(min(1 - error.item(), 1 - abs(inside - 0.8) / 0.4))

    return fit(model, optimizer, loss, len(x), 350, score)


@CASES.healthy(good=0.6)
def survival_by_partial_likelihood() -> Training:
    """Cox's loss of a batch: who dies first of those still there; a third is censored. Scored by concordance."""
    x, _ = tidy_houses()
    g = torch.Generator().manual_seed(9)
    risk = 1.2 * x[:, 0] - 0.9 * x[:, 1] * x[:, 2] + 0.8 * x[:, 3].abs()
    time = -torch.rand(len(x), generator=g).log() / risk.exp()
    end = 2.5 * torch.rand(len(x), generator=g)
    seen, time = time < end, torch.minimum(time, end)
    model = dense(6, 48, 48, 1, activation=nn.SiLU)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=1e-3)

    def loss(chosen: Tensor) -> Tensor:
        order = chosen[time[chosen].argsort(descending=True)]
        said = model(x[order])[:, 0]
        return ((said.logcumsumexp(0) - said) * seen[order]).sum() / seen[order].sum()

    def score() -> float:
        with quiet(model):
            said = model(x[:600])[:, 0]
        apart = (risk[:600, None] > risk[:600]).float()
        return bounded(2 * ((said[:, None] > said).float() * apart).sum().item() / apart.sum().item() - 1)

    return fit(model, optimizer, loss, len(x), 300, score, batch=128)


class TwoTasks(nn.Module):
    """A trunk, a class and a number, each with a learned weight of its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.digit, self.ink = dense(64, 64, 48), nn.Linear(48, 10), nn.Linear(48, 1)
        self.weights = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x).relu()
        return self.digit(h), self.ink(h)


@CASES.healthy(good=0.7)
def two_tasks_weighted_by_their_uncertainty() -> Training:
    """The class of a digit and how far right its ink lies; the weighted loss falls below zero."""
    x, y = digits()
    pixels = (x - x.min()).view(-1, 8, 8).sum(1)
    right = (pixels * torch.arange(8.0)).sum(1, keepdim=True) / pixels.sum(1, keepdim=True)
    right = (right - right.mean()) / right.std()
    model = TwoTasks()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)

    def loss(chosen: Tensor) -> Tensor:
        logits, ink = model(x[chosen])
        both = torch.stack([F.cross_entropy(logits, y[chosen]), F.mse_loss(ink, right[chosen])])
        return (both * (-model.weights).exp() + 0.5 * model.weights).sum()

    def score() -> float:
        with quiet(model):
            logits, ink = model(x[:500])
        found = (logits.argmax(1) == y[:500]).float().mean().item()
        return bounded(min((found - 0.1) / 0.9, 1 - (ink - right[:500]).square().mean().item()))

    return fit(model, optimizer, loss, len(x), 300, score)


class Coupling(nn.Module):
    """An affine coupling of two numbers: one moves and stretches the other."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.net = first, dense(1, 32, 32, 2, activation=nn.Tanh)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, other = x[:, self.first, None], x[:, 1 - self.first, None]
        stretch, move = self.net(kept).chunk(2, 1)
        stretch = 2 * torch.tanh(stretch / 2)
        other = other * stretch.exp() + move
        parts = [kept, other] if self.first == 0 else [other, kept]
        return torch.cat(parts, 1), stretch[:, 0]


@CASES.healthy(good=0.6)
def flow_of_affine_couplings() -> Training:
    """The negative log-likelihood of narrow curved data under a normalizing flow, which becomes negative."""
    g = torch.Generator().manual_seed(6)
    a = torch.randn(3000, generator=g)
    points = torch.stack([a, (1.5 * a).sin() + 0.1 * torch.randn(3000, generator=g)], 1)
    model = nn.ModuleList(Coupling(k % 2) for k in range(4))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def negative(rows: Tensor) -> Tensor:
        volume = torch.zeros(len(rows))
        for layer in model:
            rows, more = layer(rows)
            volume = volume + more
        return (0.5 * rows.square().sum(1) + math.log(2 * math.pi) - volume).mean()

    best = 0.5 * (1 + math.log(2 * math.pi)) * 2 + math.log(0.1)
    worst = 0.5 * (1 + math.log(2 * math.pi)) * 2 + 0.5 * torch.logdet(points.T.cov()).item()

    def score() -> float:
        with quiet(model):
            return bounded((worst - negative(points[:1000]).item()) / (worst - best))

    return fit(model, optimizer, lambda chosen: negative(points[chosen]), len(points), 350, score, batch=128)
