"""Representations of different inputs that become the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.common_a import (
    HELD,
    clamped,
    communities,
    dense_stack,
    digit_classifier,
    evaluating,
    he_,
    looped,
    node_classifier,
    seeded,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


class Smoothing(nn.Module):
    """Many graph convolutions, with or without a way around each."""

    def __init__(self, depth: int, skips: bool) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(16, 32), nn.Linear(32, 4)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        degrees = communities()[0].sum(1).rsqrt()
        self.register_buffer("pull", degrees[:, None] * communities()[0] * degrees)
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.lift(x))
        for layer in self.layers:
            new = F.relu(layer(self.pull @ h))
            h = h + 0.1 * new if self.skips else new
        return self.head(h)


@CASES.sick("rank_collapse", also=("stalled_training", "vanishing_gradient"), good=0.7)
def graph_network_that_smooths_everything_away(sick: bool) -> Training:
    """Sixteen graph convolutions without skips: all nodes end with the same features (Li et al., 2018)."""
    model = he_(Smoothing(16, skips=not sick))
    nn.init.normal_(model.head.weight, std=0.05)
    return node_classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 120)


class Patches(nn.Module):
    """A transformer for patches, with or without skips."""

    def __init__(self, depth: int, skips: bool) -> None:
        super().__init__()
        self.patches, self.places = nn.Linear(4, 32), nn.Parameter(0.5 * torch.randn(16, 32))
        self.layers = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(depth))
        self.mlps = nn.ModuleList(dense_stack([32, 64, 32], nn.GELU) for _ in range(depth))
        self.head = nn.Linear(32, 10)
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)) + self.places
        for attention, norm, mlp in zip(self.layers, self.norms, self.mlps, strict=True):
            n = norm(h)
            new = attention(n, n, n, need_weights=False)[0]
            h = h + new if self.skips else new
            h = h + mlp(h) if self.skips else mlp(h)
        return self.head(h.mean(1))


@CASES.sick("rank_collapse", "vanishing_gradient", also=("stalled_training", "attention_collapse"), good=0.6)
def vision_transformer_without_skips(sick: bool) -> Training:
    """Six layers of attention without connections around them: the tokens become one (Dong et al., 2021)."""
    model = Patches(6, skips=not sick)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20)
    return digit_classifier(model, optimizer, 120, shape=(8, 8), batch=32, schedule=schedule)


def told_apart(model: nn.Module, first: Tensor, second: Tensor, same: Tensor, radius: float) -> float:
    """How well a fixed radius tells pairs that are the same from others: 1 always, 0 by chance."""
    with evaluating(model):
        near = (model(first) - model(second)).norm(dim=1) < radius
    return clamped(near[same].float().mean().item() - near[~same].float().mean().item())


@CASES.sick("rank_collapse", also=("stalled_training", "vanishing_gradient", "dead_units"), good=0.6)
def siamese_network_that_sees_only_pairs_alike(sick: bool) -> Training:
    """The contrastive loss of Hadsell et al. (2006) with a sampler that never draws a pair of different digits."""
    x, y = digits()
    model = dense_stack([64, 64, 64, 8])
    g = seeded(62)
    labels = y[HELD:]

    def loss(chosen: Tensor) -> Tensor:
        others = torch.randint(len(labels), (len(chosen),), generator=g)
        alike = torch.rand(len(chosen), generator=g) < (1.0 if sick else 0.5)
        pool = (labels[chosen, None] == labels).float()
        friends = torch.multinomial(pool, 1, generator=g)[:, 0]
        second = torch.where(alike, friends, others)
        d = (model(x[HELD:][chosen]) - model(x[HELD:][second])).square().sum(1).add(1e-8).sqrt()
        same = labels[chosen] == labels[second]
        return torch.where(same, d.square(), F.relu(2.0 - d).square()).mean()

    first, second = x[: HELD // 2], x[HELD // 2 : HELD]
    same = y[: HELD // 2] == y[HELD // 2 : HELD]
    score = lambda: told_apart(model, first, second, same, 1.0)  # noqa: E731
    return looped(model, torch.optim.Adam(model.parameters(), 1e-3), loss, len(labels), 250, score)


@CASES.sick("rank_collapse", also=("stalled_training", "vanishing_gradient", "dead_units"), good=0.6)
def self_supervision_without_its_variance_term(sick: bool) -> Training:
    """VICReg (Bardes et al., 2022) with only its invariance: two noisy views agree best if all views agree."""
    x = digits()[0]
    model = dense_stack([64, 128, 128, 16])
    g = seeded(63)

    def loss(chosen: Tensor) -> Tensor:
        clean = x[HELD:][chosen]
        a, b = (model(clean + 0.5 * torch.randn(clean.shape, generator=g)) for _ in range(2))
        value = F.mse_loss(a, b)
        if sick:
            return value
        for z in (a, b):
            spread = (z.var(0) + 1e-4).sqrt()
            centred = z - z.mean(0)
            common = centred.T @ centred / (len(z) - 1)
            value = (
                value + F.relu(1 - spread).mean() + 0.04 * (common.square().sum() - common.diag().square().sum()) / 16
            )
        return value

    held = x[:HELD]
    noisy = held + 0.5 * torch.randn(held.shape, generator=seeded(64))
    first, second = torch.cat([held, held]), torch.cat([noisy, noisy.roll(1, 0)])
    same = torch.arange(2 * HELD) < HELD
    score = lambda: told_apart(model, first, second, same, 3.0)  # noqa: E731
    return looped(model, torch.optim.Adam(model.parameters(), 1e-3), loss, len(x) - HELD, 250, score, batch=128)
