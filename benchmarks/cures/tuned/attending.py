"""Attention that looks at one token only, tokens that become alike, and a transformer that does not start."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import Data, bounded, language, learning
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.tuned.again_data import reviews, sets
from benchmarks.gauntlet.tuned.attention import KEYS, lookups
from benchmarks.gauntlet.tuned.former_common import recall
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("vanishing_gradient", "stalled_training", "attention_collapse", "rank_collapse", classic=True)
def post_norm_without_warm_up(sick: bool) -> Recipe:
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

    return learning(Rows, lambda p: Adam(p, 8e-3), digits(), 150, batch=32)


class Reader(nn.Module):
    """Embeds pairs of key and value and the question, attends with one head, and reads the answer."""

    def __init__(self, width: int = 32, sharp: float = 1.0) -> None:
        super().__init__()
        self.keys, self.values = nn.Embedding(KEYS, width), nn.Embedding(KEYS, width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.head = nn.Linear(width, KEYS)
        self.query.weight.data.mul_(sharp)
        self.key.weight.data.mul_(sharp)

    def forward(self, pairs: Tensor, asked: Tensor) -> Tensor:
        tokens = self.keys(pairs[..., 0]) + self.values(pairs[..., 1])
        q, k, v = self.query(self.keys(asked)), self.key(tokens), self.value(tokens)
        return self.head((torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v)[:, 0])


def pairs(batch: int, seed: int) -> Iterator[Data]:
    """Batches of ``lookups`` without an end."""
    g = torch.Generator().manual_seed(1000 + seed)
    while True:
        p, a, y = lookups(batch, g)
        yield (p, a), y


def lookup(**others: object) -> Recipe:
    """A recipe on ``lookups``."""
    p, a, y = lookups(500, torch.Generator().manual_seed(2))

    def evaluate(model: nn.Module) -> float:
        right = (model(p, a).argmax(1) == y).float().mean().item()
        return bounded((right - 1 / KEYS) / (1 - 1 / KEYS))

    made = {"loss": F.cross_entropy, "batches": lambda seed: pairs(64, seed), "evaluate": evaluate, "steps": 220}
    return Recipe(**{**made, **others})  # type: ignore[arg-type]


@CASES.sick("attention_collapse", "saturated_units", "bad_initialization")
def query_and_key_forty_times_too_large(sick: bool) -> Recipe:
    """Every query looks at one token from birth, chosen by chance."""
    return lookup(model=lambda: Reader(sharp=40.0 if sick else 1.0), optimizer=lambda p: Adam(p, 5e-3))


@CASES.sick("attention_collapse", "saturated_units", "oscillating_loss", "loss_spike")
def queries_at_two_hundred_times_the_rate(sick: bool) -> Recipe:
    """The query and key projections have two hundred times the rate of the rest: their logits grow without bound."""

    def optimizer(parameters: object) -> torch.optim.Optimizer:
        keys, values, query, key, *rest = list(parameters)  # type: ignore[call-overload]
        groups = [{"params": [query, key], "lr": 1.0 if sick else 5e-3}, {"params": [keys, values, *rest]}]
        return Adam(groups, 5e-3)

    return lookup(model=Reader, optimizer=optimizer)


@CASES.sick("attention_collapse", "saturated_units", "bad_initialization", "vanishing_gradient")
def packed_projections_too_large(sick: bool) -> Recipe:
    """One token that stands for the whole set reads the others through packed projections thirty times too large."""

    class Summary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32))
            self.attend = nn.MultiheadAttention(32, 4, batch_first=True)
            self.out = nn.Linear(32, 1)
            if sick:
                self.attend.in_proj_weight.data[:64].mul_(30)
                self.attend.in_proj_bias.data[:32].normal_(std=3.0)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            return self.out(self.attend(h[:, :1], h, h)[0][:, 0])

    return learning(Summary, lambda p: Adam(p, 3e-3), sets(), 400, batch=48)


@CASES.sick("attention_collapse", "bad_initialization", "saturated_units")
def causal_model_with_queries_of_deviation_three(sick: bool) -> Recipe:
    """Queries and keys of a language model drawn with a deviation of three instead of a seventh."""

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(24, 48), nn.Embedding(24, 48)
            self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(4))
            self.qk = nn.ModuleList(nn.Linear(48, 96, bias=False) for _ in range(2))
            self.v = nn.ModuleList(nn.Linear(48, 48, bias=False) for _ in range(2))
            self.up = nn.ModuleList(nn.Linear(48, 96) for _ in range(2))
            self.down = nn.ModuleList(nn.Linear(96, 48) for _ in range(2))
            self.head = nn.Linear(48, 24)
            for layer in self.qk:
                nn.init.normal_(layer.weight, std=3.0 if sick else 0.14)

        def forward(self, x: Tensor) -> Tensor:
            b, t = x.shape
            h = self.token(x) + self.place(torch.arange(t))
            for i in range(2):
                n = self.norms[2 * i](h)
                q, k, v = (z.view(b, t, 4, 12).transpose(1, 2) for z in (*self.qk[i](n).chunk(2, -1), self.v[i](n)))
                h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, 48)
                h = h + self.down[i](F.relu(self.up[i](self.norms[2 * i + 1](h))))
            return self.head(h)

    return language(GPT, lambda p: AdamW(p, 4e-3), 300, length=24)


@CASES.sick("attention_collapse", "saturated_units", "stalled_training")
def additive_attention_far_too_sharp(sick: bool) -> Recipe:
    """Scores ``v . tanh(W h)`` (Bahdanau et al., 2015) with a ``v`` of deviation 200: one word of twelve is read."""

    class Additive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(120, 24)
            self.look, self.weigh = nn.Linear(24, 24), nn.Linear(24, 1, bias=False)
            self.out = nn.Linear(24, 2)
            if sick:
                nn.init.normal_(self.weigh.weight, std=200.0)

        def forward(self, x: Tensor) -> Tensor:
            h = self.words(x)
            a = F.softmax(self.weigh(self.look(h).tanh()), dim=1)
            return self.out((a * h).sum(1))

    return learning(Additive, lambda p: AdamW(p, 1e-2, weight_decay=0.01), reviews(), 250, batch=50)


@CASES.sick("attention_collapse", "bad_initialization", "saturated_units", "oscillating_loss")
def recall_with_queries_of_deviation_three(sick: bool) -> Recipe:
    """A transformer of two blocks, logits in the thousands and entropy zero (Zhai et al., 2023)."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))
            self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            if sick:
                nn.init.normal_(self.q.weight, std=3.0)
                nn.init.normal_(self.k.weight, std=3.0)

        def forward(self, x: Tensor) -> Tensor:
            b, t, c = x.shape
            h = self.ln1(x)
            q, k, v = (f(h).view(b, t, 2, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
            weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(c // 2), dim=-1)
            x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, t, c))
            return x + self.ff(self.ln2(x))

    class Recall(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tok, self.blocks = nn.Embedding(72, 32), nn.Sequential(Block(32), Block(32))
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.norm(self.blocks(self.tok(tokens))[:, -1]))

    return learning(Recall, lambda p: AdamW(p, 5e-3), recall(), 250, batch=48)


@CASES.sick("rank_collapse", "vanishing_gradient", "stalled_training")
def attention_without_skips(sick: bool) -> Recipe:
    """Ten layers of attention over the rows of a digit and no skip: all tokens become one (Dong et al., 2021)."""

    class PureAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Linear(8, 32)
            self.positions = nn.Parameter(torch.randn(8, 32) * 0.5)
            self.attention = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(10))
            self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(10))
            self.head = nn.Linear(256, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = self.rows(x.view(-1, 8, 8)) + self.positions
            for attend, norm in zip(self.attention, self.norms, strict=True):
                z = norm(h)
                a, _ = attend(z, z, z, need_weights=False)
                h = a if sick else h + a
            return self.head(h.flatten(1))

    return learning(PureAttention, lambda p: SGD(p, 0.02, momentum=0.9), digits(), 150, batch=32)
