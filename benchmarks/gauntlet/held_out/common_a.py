"""What the cases of the files ``a_*`` share: the usual loop, scores on data that were held back, small tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Training
from torch import Tensor, nn

HELD = 400  # digits that no training sees


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """No gradient, evaluation mode, random numbers and modes as before afterwards."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for part, mode in before:
                part.training = mode


def clamped(score: float) -> float:
    """A score between -1 and 1; -1 if it is not a number."""
    return max(-1.0, min(1.0, score)) if math.isfinite(score) else -1.0


def right_answers(model: nn.Module, x: Tensor, y: Tensor, classes: int = 10) -> Callable[[], float]:
    """Accuracy above chance, by the largest output."""

    def score() -> float:
        with evaluating(model):
            share = (model(x).argmax(1) == y).float().mean().item()
        return clamped((share * classes - 1) / (classes - 1))

    return score


def variance_explained(model: nn.Module, predict: Callable[[], Tensor], y: Tensor) -> Callable[[], float]:
    """One less the squared error over the variance of the targets."""

    def score() -> float:
        with evaluating(model):
            error = (predict().reshape(y.shape) - y).square().mean()
        return clamped(1 - (error / (y - y.mean(0)).square().mean()).item())

    return score


def looped(
    model: nn.Module | Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor], Tensor],
    count: int,
    steps: int,
    score: Callable[[], float],
    *,
    batch: int = 64,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip: float | None = None,
) -> Training:
    """Forward, backward, step; ``loss`` is given the indices of a batch out of ``count`` examples."""
    draw = minibatches(batch, count, seed=11)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(_: int) -> float:
        optimizer.zero_grad()
        value = loss(draw())
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        return value.item()

    return Training(model, optimizer, step, steps, score)


def digit_classifier(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    shape: tuple[int, ...] = (64,),
    change: Callable[[Tensor], Tensor] | None = None,
    smoothing: float = 0.0,
    batch: int = 64,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip: float | None = None,
) -> Training:
    """Cross-entropy on digits of the given shape, scored on those held back; ``change`` augments a batch."""
    x, y = digits()
    x = x.view(-1, *shape)
    seen, labels = x[HELD:], y[HELD:]

    def loss(chosen: Tensor) -> Tensor:
        inputs = seen[chosen] if change is None else change(seen[chosen])
        return F.cross_entropy(model(inputs), labels[chosen], label_smoothing=smoothing)

    score = right_answers(model, x[:HELD], y[:HELD])
    return looped(model, optimizer, loss, len(labels), steps, score, batch=batch, schedule=schedule, clip=clip)


def reconstruction(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    flat: bool = True,
    extra: Callable[[Tensor], Tensor] | None = None,
) -> Training:
    """Squared error of digits that come back from a code; ``extra`` is a penalty on a batch."""
    x = digits()[0] if flat else images()[0]
    seen, held = x[HELD:], x[:HELD]

    def loss(chosen: Tensor) -> Tensor:
        value = F.mse_loss(model(seen[chosen]), seen[chosen])
        return value if extra is None else value + extra(seen[chosen])

    score = variance_explained(model, lambda: model(held), held)
    return looped(model, optimizer, loss, len(seen), steps, score)


def regression(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    steps: int,
    *,
    batch: int = 64,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.mse_loss,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip: float | None = None,
) -> Training:
    """A loss between outputs and targets; the last fifth of the data is held back."""
    x, y = data
    cut = len(y) * 4 // 5
    score = variance_explained(model, lambda: model(x[cut:]), y[cut:])
    loss = lambda chosen: criterion(model(x[chosen]).reshape(y[chosen].shape), y[chosen])  # noqa: E731
    return looped(model, optimizer, loss, cut, steps, score, batch=batch, schedule=schedule, clip=clip)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


@cache
def table(count: int = 2500, columns: int = 8) -> tuple[Tensor, Tensor]:
    """Tabular data: standard normal columns, a target of mean zero and variance one with bends and a product."""
    x = torch.randn(count, columns, generator=seeded(21))
    y = x[:, 0].tanh() + 0.7 * x[:, 1].abs() + 0.5 * x[:, 2] * x[:, 3] + 0.5 * x[:, 4]
    y = y + 0.1 * torch.randn(count, generator=seeded(22))
    return x, ((y - y.mean()) / y.std())[:, None]


@cache
def waveforms(count: int = 1500, length: int = 32) -> tuple[Tensor, Tensor]:
    """Noisy sines, squares, saws and triangles ``(N, 1, length)`` of random pitch and phase, and which it is."""
    g = seeded(23)
    y = torch.randint(4, (count,), generator=g)
    pitch, phase = torch.rand(count, 1, generator=g) * 2 + 1.5, torch.rand(count, 1, generator=g)
    t = (torch.arange(length) / length * pitch + phase) % 1
    sine = (2 * math.pi * t).sin() * 1.41
    kinds = torch.stack([sine, sine.sign(), (2 * t - 1) * 1.73, ((2 * t - 1).abs() * 2 - 1) * 1.73])
    x = kinds[y, torch.arange(count)] + 0.15 * torch.randn(count, length, generator=g)
    return x[:, None], y


@cache
def communities(
    inside: float = 0.2, across: float = 0.03, size: int = 60, groups: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """A graph of communities: adjacency with loops ``(N, N)``, noisy features ``(N, 16)``, the community of each node.

    The nodes are in random order, so that the first half is a fair half.
    """
    g = seeded(24)
    y = torch.arange(groups).repeat_interleave(size)[torch.randperm(groups * size, generator=g)]
    chance = torch.where(y[:, None] == y, inside, across)
    upper = (torch.rand(len(y), len(y), generator=g) < chance).float().triu(1)
    centres = torch.randn(groups, 16, generator=g)
    features = 0.6 * centres[y] + torch.randn(len(y), 16, generator=g)
    return upper + upper.T + torch.eye(len(y)), (features - features.mean(0)) / features.std(0), y


def node_classifier(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Training:
    """Every step sees the whole graph and the labels of the first half of its nodes; the others are the score."""
    y = communities()[2]
    half = len(y) // 2

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(communities()[1])[:half], y[:half])
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with evaluating(model):
            share = (model(communities()[1])[half:].argmax(1) == y[half:]).float().mean().item()
        return clamped((share * 4 - 1) / 3)

    return Training(model, optimizer, step, steps, score)


def he_(model: nn.Module) -> nn.Module:
    """He initialization of all linear and convolution weights, biases zero."""
    for part in model.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return model


def dense_stack(sizes: list[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these sizes with an activation after each but the last."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])
