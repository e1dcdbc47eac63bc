"""The data of the gauntlet: digits that scikit-learn ships, and what is made from a seed. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor


@cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 digits: standardized pixels ``(N, 64)`` and classes ``(N,)``, shuffled once."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.data, dtype=torch.float32)[order]
    return (x - x.mean()) / x.std(), torch.tensor(data.target)[order]


@cache
def images() -> tuple[Tensor, Tensor]:
    """The same as images ``(N, 1, 8, 8)``."""
    x, y = digits()
    return x.view(-1, 1, 8, 8), y


@cache
def characters(length: int = 60_000, vocabulary: int = 24) -> Tensor:
    """A text ``(length,)`` of a Markov chain of order two, which a language model can learn.

    Each pair of characters is followed by one of four, with chances 0.7, 0.15, 0.1 and 0.05: its entropy is
    0.92 nats, that of single characters about 3.1.
    """
    g = torch.Generator().manual_seed(0)
    following = torch.randint(vocabulary, (vocabulary, vocabulary, 4), generator=g)
    which = torch.multinomial(torch.tensor([0.7, 0.15, 0.1, 0.05]), length, replacement=True, generator=g).tolist()
    table, text, a, b = following.tolist(), [], 0, 1
    for k in which:
        a, b = b, table[a][b][k]
        text.append(b)
    return torch.tensor(text)


def minibatches(size: int, count: int, seed: int = 1) -> Callable[[], Tensor]:
    """A function that draws the indices of a random batch of ``size`` out of ``count`` examples at every call."""
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randint(count, (size,), generator=g)
