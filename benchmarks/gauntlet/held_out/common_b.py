"""Shared by the files ``b_*``: scores that leave no trace, loops, small data sets from seeds, and a few networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import minibatches
from benchmarks.gauntlet.training import Training
from torch import Tensor, nn

Score = Callable[[], float]


@contextmanager
def quiet(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes and random numbers are afterwards what they were."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for part, mode in before:
                part.training = mode


def bounded(value: float) -> float:
    """Between -1 and 1, and -1 for what is no number."""
    return min(1.0, max(-1.0, value)) if math.isfinite(value) else -1.0


def accuracy(model: nn.Module, x: Tensor, y: Tensor, classes: int = 10) -> Score:
    """Accuracy above chance of the largest output; the classes are the last dimension."""

    def score() -> float:
        with quiet(model):
            right = (model(x).argmax(-1) == y).float().mean().item()
        return bounded((right * classes - 1) / (classes - 1))

    return score


def explained(predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *modules: nn.Module) -> Score:
    """The share of the variance of ``y`` that a prediction explains."""

    def score() -> float:
        with quiet(*modules):
            error = (predict(x).float().reshape(y.shape) - y).square().mean()
        return bounded(1 - (error / (y - y.mean(0)).square().mean()).item())

    return score


def fit(
    model: nn.Module | dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor], Tensor],
    count: int,
    steps: int,
    score: Score,
    *,
    batch: int = 64,
    rate: Callable[[int], float] | None = None,
    between: Callable[[], object] | None = None,
) -> Training:
    """The usual loop over random batches: ``loss`` takes indices, ``rate(i)`` multiplies the learning rate, ``between``
    runs before the optimizer's step.
    """
    draw = minibatches(batch, count)
    base = [group["lr"] for group in optimizer.param_groups]

    def step(i: int) -> float:
        if rate is not None:
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * rate(i)
        optimizer.zero_grad()
        value = loss(draw())
        value.backward()
        if between is not None:
            between()
        optimizer.step()
        return value.item()

    return Training(model, optimizer, step, steps, score)


def warm_cosine(steps: int, warm: int) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine down to a twentieth."""

    def factor(i: int) -> float:
        if i < warm:
            return (i + 1) / warm
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (i - warm) / (steps - warm)))

    return factor


@cache
def words(length: int = 40_000, letters: int = 20) -> tuple[Tensor, float]:
    """A text of words out of a lexicon of fifty with Zipf's frequencies, blanks between them (symbol 0), and its
    entropy in nats a symbol.
    """
    g = torch.Generator().manual_seed(11)
    lexicon = [
        torch.randint(1, letters, (int(n),), generator=g).tolist() for n in torch.randint(2, 7, (50,), generator=g)
    ]
    chances = 1 / torch.arange(1.0, 51.0)
    chances /= chances.sum()
    text: list[int] = []
    for k in torch.multinomial(chances, length // 3, replacement=True, generator=g).tolist():
        text += [*lexicon[k], 0]
    spread = -(chances * chances.log()).sum().item()
    mean = sum(p * (len(word) + 1) for p, word in zip(chances.tolist(), lexicon, strict=True))
    return torch.tensor(text[:length]), spread / mean


def language(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    length: int = 32,
    batch: int = 16,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    rate: Callable[[int], float] | None = None,
    between: Callable[[], object] | None = None,
) -> Training:
    """Next symbol of the text of words; the score is 1 at its entropy, 0 at that of a uniform guess over 20."""
    text, entropy = words()
    window = torch.arange(length + 1)
    held = text[torch.arange(0, 38_000, 700)[:, None] + window]

    def usual(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def loss_of(chosen: Tensor) -> Tensor:
        tokens = text[chosen[:, None] + window]
        return (loss or usual)(model(tokens[:, :-1]), tokens[:, 1:])

    def score() -> float:
        with quiet(model):
            nats = usual(model(held[:, :-1]).float(), held[:, 1:]).item()
        return bounded((math.log(20) - nats) / (math.log(20) - entropy))

    count = len(text) - length - 1
    return fit(model, optimizer, loss_of, count, steps, score, batch=batch, rate=rate, between=between)


@cache
def chains(count: int = 2000, length: int = 24) -> tuple[Tensor, Tensor]:
    """Sequences of twelve symbols, each from one of four Markov chains, and which chain it was."""
    g = torch.Generator().manual_seed(21)
    tables = torch.softmax(2.0 * torch.randn(4, 12, 12, generator=g), 2)
    which = torch.randint(4, (count,), generator=g)
    columns = [torch.randint(12, (count,), generator=g)]
    for _ in range(length - 1):
        columns.append(torch.multinomial(tables[which, columns[-1]], 1, generator=g)[:, 0])
    return torch.stack(columns, 1), which


@cache
def houses(count: int = 2000) -> tuple[Tensor, Tensor]:
    """Houses in the units of a register (area, rooms, year, income, metres to a station, energy) and their
    standardized log price.
    """
    g = torch.Generator().manual_seed(31)
    z = torch.randn(count, 6, generator=g)
    area, rooms = 110 * (0.35 * z[:, 0]).exp(), (4 + z[:, 0] + 0.8 * z[:, 1]).round().clamp(1, 9)
    year, income = 1975 + 20 * z[:, 2], 42_000 * (0.4 * z[:, 3]).exp()
    metres, energy = 1500 * (0.7 * z[:, 4]).exp(), 160 + 40 * z[:, 5]
    price = 0.8 * z[:, 0] + 0.5 * (1.5 * z[:, 2]).sin() + 0.6 * z[:, 3] - 0.3 * z[:, 4] * (z[:, 0] > 0) + 0.2 * z[:, 1]
    price = price + 0.1 * torch.randn(count, generator=g)
    raw = torch.stack([area, rooms, year, income, metres, energy], 1)
    return raw, ((price - price.mean()) / price.std())[:, None]


@cache
def tidy_houses() -> tuple[Tensor, Tensor]:
    """The same with standardized features (of the logarithm where they are skewed)."""
    raw, y = houses()
    x = torch.stack([raw[:, 0].log(), raw[:, 1], raw[:, 2], raw[:, 3].log(), raw[:, 4].log(), raw[:, 5]], 1)
    return (x - x.mean(0)) / x.std(0), y


@cache
def weather(count: int = 1500, length: int = 24) -> tuple[Tensor, Tensor]:
    """Windows of a temperature in kelvin with a noisy daily and a slow wave, and its value three hours on."""
    g = torch.Generator().manual_seed(41)
    t = torch.arange(count + length + 3.0)
    air = 4 * (2 * math.pi * t / 24).sin() + 3 * (2 * math.pi * t / 170).sin() + 0.4 * torch.randn(len(t), generator=g)
    windows = (285 + air).unfold(0, length, 1)[:count, :, None]
    target = air[length + 2 : length + 2 + count, None]
    return windows, (target - target.mean()) / target.std()
