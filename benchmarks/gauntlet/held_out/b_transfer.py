"""Parts that rest on purpose, students and teachers, images as sequences: all well."""

from __future__ import annotations

import copy
from functools import cache

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.held_out.b_networks import Block, dense, small_cnn
from benchmarks.gauntlet.held_out.common_b import accuracy, fit, warm_cosine
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@cache
def _trained(kind: str) -> nn.Module:
    x, y = images() if kind == "cnn" else digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = small_cnn() if kind == "cnn" else dense(64, 96, 96, 10)
        target = (y + 3) % 10 // 2 if kind == "cnn" else y
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        draw = minibatches(64, len(y), seed=9)
        for _ in range(120):
            chosen = draw()
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), target[chosen]).backward()
            optimizer.step()
    model.zero_grad()
    return model


def pretrained(kind: str) -> nn.Module:
    """A network that has learned a task of its own; a fresh copy at every call."""
    return copy.deepcopy(_trained(kind))


@CASES.healthy(good=0.7)
def fine_tuned_head_on_a_frozen_trunk() -> Training:
    """The convolutions rest in evaluation mode, a new head learns the ten digits from five groups' features."""
    x, y = images()
    model = nn.Sequential(pretrained("cnn")[:9], nn.Linear(128, 10))
    model[0].requires_grad_(False).eval()
    optimizer = torch.optim.Adam(model[1].parameters(), 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 200, accuracy(model, x[:500], y[:500]), batch=32)


@CASES.healthy(good=0.7)
def fine_tuning_with_two_rates() -> Training:
    """First layers frozen, the later ones at a tenth of the head's rate."""
    x, y = images()
    model = pretrained("cnn")
    model[9] = nn.Linear(128, 10)
    model[:4].requires_grad_(False).eval()
    groups = [{"params": model[4:9].parameters(), "lr": 5e-4}, {"params": model[9].parameters(), "lr": 5e-3}]
    optimizer = torch.optim.AdamW(groups)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 180, accuracy(model, x[:500], y[:500]), batch=32)


class LowRank(nn.Module):
    """A frozen linear layer with a trained correction of rank four, which begins at zero (Hu et al., 2021)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(4, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * (x @ self.down.T) @ self.up.T


@CASES.healthy(good=0.6)
def low_rank_adapters_for_mirrored_digits() -> Training:
    """A network of upright digits learns mirrored ones by adapters alone."""
    x, y = images()
    mirrored = x.flip(3).flatten(1)
    base = pretrained("mlp")
    model = nn.Sequential(*[LowRank(part) if isinstance(part, nn.Linear) else part for part in base])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(mirrored[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(y), 300, accuracy(model, mirrored[:500], y[:500]))


@CASES.healthy(good=0.7)
def distillation_at_temperature_four() -> Training:
    """A small student of a larger teacher, a mixture of soft and hard targets."""
    x, y = digits()
    teacher, model = pretrained("mlp").eval().requires_grad_(False), dense(64, 24, 10)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)

    def loss(chosen: Tensor) -> Tensor:
        logits = model(x[chosen])
        with torch.no_grad():
            soft = (teacher(x[chosen]) / 4).log_softmax(1)
        apart = F.kl_div((logits / 4).log_softmax(1), soft, reduction="batchmean", log_target=True)
        return 0.7 * 16 * apart + 0.3 * F.cross_entropy(logits, y[chosen])

    return fit(model, optimizer, loss, len(x), 250, accuracy(model, x[:500], y[:500]))


class VisionTransformer(nn.Module):
    """Sixteen patches of two by two pixels, a token for the class, pre-norm blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, 2)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, 32))
        self.positions = nn.Parameter(0.2 * torch.randn(1, 17, 32))
        self.blocks = nn.Sequential(Block(32, 4), Block(32, 4))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


@CASES.healthy(good=0.7)
def vision_transformer() -> Training:
    """AdamW, warm-up, cosine, and images with a little noise."""
    x, y = images()
    model = VisionTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
    g = torch.Generator().manual_seed(4)

    def loss(chosen: Tensor) -> Tensor:
        noisy = x[chosen] + 0.1 * torch.randn(len(chosen), 1, 8, 8, generator=g)
        return F.cross_entropy(model(noisy), y[chosen])

    score = accuracy(model, x[:500], y[:500])
    return fit(model, optimizer, loss, len(x), 250, score, batch=32, rate=warm_cosine(250, 25))
