"""What the held-out cases share: scores taken at rest, a plain loop, and small tasks made from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import minibatches
from benchmarks.gauntlet.training import Training
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]


@contextmanager
def at_rest(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradient, and afterwards every mode and the random numbers as before."""
    modes = [(m, m.training) for module in modules for m in module.modules()]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def accuracy(model: nn.Module, x: Tensor, y: Tensor, classes: int = 10, forward: Forward | None = None) -> float:
    """Accuracy above chance, 0 for a guess and 1 for all right."""
    with at_rest(model):
        right = ((forward or model)(x).argmax(-1) == y).float().mean().item()
    return (right - 1 / classes) / (1 - 1 / classes)


def explained(model: nn.Module, x: Tensor, y: Tensor, forward: Forward | None = None) -> float:
    """The share of the targets' variance that the predictions explain."""
    with at_rest(model):
        guess = (forward or model)(x).float().reshape(y.shape)
    return 1 - ((guess - y) ** 2).mean().item() / ((y - y.mean(0)) ** 2).mean().item()


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    x: Tensor,
    y: Tensor,
    score: Callable[[], float],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    batch: int = 64,
    before_step: Callable[[], object] = lambda: None,
    after_step: Callable[[], object] = lambda: None,
) -> Training:
    """The loop that everyone writes, on random minibatches."""
    draw = minibatches(batch, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        value = loss(model(x[chosen]), y[chosen])
        value.backward()
        before_step()
        optimizer.step()
        after_step()
        return value.item()

    return Training(model, optimizer, step, steps, score)


@cache
def surface(count: int = 1024, inputs: int = 6, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """A smooth function of a few standard normal inputs: ``(N, inputs)`` and ``(N, 1)``, of unit variance."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, inputs, generator=g)
    y = torch.sin(1.5 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3]
    y = ((y - y.mean()) / y.std())[:, None]
    return x, y + noise * torch.randn(y.shape, generator=g)


@cache
def two_moons(count: int = 1000) -> tuple[Tensor, Tensor]:
    """Two half circles that interlock, slightly noisy: ``(N, 2)`` and classes 0 and 1."""
    g = torch.Generator().manual_seed(4)
    y = torch.randint(2, (count,), generator=g)
    t = torch.rand(count, generator=g) * torch.pi
    a = torch.stack([t.cos(), t.sin() - 0.25], 1)
    b = torch.stack([1 - t.cos(), 0.25 - t.sin()], 1)
    x = torch.where(y[:, None] == 0, a, b) + 0.08 * torch.randn(count, 2, generator=g)
    return x - torch.tensor([0.5, 0.0]), y


@cache
def first_symbol(length: int, symbols: int = 4, count: int = 2000) -> tuple[Tensor, Tensor]:
    """Sequences ``(N, length)`` of symbols; the class is the first one, everything after it is noise."""
    x = torch.randint(symbols, (count, length), generator=torch.Generator().manual_seed(5))
    return x, x[:, 0].clone()


@cache
def recall(pairs: int = 6, symbols: int = 8, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Associative recall: tokens key·value (one symbol each, keys distinct), then a key; the class is its value.

    A token is ``key * symbols + value``; the last token asks with ``symbols ** 2 + key``.
    """
    g = torch.Generator().manual_seed(6)
    keys = torch.stack([torch.randperm(symbols, generator=g)[:pairs] for _ in range(count)])
    values = torch.randint(symbols, (count, pairs), generator=g)
    asked = torch.randint(pairs, (count, 1), generator=g)
    question = symbols**2 + keys.gather(1, asked)
    return torch.cat([keys * symbols + values, question], 1), values.gather(1, asked)[:, 0]


@cache
def chain(length: int = 20_000, vocabulary: int = 16) -> Tensor:
    """A text of a Markov chain of order one; each symbol is followed by one of three (0.8, 0.15, 0.05)."""
    g = torch.Generator().manual_seed(7)
    following = torch.stack([torch.randperm(vocabulary, generator=g)[:3] for _ in range(vocabulary)]).tolist()
    which = torch.multinomial(torch.tensor([0.8, 0.15, 0.05]), length, replacement=True, generator=g).tolist()
    text, now = [], 0
    for k in which:
        now = following[now][k]
        text.append(now)
    return torch.tensor(text)


def windows(text: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Every window of a text and the same one symbol later."""
    x = text.unfold(0, length + 1, length // 2)
    return x[:, :-1].contiguous(), x[:, 1:].contiguous()


def next_symbol_score(model: nn.Module, x: Tensor, y: Tensor, best: float, constant: float) -> float:
    """How far the cross-entropy of a language model has come from that of single symbols to the text's entropy."""
    with at_rest(model):
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten()).item()
    return (constant - loss) / (constant - best)
