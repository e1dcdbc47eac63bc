"""What the cases of depth and mixing share: graphs, bags of tokens, attention written out, probes of features."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.tuned.common import bounded, undisturbed
from torch import Tensor, nn


def communities(nodes: int = 200, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A random graph of communities: normalized adjacency with self-loops, noisy features ``(nodes, 8)``, classes."""
    g = torch.Generator().manual_seed(11)
    y = torch.arange(nodes) % classes
    chance = torch.where(y[:, None] == y[None, :], 0.12, 0.05)
    upper = (torch.rand(nodes, nodes, generator=g) < chance).float().triu(1)
    a = upper + upper.T + torch.eye(nodes)
    d = a.sum(1).rsqrt()
    centres = torch.randn(classes, 8, generator=g)
    return d[:, None] * a * d[None, :], centres[y] + 0.7 * torch.randn(nodes, 8, generator=g), y


def bags(count: int = 1500, tokens: int = 16) -> tuple[Tensor, Tensor]:
    """Bags of tokens ``(count, tokens, 8)``; the target is the mean second number of those whose first is positive."""
    g = torch.Generator().manual_seed(12)
    x = torch.randn(count, tokens, 8, generator=g)
    x[..., 0] = x[..., 0].sign()
    chosen = (x[..., 0] > 0).float()
    y = (chosen * x[..., 1]).sum(1) / chosen.sum(1).clamp(min=1)
    return x, y[:, None] / y.std()


class Attention(nn.Module):
    """Softmax attention written out; ``scale`` multiplies the logits, ``bias`` is added to them."""

    def __init__(self, width: int, heads: int = 1, scale: float | None = None, bias: Tensor | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1 / math.sqrt(width // heads) if scale is None else scale
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.softmax = nn.Softmax(-1)
        self.bias: Tensor | None
        self.register_buffer("bias", bias)

    def weights(self, x: Tensor, memory: Tensor) -> Tensor:
        """The attention ``(batch, heads, queries, keys)``."""
        q, k = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f, h in ((self.query, x), (self.key, memory)))
        logits = q @ k.transpose(-1, -2) * self.scale
        return self.softmax(logits if self.bias is None else logits + self.bias)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        v = self.value(memory).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.out((self.weights(x, memory) @ v).transpose(1, 2).flatten(2))


def probed(encode: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *parts: nn.Module) -> Callable[[], float]:
    """The share of the targets' variance that a ridge regression on the frozen features explains."""
    half = len(x) // 2

    def score() -> float:
        with undisturbed(*parts):
            h = encode(x).double()
            h, t = h - h[:half].mean(0), y.double() - y[:half].double().mean(0)
            gram = h[:half].T @ h[:half] + 0.3 * torch.eye(h.shape[1], dtype=h.dtype)
            if not gram.isfinite().all():
                return -1.0
            guess = h[half:] @ torch.linalg.solve(gram, h[:half].T @ t[:half])
        return bounded(1 - ((guess - t[half:]).square().mean() / t[half:].square().mean()).item())

    return score


def one_hot(y: Tensor) -> Tensor:
    """Ten classes as numbers."""
    return F.one_hot(y, 10).float()
