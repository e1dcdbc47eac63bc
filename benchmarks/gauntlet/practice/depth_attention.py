"""Attention that looks at one place: scale, temperature, wide weights, growing logits, recency."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.practice.depth_common import Attention, bags
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import regression
from torch import Tensor, nn

CASES = Cases()
BESIDES = ("saturated_units", "stalled_training", "vanishing_gradient", "oscillating_loss", "loss_spike")


class Pooled(nn.Module):
    """Tokens through two layers of attention; a token of its own gathers the answer."""

    def __init__(self, width: int = 64, heads: int = 1, depth: int = 2, scale: float | None = None) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.summary = nn.Parameter(torch.randn(width) * 0.5)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.layers = nn.ModuleList(Attention(width, heads, scale) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.summary.expand(len(x), 1, -1), self.embed(x)], 1)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = h + layer(norm(h))
        return self.head(self.norm(h[:, 0]))


@CASES.sick("attention_collapse", "saturated_units", also=BESIDES, sites=r"^layers")
def logits_multiplied_by_the_root_of_the_width(sick: bool) -> Training:
    """The square root of the width multiplies the logits that it should divide."""
    model = Pooled(96, scale=math.sqrt(96) if sick else None)
    return regression(model, torch.optim.Adam(model.parameters(), 1e-3), bags(), 160, batch=32)


@CASES.sick("attention_collapse", "saturated_units", also=(*BESIDES, "bad_initialization"), sites=r"^layers")
def wide_heads_without_their_scale(sick: bool) -> Training:
    """Logits of one head of 256 numbers, summed and not divided by the root of 256."""
    model = Pooled(256, depth=1, scale=1.0 if sick else None)
    for name, weight in model.named_parameters():
        if "query.weight" in name or "key.weight" in name:
            nn.init.xavier_normal_(weight)
    return regression(model, torch.optim.Adam(model.parameters(), 5e-4), bags(), 120, batch=32)


class Encoder(nn.Module):
    """torch's own encoder, read at its first token."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True, norm_first=True)
        self.embed = nn.Linear(8, 48)
        self.summary = nn.Parameter(torch.randn(48) * 0.5)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.summary.expand(len(x), 1, -1), self.embed(x)], 1)
        return self.head(self.norm(self.encoder(h)[:, 0]))


@CASES.sick(
    "attention_collapse",
    "bad_initialization",
    "saturated_units",
    also=(*BESIDES, "exploding_gradient"),
    sites=r"encoder\.layers\.\d",
    good=0.75,
)
def queries_and_keys_of_unit_variance(sick: bool) -> Training:
    """The joint projection of an encoder's queries and keys drawn with a standard deviation of one."""
    model = Encoder()
    if sick:
        for layer in model.encoder.layers:
            nn.init.normal_(layer.self_attn.in_proj_weight[: 2 * 48])  # type: ignore[union-attr,index]
    return regression(model, torch.optim.Adam(model.parameters(), 1e-3), bags(), 150, batch=32)


class Cosine(nn.Module):
    """A learned question asks a set by the cosine of directions, divided by a temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.embed = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64))
        self.questions = nn.Parameter(torch.randn(4, 64))
        self.value = nn.Linear(64, 32)
        self.softmax = nn.Softmax(-1)
        self.head = nn.Sequential(nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        logits = F.normalize(self.questions, dim=-1) @ F.normalize(h, dim=-1).transpose(1, 2) / self.temperature
        return self.head((self.softmax(logits) @ self.value(h)).flatten(1))


@CASES.sick("attention_collapse", "saturated_units", also=BESIDES)
def cosines_at_the_temperature_of_ice(sick: bool) -> Training:
    """A temperature of 0.0005 where 0.2 was meant: each question hears one token of the set."""
    model = Cosine(5e-4 if sick else 0.2)
    return regression(model, torch.optim.Adam(model.parameters(), 2e-3), bags(), 250, batch=32)


@CASES.sick("attention_collapse", "saturated_units", also=BESIDES, sites=r"^layers")
def queries_and_keys_in_a_group_of_their_own_rate(sick: bool) -> Training:
    """A hundred times the rate for queries and keys: their logits grow until each place hears one token."""
    model = Pooled()
    own = [p for name, p in model.named_parameters() if ".query." in name or ".key." in name]
    rest = [p for name, p in model.named_parameters() if ".query." not in name and ".key." not in name]
    groups = [{"params": rest}, {"params": own, "lr": 0.1 if sick else 1e-3}]
    return regression(model, torch.optim.Adam(groups, 1e-3), bags(), 200, batch=32)


def smoothed(count: int = 1000, length: int = 24) -> tuple[Tensor, Tensor]:
    """Series of two numbers, and at each time the mean of the last six of the first, signed by the second's now."""
    g = torch.Generator().manual_seed(13)
    x = torch.randn(count, length, 2, generator=g)
    past = F.avg_pool1d(F.pad(x[..., 0], (5, 0))[:, None], 6, 1)[:, 0] * 6**0.5
    return x, (past + 0.3 * x[..., 1].sign())[..., None]


class Recent(nn.Module):
    """Causal attention that prefers the near by a slope, two layers with skips."""

    def __init__(self, slope: float, length: int = 24) -> None:
        super().__init__()
        distance = torch.arange(length)[:, None] - torch.arange(length)
        bias = torch.where(distance < 0, -1e9, -slope * distance.float())
        self.embed = nn.Linear(2, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.layers = nn.ModuleList(Attention(32, 2, bias=bias) for _ in range(2))
        self.ends = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2))
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for norm, layer, end in zip(self.norms, self.layers, self.ends, strict=True):
            h = h + layer(norm(h))
            h = h + end(h)
        return self.head(h)


@CASES.sick("attention_collapse", "saturated_units", also=(*BESIDES, "frozen_parameters"), sites=r"^layers")
def recency_slope_of_forty(sick: bool) -> Training:
    """A linear penalty on distance so steep that every place attends to itself alone."""
    model = Recent(40.0 if sick else 0.1)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), smoothed(), 200, batch=32)
