"""Data of the ``again_`` cases: points, signals, tables, textures, words, ratings, series and sets, all from seeds."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.training import Training
from benchmarks.gauntlet.tuned.common import accuracy, supervised
from torch import Tensor, nn


def classify(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    steps: int,
    **options: object,
) -> Training:
    """Cross-entropy over the classes there are, scored by accuracy above chance."""
    x, y = data
    score = accuracy(model, x[:600], y[:600], int(y.max()) + 1)
    return supervised(model, optimizer, data, F.cross_entropy, score, steps, **options)  # type: ignore[arg-type]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def spirals(count: int = 1500) -> tuple[Tensor, Tensor]:
    """Points of three arms of a spiral in the plane ``(N, 2)``."""
    g = _seeded(11)
    y = torch.randint(3, (count,), generator=g)
    r = torch.rand(count, generator=g) * 2
    angle = 2.2 * r + y * 2 * math.pi / 3 + 0.15 * torch.randn(count, generator=g)
    return torch.stack([r * angle.cos(), r * angle.sin()], 1), y


@cache
def waves(count: int = 1200, length: int = 48) -> tuple[Tensor, Tensor]:
    """Noisy signals ``(N, 1, 48)`` of four forms: sine, square, sawtooth, and a sine of twice the pitch."""
    g = _seeded(12)
    y = torch.randint(4, (count,), generator=g)
    phase = torch.rand(count, 1, generator=g)
    t = (torch.arange(length) / 16 + phase) % 1
    forms = torch.stack(
        [
            (2 * math.pi * t).sin() * 1.4,
            (t < 0.5).float() * 2 - 1,
            (2 * t - 1) * 1.7,
            (4 * math.pi * t).sin() * 1.4,
        ]
    )
    x = forms[y, torch.arange(count)] + 0.2 * torch.randn(count, length, generator=g)
    return x[:, None], y


@cache
def table(count: int = 2000) -> tuple[Tensor, Tensor]:
    """Eight standardized columns and a smooth target of variance one."""
    g = _seeded(13)
    x = torch.randn(count, 8, generator=g)
    y = (
        x[:, 0]
        - 0.8 * x[:, 1]
        + (1.5 * x[:, 2]).sin()
        + 0.5 * x[:, 3] * x[:, 4]
        + 0.1 * torch.randn(count, generator=g)
    )
    return x, ((y - y.mean()) / y.std())[:, None]


@cache
def textures(count: int = 1000) -> tuple[Tensor, Tensor]:
    """Coloured images ``(N, 3, 12, 12)``: stripes of three directions and checkers, under noise."""
    g = _seeded(14)
    y = torch.randint(4, (count,), generator=g)
    phase = torch.randint(4, (count, 1, 1), generator=g)
    row, column = torch.arange(12)[:, None], torch.arange(12)[None]
    places = torch.stack(
        [
            (row + 0 * column + phase) % 4 < 2,
            (column + 0 * row + phase) % 4 < 2,
            (row + column + phase) % 4 < 2,
            ((row + phase) % 4 < 2) ^ (column % 4 < 2),
        ]
    )
    form = places[y, torch.arange(count)].float()[:, None] * 2 - 1
    colour = torch.randn(count, 3, 1, 1, generator=g)
    x = form * (1 + 0.3 * colour) + 0.5 * torch.randn(count, 3, 12, 12, generator=g)
    return x, y


@cache
def reviews(count: int = 2000, length: int = 12, vocabulary: int = 120) -> tuple[Tensor, Tensor]:
    """Twelve words each ``(N, 12)``, liked or not by the sum of what the words mean."""
    g = _seeded(15)
    x = torch.randint(vocabulary, (count, length), generator=g)
    meaning = torch.randn(vocabulary, generator=g)
    return x, (meaning[x].sum(1) > 0).long()


@cache
def ratings(count: int = 6000, users: int = 40, films: int = 30) -> tuple[Tensor, Tensor]:
    """Pairs of a user and a film ``(N, 2)`` and a rating of variance one, of rank three."""
    g = _seeded(16)
    tastes, kinds = torch.randn(users, 3, generator=g), torch.randn(films, 3, generator=g)
    x = torch.stack([torch.randint(users, (count,), generator=g), torch.randint(films, (count,), generator=g)], 1)
    y = (tastes[x[:, 0]] * kinds[x[:, 1]]).sum(1) / 3**0.5
    return x, (y / y.std())[:, None]


@cache
def series(count: int = 1500, length: int = 24) -> tuple[Tensor, Tensor]:
    """Windows ``(N, 24, 1)`` of a sum of two waves of changing pitch, and the value four steps later."""
    g = _seeded(17)
    t = torch.arange(length + 4).float()
    slow, fast = (0.15 + 0.2 * torch.rand(count, 1, generator=g) for _ in range(2))
    start = 6 * torch.rand(count, 1, generator=g)
    x = (
        (slow * t + start).sin()
        + 0.5 * (2 * fast * t + 2 * start).sin()
        + 0.05 * torch.randn(count, len(t), generator=g)
    )
    return x[:, :length, None], x[:, -1:]


@cache
def sets(count: int = 1500, size: int = 12) -> tuple[Tensor, Tensor]:
    """Sets of twelve tokens ``(N, 12, 4)``; the target is a mean over all of them, which no single token tells."""
    g = _seeded(18)
    x = torch.randn(count, size, 4, generator=g)
    y = (x[..., 0] + x[..., 1] * x[..., 2]).mean(1, keepdim=True)
    return x, y / y.std()


@cache
def first_of(length: int, noise: float = 0.2, count: int = 1500) -> tuple[Tensor, Tensor]:
    """Noise ``(N, T, 2)`` whose first element holds the two numbers that are to be told at the end."""
    g = _seeded(19)
    x = noise * torch.randn(count, length, 2, generator=g)
    x[:, 0] = torch.randn(count, 2, generator=g)
    return x, x[:, 0].clone()
