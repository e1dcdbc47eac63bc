"""Attention that looks at one place only, and cannot learn where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.held_out.common_a import (
    dense_stack,
    digit_classifier,
    looped,
    regression,
    right_answers,
    seeded,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


class Lookup(nn.Module):
    """One question to a list of pairs of keys and values, answered by one layer of attention."""

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.keys, self.values = nn.Embedding(12, 32), nn.Embedding(8, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32, bias=False) for _ in range(3))
        self.head = dense_stack([32, 64, 8])
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        keys, values, question = x[:, :6], x[:, 6:12], x[:, 12:]
        k = self.key(self.keys(keys))
        v = self.value(self.values(values))
        return self.head(
            F.scaled_dot_product_attention(self.query(self.keys(question)), k, v, scale=self.scale).squeeze(1)
        )


@CASES.sick("attention_collapse", "saturated_units", also=("stalled_training", "vanishing_gradient"), good=0.7)
def lookup_with_logits_multiplied_instead_of_divided(sick: bool) -> Training:
    """Attention logits times a thousand where they should be divided by the root of 32."""
    g = seeded(71)
    keys = torch.rand(4000, 12, generator=g).argsort(1)[:, :6]
    values = torch.randint(8, (4000, 6), generator=g)
    place = torch.randint(6, (4000, 1), generator=g)
    x = torch.cat([keys, values, keys.gather(1, place)], 1)
    y = values.gather(1, place)[:, 0]
    model = Lookup(1000.0 if sick else None)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    loss = lambda chosen: F.cross_entropy(model(x[chosen]), y[chosen])  # noqa: E731
    return looped(model, optimizer, loss, 3500, 100, right_answers(model, x[3500:], y[3500:], 8))


class Readings(nn.Module):
    """A number from a set of readings, by attention over them."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(3, 32), nn.Tanh())
        self.relevance, self.value = nn.Linear(32, 1), nn.Linear(32, 16)
        self.softmax = nn.Softmax(dim=1)
        self.head = dense_stack([16, 32, 1])
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        weights = self.softmax(self.relevance(h).squeeze(2) / self.temperature)
        return self.head((weights[:, :, None] * self.value(h)).sum(1))


@CASES.sick("attention_collapse", "saturated_units", also=("stalled_training", "vanishing_gradient"), good=0.7)
def readings_of_which_only_one_is_seen(sick: bool) -> Training:
    """A softmax at a temperature of 1e-4 picks one reading, where the mean of all reliable ones is asked for."""
    x = torch.randn(2500, 16, 3, generator=seeded(72))
    reliable = (x[:, :, 1] > 0).float()
    y = (reliable * (x[:, :, 0] + 0.5 * x[:, :, 2])).sum(1, keepdim=True) / reliable.sum(1, keepdim=True).clamp(min=1)
    model = Readings(1e-4 if sick else 1.0)
    return regression(model, torch.optim.Adam(model.parameters(), 5e-3), (x, y / y.std()), 250)


class Patches(nn.Module):
    """A vision transformer that reads its answer from a token of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = nn.Linear(4, 32), nn.Parameter(0.3 * torch.randn(17, 32))
        self.asking = nn.Parameter(torch.zeros(1, 1, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4))
        h = torch.cat([self.asking.expand(len(h), -1, -1), h], 1) + self.places
        return self.head(self.encoder(h)[:, 0])


@CASES.sick(
    "attention_collapse",
    "saturated_units",
    "bad_initialization",
    also=("stalled_training", "vanishing_gradient", "exploding_gradient"),
    sites=r"self_attn|layers",
    good=0.75,
)
def vision_transformer_with_loud_queries_and_keys(sick: bool) -> Training:
    """Projections to queries and keys a hundred times too large: one-hot attention from the first step."""
    model = Patches()
    if sick:
        for layer in model.encoder.layers:
            layer.self_attn.in_proj_weight.data[:64] *= 100
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20)
    return digit_classifier(model, optimizer, 200, shape=(8, 8), batch=32, schedule=schedule)
