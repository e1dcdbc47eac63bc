"""Attention that looks at one token, representations that become one, and deep post-norm without warm-up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import language, undisturbed
from benchmarks.gauntlet.tuned.more_tasks import communities, finding, generator, marked, trained
from torch import Tensor, nn

CASES = Cases()

SHARP = ("saturated_units", "bad_initialization", "stalled_training", "vanishing_gradient")


@CASES.sick("attention_collapse", sites=r"^read", also=SHARP, good=0.6)
def cosines_over_a_thousandth(sick: bool) -> Training:
    """Cosine attention in einsum, divided by a temperature of 0.001 where 0.1 was meant."""

    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys, self.values = nn.Linear(9, 24), nn.Linear(9, 24)
            self.queries = nn.Parameter(torch.randn(2, 24))

        def forward(self, x: Tensor) -> Tensor:
            keys, queries = F.normalize(self.keys(x), dim=-1), F.normalize(self.queries, dim=-1)
            logits = torch.einsum("hd,btd->bht", queries, keys) / (0.001 if sick else 0.1)
            return torch.einsum("bht,btd->bhd", logits.softmax(-1), self.values(x)).flatten(1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.head = Read(), nn.Linear(48, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.read(x))

    model = Net()
    return finding(model, torch.optim.Adam(model.parameters(), 1e-2), 150)


class Block(nn.Module):
    """Causal attention whose queries and keys are normalized and multiplied by a learned gain, and an MLP."""

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.gain = nn.Parameter(torch.tensor(gain))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, 2))
        q, k = self.gain * F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


@CASES.sick("attention_collapse", sites=r"block", also=SHARP, good=0.3)
def gain_of_two_thousand_on_normalized_queries(sick: bool) -> Training:
    """A gain on normalized queries that begins at 2,000 instead of 5, in both blocks of a GPT."""

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(24, 32), nn.Embedding(20, 32)
            self.blocks = nn.ModuleList(Block(32, 2000.0 if sick else 5.0) for _ in range(2))
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 24)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    model = GPT()
    return language(model, torch.optim.Adam(model.parameters(), 4e-3), 280, length=16)


@CASES.sick("attention_collapse", sites=r"attention", also=SHARP, good=0.6)
def entropy_bonus_of_the_wrong_sign(sick: bool) -> Training:
    """A bonus for the entropy of ``nn.MultiheadAttention`` that is added to the loss: it is driven to one token."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.query = nn.Linear(9, 32), nn.Parameter(torch.randn(1, 1, 32))
            self.attention, self.head = nn.MultiheadAttention(32, 2, batch_first=True), nn.Linear(32, 8)
            self.weights = torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            query = self.query.expand(len(x), 1, 32)
            mixed, self.weights = self.attention(query, h, h, average_attn_weights=False)
            return self.head(mixed[:, 0])

    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    g = generator(1)

    def loss(_: int) -> Tensor:
        x, y = marked(48, g)
        task = F.cross_entropy(model(x), y)
        entropy = -(model.weights * (model.weights + 1e-9).log()).sum(-1).mean()
        return task + (3.0 if sick else -0.02) * entropy

    return trained(model, optimizer, loss, finding(model, optimizer, 200).score, 200)


@CASES.sick("rank_collapse", also=("vanishing_gradient", "stalled_training", "attention_collapse"), good=0.4)
def packaged_attention_without_skips(sick: bool) -> Training:
    """Eight ``nn.MultiheadAttention`` one behind the other, the sum with the input forgotten; a token for a token."""

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 32)
            self.layers = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(8))
            self.norms, self.head = nn.ModuleList(nn.LayerNorm(32) for _ in range(8)), nn.Linear(32, 20)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            for layer, norm in zip(self.layers, self.norms, strict=True):
                mixed, _ = layer(x, x, x, need_weights=False)
                x = norm(mixed) if sick else x + norm(mixed)
            return self.head(x)

    model, g = Stack(), generator(1)
    held = torch.randint(20, (64, 10), generator=generator(2))

    def loss(_: int) -> Tensor:
        tokens = torch.randint(20, (24, 10), generator=g)
        return F.cross_entropy(model(tokens).flatten(0, 1), ((tokens * 3 + 1) % 20).flatten())

    def score() -> float:
        with undisturbed(model):
            return ((model(held).argmax(2) == (held * 3 + 1) % 20).float().mean().item() - 0.05) / 0.95

    return trained(model, torch.optim.AdamW(model.parameters(), 2e-3), loss, score, 120)


@CASES.sick("rank_collapse", also=("stalled_training", "vanishing_gradient"), good=0.5)
def sixty_hops_before_the_classifier(sick: bool) -> Training:
    """Features averaged over sixty hops of a graph instead of two: all nodes end with the same (Li et al., 2018)."""
    adjacency, x, y = communities()

    class Propagate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return adjacency @ x

    hops = [Propagate() for _ in range(60 if sick else 2)]
    model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), *hops, nn.Linear(24, 3))

    def score() -> float:
        with undisturbed(model):
            return ((model(x).argmax(1) == y).float().mean().item() - 1 / 3) * 1.5

    optimizer = torch.optim.Adam(model.parameters(), 5e-3, weight_decay=1e-3)
    return trained(model, optimizer, lambda _: F.cross_entropy(model(x), y), score, 120)


@CASES.sick("rank_collapse", also=("stalled_training", "vanishing_gradient", "bad_initialization"), good=0.5)
def mixers_that_average(sick: bool) -> Training:
    """A sequence backwards, by layers that mix the places with weights of a softmax, even at first; no sum around."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(0.01 * torch.randn(9, 9))
            self.channels = nn.Sequential(nn.Linear(40, 40), nn.GELU(), nn.Linear(40, 40))

        def forward(self, x: Tensor) -> Tensor:
            mixed = self.places.softmax(1) @ x
            mixed = mixed if sick else x + mixed
            return mixed + self.channels(mixed)

    model = nn.Sequential(nn.Linear(6, 40), *[Mixer() for _ in range(5)], nn.LayerNorm(40), nn.Linear(40, 6))
    g, held = generator(1), torch.randint(6, (100, 9), generator=generator(2))

    def loss(_: int) -> Tensor:
        tokens = torch.randint(6, (32, 9), generator=g)
        return F.cross_entropy(model(F.one_hot(tokens, 6).float()).flatten(0, 1), tokens.flip(1).flatten())

    def score() -> float:
        with undisturbed(model):
            return ((model(F.one_hot(held, 6).float()).argmax(2) == held.flip(1)).float().mean().item() - 1 / 6) * 1.2

    return trained(model, torch.optim.Adam(model.parameters(), 5e-3), loss, score, 300)


@CASES.sick(
    "vanishing_gradient",
    "stalled_training",
    "rank_collapse",
    "attention_collapse",
    "oscillating_loss",
    also=("saturated_units", "dead_units", "exploding_gradient", "loss_spike"),
    good=0.6,
)
def post_norm_encoder_at_full_rate(sick: bool) -> Training:
    """``nn.TransformerEncoder`` of six post-norm layers at its full rate from the first step; the twin warms up."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(9, 32), nn.Linear(32, 8)
            layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(x)).mean(1))

    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 8e-3)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1.0 if sick else min(1.0, (i + 1) / 60))
    return finding(model, optimizer, 120, after=lambda _: warm.step())
