"""Tasks that the cases in the files beside this one share: waves, spirals, ratings, houses, series, marks, a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Training
from benchmarks.gauntlet.tuned.common import bounded, undisturbed
from torch import Tensor, nn

Data = tuple[Tensor, Tensor]


def generator(seed: int) -> torch.Generator:
    """A generator with a seed."""
    return torch.Generator().manual_seed(seed)


def trained(
    model: nn.Module | Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], Tensor],
    score: Callable[[], float],
    steps: int,
    *,
    between: Callable[[], object] | None = None,
    after: Callable[[int], object] | None = None,
) -> Training:
    """A loop around a loss that draws its own batch; ``between`` backward pass and update, ``after`` the update."""

    def step(i: int) -> float:
        optimizer.zero_grad()
        value = loss(i)
        value.backward()
        if between is not None:
            between()
        optimizer.step()
        if after is not None:
            after(i)
        return value.item()

    return Training(model, optimizer, step, steps, score)


@cache
def waves(count: int = 1200, noise: float = 0.3) -> Data:
    """Signals ``(N, 1, 48)`` of four kinds, of random phase: slow and fast sine, square wave, chirp."""
    g = generator(11)
    y = torch.randint(4, (count,), generator=g)
    phase = 2 * math.pi * torch.rand(count, 1, generator=g)
    t = torch.linspace(0, 2 * math.pi, 48)
    slow, fast = (2 * t + phase).sin(), (6 * t + phase).sin()
    kinds = torch.stack([slow, fast, (4 * t + phase).sin().sign(), (t.square() * 1.5 + phase).sin()], 1)
    x = kinds[torch.arange(count), y] + noise * torch.randn(count, 48, generator=g)
    return x[:, None], y


@cache
def spirals(count: int = 1500, turns: float = 1.0) -> Data:
    """Three arms in the plane."""
    g = generator(12)
    y = torch.randint(3, (count,), generator=g)
    r = torch.rand(count, generator=g)
    angle = 2 * math.pi * (y / 3 + turns * r) + 0.15 * torch.randn(count, generator=g)
    return 2 * torch.stack([r * angle.cos(), r * angle.sin()], 1), y


@cache
def ratings(users: int = 80, items: int = 60, rank: int = 3) -> Data:
    """Pairs of a user and an item ``(N, 2)``, all of them in random order, and their ratings of variance one."""
    g = generator(13)
    table = torch.randn(users, rank, generator=g) @ torch.randn(items, rank, generator=g).T / rank**0.5
    pairs = torch.cartesian_prod(torch.arange(users), torch.arange(items))
    pairs = pairs[torch.randperm(len(pairs), generator=g)]
    y = table[pairs[:, 0], pairs[:, 1]]
    return pairs, y / y.std() + 0.1 * torch.randn(len(pairs), generator=g)


@cache
def houses(count: int = 1500) -> Data:
    """Year, area, rooms, distance and a share, as written down, and the price in units of its deviation."""
    g = generator(14)
    year = 1950 + (70 * torch.rand(count, generator=g)).round()
    area = 30 + 220 * torch.rand(count, generator=g)
    rooms = 1 + (area / 40 + torch.rand(count, generator=g)).floor()
    distance = 30 * torch.rand(count, generator=g)
    share = torch.rand(count, generator=g)
    z = (area - 140) / 60 + 0.8 * (distance / 10 - 1.5).cos() + 0.5 * (year - 1985) / 20 * (share - 0.5) * 3
    z = z + 0.2 * torch.randn(count, generator=g)
    return torch.stack([year, area, rooms, distance, share], 1), ((z - z.mean()) / z.std())[:, None]


def standardized(x: Tensor) -> Tensor:
    """Each feature less its mean, over its deviation."""
    return (x - x.mean(0)) / x.std(0)


@cache
def series(count: int = 1200, length: int = 20) -> Data:
    """Windows ``(N, length)`` of two mixed oscillations and noise, and the value that follows ``(N, 1)``."""
    g = generator(15)
    start = 400 * torch.rand(count, 1, generator=g)
    t = start + torch.arange(length + 1)
    x = (0.5 * t).sin() + (0.23 * t).cos() + 0.15 * torch.randn(count, length + 1, generator=g)
    return x[:, :-1], x[:, -1:]


def marked(batch: int, g: torch.Generator, length: int = 10, symbols: int = 8) -> Data:
    """Sequences of one-hot symbols and a mark on one of them ``(B, length, symbols + 1)``; which one is marked?"""
    tokens = torch.randint(symbols, (batch, length), generator=g)
    where = torch.randint(length, (batch,), generator=g)
    mark = F.one_hot(where, length).float()[..., None]
    return torch.cat([F.one_hot(tokens, symbols).float(), mark], 2), tokens[torch.arange(batch), where]


def finding(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, **options: object) -> Training:
    """Cross-entropy on ``marked``, scored by accuracy above chance."""
    g, held = generator(1), marked(500, generator(2))

    def loss(_: int) -> Tensor:
        x, y = marked(48, g)
        return F.cross_entropy(model(x), y)

    def score() -> float:
        with undisturbed(model):
            return bounded(((model(held[0]).argmax(1) == held[1]).float().mean().item() - 1 / 8) * 8 / 7)

    return trained(model, optimizer, loss, score, steps, **options)  # type: ignore[arg-type]


@cache
def communities(nodes: int = 150, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """A graph of communities: normalized adjacency, noisy node features ``(N, 8)``, community ``(N,)``."""
    g = generator(16)
    y = torch.randint(classes, (nodes,), generator=g)
    x = torch.randn(classes, 8, generator=g)[y] + 1.5 * torch.randn(nodes, 8, generator=g)
    edges = torch.rand(nodes, nodes, generator=g) < 0.02 + 0.1 * (y[:, None] == y)
    adjacency = (edges | edges.T | torch.eye(nodes, dtype=torch.bool)).float()
    degree = adjacency.sum(1).rsqrt()
    return degree[:, None] * adjacency * degree, x, y


def pretrained(model: nn.Module, classes: Callable[[Tensor], Tensor], steps: int = 100) -> nn.Module:
    """The model after a few steps of Adam on the digits under other labels."""
    x, y = digits()
    optimizer, draw = torch.optim.Adam(model.parameters(), 2e-3), minibatches(64, len(y), seed=3)
    for _ in range(steps):
        chosen = draw()
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), classes(y[chosen])).backward()
        optimizer.step()
    model.zero_grad()
    return model


def neighbors(embed: Callable[[Tensor], Tensor], *parts: nn.Module) -> Callable[[], float]:
    """How often the nearest of 500 digits is of the same class, above chance."""
    x, y = digits()

    def score() -> float:
        with undisturbed(*parts):
            e = embed(x[:500])
        near = (torch.cdist(e, e) + 1e9 * torch.eye(500)).argmin(1)
        return bounded(((y[near] == y[:500]).float().mean().item() - 0.1) / 0.9) if e.isfinite().all() else -1.0

    return score
