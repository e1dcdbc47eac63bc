"""Small transformers that are well."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import classifier, language
from torch import Tensor, nn

CASES = Cases()


class SelfAttention(nn.Module):
    """Causal attention of two heads."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fused = fused

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(B, T, 3, 2, D // 2).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            later = torch.ones(T, T, dtype=torch.bool).triu(1)
            logits = (q @ k.transpose(-1, -2) / math.sqrt(D // 2)).masked_fill(later, float("-inf"))
            y = logits.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    """Attention and an MLP, with the norms before or after."""

    def __init__(self, width: int, post: bool, fused: bool) -> None:
        super().__init__()
        self.attention = SelfAttention(width, fused)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.post = post

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """A decoder for 24 characters."""

    def __init__(self, depth: int, *, width: int = 32, post: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(24, width), nn.Embedding(32, width)
        self.blocks = nn.Sequential(*[Block(width, post, fused) for _ in range(depth)])
        self.norm = nn.Identity() if post else nn.LayerNorm(width)
        self.head = nn.Linear(width, 24)

    def forward(self, i_BT: Tensor) -> Tensor:
        x = self.characters(i_BT) + self.positions.weight[: i_BT.shape[1]]
        return self.head(self.norm(self.blocks(x)))


@CASES.healthy()
def pre_norm_gpt() -> Training:
    """Two blocks in plain operations, clipped at one."""
    model = GPT(2)
    return language(model, torch.optim.AdamW(model.parameters(), 5e-3), 260, clip=1.0)


@CASES.healthy()
def gpt_clipped_in_most_steps() -> Training:
    """Fused attention; clipping at 0.3 acts in most steps of a training that learns."""
    model = GPT(2, fused=True)
    return language(model, torch.optim.AdamW(model.parameters(), 5e-3), 260, clip=0.3)


@CASES.healthy(good=0.25)
def post_norm_with_warm_up() -> Training:
    """Three post-norm blocks whose rate rises over the first hundred steps."""
    model = GPT(3, post=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return language(model, optimizer, 250, length=16, rate=lambda i: 3e-3 * min(1.0, (i + 1) / 100), clip=1.0)


@CASES.healthy()
def encoder_over_rows_of_digits() -> Training:
    """``nn.TransformerEncoder``, post-norm as it comes, with dropout."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(x.view(-1, 8, 8))).mean(1))

    model = Rows()
    return classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 250)


@CASES.healthy()
def patches_with_a_class_token() -> Training:
    """A vision transformer over sixteen patches, pre-norm."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(4, 32)
            self.token = nn.Parameter(torch.zeros(1, 1, 32))
            self.positions = nn.Parameter(0.02 * torch.randn(1, 17, 32))
            layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True, dropout=0.0)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            patches = x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
            h = torch.cat([self.token.expand(len(x), -1, -1), self.embed(patches)], 1) + self.positions
            return self.head(self.encoder(h)[:, 0])

    model = Patches()
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 250, batch=32)
