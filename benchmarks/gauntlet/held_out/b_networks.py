"""The networks that several of the files ``b_*`` share; no cases."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class RecurrentText(nn.Module):
    """Embedding, a recurrent network, a linear head."""

    def __init__(
        self, kind: type[nn.RNNBase] = nn.LSTM, width: int = 64, vocabulary: int = 20, **options: object
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 24)
        self.rnn = kind(24, width, batch_first=True, **options)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


class Attention(nn.Module):
    """Several heads of scaled dot products."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    """Attention and two linear layers, each on a residual stream, normed before (or after, as at first in 2017)."""

    def __init__(
        self, width: int, heads: int, *, causal: bool = False, post: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.post = post
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.norm1(x + self.drop(self.attention(x)))
            return self.norm2(x + self.drop(self.mlp(x)))
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class SmallGPT(nn.Module):
    """A decoder of a few blocks with learned positions."""

    def __init__(self, blocks: int = 2, width: int = 48, vocabulary: int = 20, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        nn.init.normal_(self.tokens.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.1)
        self.blocks = nn.Sequential(*[Block(width, 4, causal=True, dropout=dropout) for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def dense(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with activations between them, as torch initializes them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


def small_cnn(channels: int = 16, norm: bool = True) -> nn.Sequential:
    """Two convolutions of the digits' images, pooling, a linear head."""
    layers: list[nn.Module] = []
    for a, b in ((1, channels), (channels, 2 * channels)):
        layers += [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * channels, 10))
