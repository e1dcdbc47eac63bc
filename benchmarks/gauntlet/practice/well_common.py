"""What the trainings of these files share: one loop, a short pretraining, and two scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import minibatches
from benchmarks.gauntlet.training import Training
from benchmarks.gauntlet.tuned.common import bounded, undisturbed
from torch import Tensor, nn


def loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], Tensor],
    steps: int,
    score: Callable[[], float],
    *,
    clip: float | None = None,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    after: Callable[[int], object] | None = None,
) -> Training:
    """Zero, forward, backward, clip, step, schedule; ``loss(i)`` draws its own batch."""
    scheduler = schedule(optimizer) if schedule else None

    def step(i: int) -> float:
        optimizer.zero_grad()
        value = loss(i)
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if after is not None:
            after(i)
        return value.item()

    return Training(model, optimizer, step, steps, score)


def cosine(steps: int) -> Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]:
    """Half a cosine down to zero."""
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def pretrained(model: nn.Module, x: Tensor, y: Tensor, steps: int = 150, rate: float = 3e-3) -> nn.Module:
    """The classifier after some steps of Adam, as if it had come from a checkpoint."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    draw = minibatches(64, len(y), seed=5)
    for _ in range(steps):
        chosen = draw()
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    """These are not to be trained."""
    for parameter in parameters:
        parameter.requires_grad_(False)


def likeness(samples: Callable[[], Tensor], data: Tensor, *models: nn.Module) -> Callable[[], float]:
    """How well samples match data, by their quantiles along sixteen directions: 1 is the same, 0 all at the mean."""
    angles = torch.arange(16) * torch.pi / 16
    directions = torch.stack([angles.cos(), angles.sin()])
    target = (data @ directions).sort(0).values

    def score() -> float:
        with undisturbed(*models):
            found = (samples() @ directions).sort(0).values
        return bounded(1 - ((found - target).square().mean() / (target - target.mean(0)).square().mean()).item())

    return score


def neighbours(
    embed: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *models: nn.Module, classes: int = 10
) -> Callable[[], float]:
    """Accuracy above chance of the nearest of the other examples, for the first 500."""

    def score() -> float:
        with undisturbed(*models):
            z = F.normalize(embed(x), dim=1)
            right = (y[500:][(z[:500] @ z[500:].T).argmax(1)] == y[:500]).float().mean().item()
        return bounded((right - 1 / classes) / (1 - 1 / classes))

    return score
