"""Attention that collapses, tokens that become alike, and transformers that do not start."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import classifier, undisturbed
from torch import Tensor, nn

CASES = Cases()

KEYS, PAIRS = 16, 8


def lookups(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a key and a value, the key that is asked for, and its value: what attention alone can answer."""
    keys = torch.rand(batch, KEYS, generator=generator).argsort(1)[:, :PAIRS]
    values = torch.randint(KEYS, (batch, PAIRS), generator=generator)
    asked = torch.randint(PAIRS, (batch, 1), generator=generator)
    pairs = torch.stack([keys, values], 2)
    return pairs, keys.gather(1, asked), values.gather(1, asked)[:, 0]


class HandWritten(nn.Module):
    """One head of attention in plain operations."""

    def __init__(self, width: int, scale: float | None = None) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.scale = scale or 1 / math.sqrt(width)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        logits = self.query(q) @ self.key(k).transpose(1, 2) * self.scale
        return torch.softmax(logits, -1) @ self.value(k)


class Fused(HandWritten):
    """The same through ``scaled_dot_product_attention``."""

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        q, v, k = self.query(q), self.value(k), self.key(k)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=self.scale)[:, 0]


class Packaged(nn.Module):
    """The same by ``nn.MultiheadAttention``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return self.attention(q, k, k, need_weights=False)[0]


class Reader(nn.Module):
    """Embeds pairs and the question, attends, and reads the answer."""

    def __init__(self, attention: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.keys, self.values = nn.Embedding(KEYS, width), nn.Embedding(KEYS, width)
        self.attention, self.head = attention, nn.Linear(width, KEYS)

    def forward(self, pairs: Tensor, asked: Tensor) -> Tensor:
        tokens = self.keys(pairs[..., 0]) + self.values(pairs[..., 1])
        return self.head(self.attention(self.keys(asked), tokens)[:, 0])


def lookup(model: Reader, optimizer: torch.optim.Optimizer, steps: int = 160) -> Training:
    """Cross-entropy on ``lookups``."""
    g = torch.Generator().manual_seed(1)
    pairs, asked, answer = lookups(500, torch.Generator().manual_seed(2))

    def step(_: int) -> float:
        p, a, y = lookups(64, g)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(p, a), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            right = (model(pairs, asked).argmax(1) == answer).float().mean().item()
        return (right - 1 / KEYS) / (1 - 1 / KEYS)

    return Training(model, optimizer, step, steps, score)


@CASES.sick(
    "attention_collapse", sites=r"^attention", also=("saturated_units", "bad_initialization", "stalled_training")
)
def query_and_key_forty_times_too_large(sick: bool) -> Training:
    """Every query looks at one token from birth, chosen by chance."""
    attention = HandWritten(32)
    if sick:
        attention.query.weight.data.mul_(40)
        attention.key.weight.data.mul_(40)
    model = Reader(attention)
    return lookup(model, torch.optim.Adam(model.parameters(), 5e-3))


@CASES.sick(
    "attention_collapse",
    sites=r"^attention",
    also=("saturated_units", "bad_initialization", "stalled_training", "exploding_gradient"),
)
def scale_the_wrong_way_round(sick: bool) -> Training:
    """``scale=sqrt(d)`` where one over it was meant, once for each of two code paths."""
    model = Reader(Fused(64, scale=64.0 if sick else None), width=64)
    return lookup(model, torch.optim.Adam(model.parameters(), 3e-3), 110)


@CASES.sick(
    "attention_collapse", sites=r"^attention", also=("saturated_units", "bad_initialization", "stalled_training")
)
def packed_projections_too_large(sick: bool) -> Training:
    """``nn.MultiheadAttention`` whose query and key projections are forty times too large."""
    attention = Packaged(32)
    if sick:
        attention.attention.in_proj_weight.data[:64] *= 40
    model = Reader(attention)
    return lookup(model, torch.optim.Adam(model.parameters(), 5e-3))


@CASES.sick("attention_collapse", sites=r"^attention", also=("saturated_units", "loss_spike", "oscillating_loss"))
def logits_that_grow(sick: bool) -> Training:
    """The query and key projections have two hundred times the rate of the rest: their logits grow without bound."""
    model = Reader(HandWritten(32))
    sharp = [*model.attention.query.parameters(), *model.attention.key.parameters()]
    rest = [p for name, p in model.named_parameters() if "query" not in name and "key." not in name]
    groups = [{"params": sharp, "lr": 1.0 if sick else 5e-3}, {"params": rest}]
    return lookup(model, torch.optim.Adam(groups, 5e-3))


@CASES.sick("rank_collapse", also=("vanishing_gradient", "stalled_training"))
def attention_without_skips(sick: bool) -> Training:
    """Six attention layers and no skip: all tokens become the same (Dong et al., 2021)."""

    class Copy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(KEYS, 32), nn.Linear(32, KEYS)
            self.layers = nn.ModuleList(HandWritten(32) for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            h = self.embedding(x)
            for layer in self.layers:
                h = layer(h, h) if sick else h + layer(h, h)
            return self.head(h)

    model = Copy()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    g = torch.Generator().manual_seed(1)
    held = torch.randint(KEYS, (64, 12), generator=torch.Generator().manual_seed(2))

    def step(_: int) -> float:
        x = torch.randint(KEYS, (32, 12), generator=g)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), x.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            right = (model(held).argmax(2) == held).float().mean().item()
        return (right - 1 / KEYS) / (1 - 1 / KEYS)

    return Training(model, optimizer, step, 160, score)


@CASES.sick(
    "vanishing_gradient",
    "stalled_training",
    "attention_collapse",
    "rank_collapse",
    "oscillating_loss",
    also=("saturated_units", "dead_units", "exploding_gradient"),
)
def post_norm_without_warm_up(sick: bool) -> Training:
    """Ten post-norm layers, Adam at its full rate from the first step (Xiong et al., 2020)."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=not sick)
            self.encoder = nn.TransformerEncoder(layer, 10, enable_nested_tensor=False)
            self.head = nn.Linear(256, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(x.view(-1, 8, 8))).flatten(1))

    model = Rows()
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 120, batch=32)
