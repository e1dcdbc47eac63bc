"""Classifiers and regressors without a fault, many of which look as if they had one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import accuracy, explained, fit, surface, two_moons
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

CASES = Cases()


@CASES.healthy(good=0.8)
def sparse_rectifiers() -> Training:
    """Biases below zero leave each unit to a few examples in a hundred."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    nn.init.constant_(model[0].bias, -0.8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, 250, x, y, lambda: accuracy(model, x[:500], y[:500]))


class Pruned(nn.Module):
    """Half of the hidden units are masked for good."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(64, 200)
        self.register_buffer("mask", (torch.arange(200) % 2).float())
        self.last = nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.wide(x)) * self.mask)


@CASES.healthy(good=0.8)
def pruned_by_a_mask() -> Training:
    """Units switched off by a mask while the others learn."""
    x, y = digits()
    model = Pruned()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return fit(model, optimizer, 200, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.7)
def one_example_at_a_time() -> Training:
    """Stochastic gradient descent in the word's first sense: its loss is never twice the same."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    return fit(model, optimizer, 1200, x, y, lambda: accuracy(model, x[:500], y[:500]), batch=1)


@CASES.healthy(good=0.7)
def plateau_at_the_noise() -> Training:
    """Targets that are four fifths noise: the loss stops early and high, where it should."""
    x, y = surface(4096, noise=2.0)
    clean = surface(4096)[1]
    model = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3, weight_decay=1e-4)
    return fit(model, optimizer, 400, x, y, lambda: explained(model, x, clean), loss=F.mse_loss, batch=256)


class MeanAndDeviation(nn.Module):
    """Two heads: a mean and the logarithm of a standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.mean = nn.Linear(64, 1)
        self.log_std = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.mean(h), self.log_std(h).clamp(-4, 2)


@CASES.healthy(good=0.8)
def likelihood_below_zero() -> Training:
    """A Gaussian likelihood of small targets: the loss is negative from early on."""
    x, y = surface()
    y = 0.1 * y
    model = MeanAndDeviation()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def loss(out: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        mean, log_std = out
        return (log_std + 0.5 * ((target - mean) / log_std.exp()) ** 2).mean()

    score = lambda: explained(model, x, y, lambda v: model(v)[0])  # noqa: E731
    return fit(model, optimizer, 400, x, y, score, loss=loss)


@CASES.healthy(good=0.8)
def warm_restarts() -> Training:
    """A cosine schedule that restarts three times; the loss rises a little at each."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 80)
    score = lambda: accuracy(model, x[:500], y[:500])  # noqa: E731
    return fit(model, optimizer, 320, x, y, score, after_step=schedule.step)


class BasicBlock(nn.Module):
    """Two convolutions with batch norm around a shortcut; the last norm starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


@CASES.healthy(good=0.8)
def branches_that_start_at_zero() -> Training:
    """A residual network whose branches contribute nothing at first (Goyal et al. 2017)."""
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1),
        *(BasicBlock(12) for _ in range(3)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=201)
    score = lambda: accuracy(model, x[:500], y[:500])  # noqa: E731
    return fit(model, optimizer, 200, x, y, score, after_step=schedule.step)


@CASES.healthy(good=0.8)
def backbone_frozen_on_purpose() -> Training:
    """Features learned before on the same digits; only the new head is trained."""
    x, y = digits()
    backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
    old_head = nn.Linear(32, 10)
    pretrain = torch.optim.Adam([*backbone.parameters(), *old_head.parameters()], 3e-3)
    draw = minibatches(128, len(y), seed=2)
    for _ in range(80):
        chosen = draw()
        pretrain.zero_grad()
        F.cross_entropy(old_head(backbone(x[chosen])), y[chosen]).backward()
        pretrain.step()
    for p in backbone.parameters():
        p.requires_grad_(False)
        p.grad = None
    model = nn.Sequential(backbone, nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model[1].parameters(), 1e-2)
    return fit(model, optimizer, 150, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.8)
def bytes_into_a_batch_norm() -> Training:
    """Pixels of 0 to 255, but the first layer normalizes them."""
    x, y = images()
    x = (x - x.min()) / (x.max() - x.min()) * 255
    model = nn.Sequential(
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(192, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return fit(model, optimizer, 200, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.6)
def heavy_tails() -> Training:
    """Errors of a Student distribution with two degrees of freedom: some batches cost ten times the others."""
    x, clean = surface(4096)
    g = torch.Generator().manual_seed(14)
    normal, chi = torch.randn(4096, 1, generator=g), torch.randn(4096, 2, generator=g).pow(2).sum(1, keepdim=True)
    y = clean + 0.3 * normal / (chi / 2).sqrt()
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def clip() -> None:
        clip_grad_norm_(model.parameters(), 5.0)

    score = lambda: explained(model, x, clean)  # noqa: E731
    return fit(model, optimizer, 400, x, y, score, loss=F.mse_loss, before_step=clip)


@CASES.healthy(good=0.8)
def smoothed_labels_and_dropout() -> Training:
    """Label smoothing of 0.2 and dropout of a half: the training loss stays above 0.9."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.1)
    loss = nn.CrossEntropyLoss(label_smoothing=0.2)
    return fit(model, optimizer, 250, x, y, lambda: accuracy(model, x[:500], y[:500]), loss=loss)


@CASES.healthy(good=0.8)
def summed_loss_and_a_rate_to_match() -> Training:
    """A loss summed over 128 examples, with a learning rate that accounts for it."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.2 / 128)
    loss = nn.CrossEntropyLoss(reduction="sum")
    return fit(model, optimizer, 200, x, y, lambda: accuracy(model, x[:500], y[:500]), loss=loss, batch=128)


@CASES.healthy(good=0.9)
def second_order_steps() -> Training:
    """L-BFGS on all examples at once, with a closure."""
    x, y = two_moons()
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(x), y.float()) + 1e-4 * sum(
            p.pow(2).sum() for p in model.parameters()
        )
        loss.backward()
        return loss

    def step(_: int) -> float:
        return optimizer.step(closure).item()

    score = lambda: accuracy(model, x, y, 2, lambda v: torch.stack([-model(v), model(v)], 1))  # noqa: E731
    return Training(model, optimizer, step, 60, score)


class Scaled(nn.Module):
    """Layers whose weights are enormous, each followed by a normalization that undoes it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(64, 64, bias=False)
        self.na = nn.LayerNorm(64)
        self.b = nn.Linear(64, 64, bias=False)
        self.nb = nn.LayerNorm(64)
        self.c = nn.Linear(64, 10)
        for layer in (self.a, self.b):
            nn.init.normal_(layer.weight, std=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.nb(self.b(F.relu(self.na(self.a(x)))))))


@CASES.healthy(good=0.8)
def large_weights_before_a_norm() -> Training:
    """Weights of N(0, 4) that a layer norm makes harmless."""
    x, y = digits()
    model = Scaled()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, 200, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.8)
def large_rate_that_works() -> Training:
    """A learning rate of 2 on a network with batch norm, decaying linearly."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    nn.init.normal_(model[3].weight, std=0.01)
    optimizer = torch.optim.SGD(model.parameters(), 2.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=250)
    score = lambda: accuracy(model, x[:500], y[:500])  # noqa: E731
    return fit(model, optimizer, 250, x, y, score, after_step=schedule.step, batch=128)


@CASES.healthy(good=0.9)
def fitted_to_the_last_digit() -> Training:
    """A few examples learned by heart: loss and gradients go to nothing because all is done."""
    x, y = digits()
    x, y = x[:40], y[:40]
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x, y), batch=40)
