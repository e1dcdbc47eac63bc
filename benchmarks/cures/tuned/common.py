"""What the tuned cases share: recipes on examples that are split into those to learn from and those to be held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import characters
from torch import Tensor, nn

from gradiometer.probe.given import call
from gradiometer.remedies.recipe import Recipe

Inputs = Tensor | tuple[Tensor, ...]
Data = tuple[Inputs, Tensor]
Batches = Callable[[int], Iterator[Any]]
Evaluate = Callable[[nn.Module], float]


def bounded(score: float) -> float:
    """A score between -1 and 1; -1 for NaN."""
    return max(-1.0, min(1.0, score)) if math.isfinite(score) else -1.0


def of(x: Inputs, chosen: Tensor | slice) -> Inputs:
    """These examples of one input, or of each of several."""
    return tuple(part[chosen] for part in x) if isinstance(x, tuple) else x[chosen]


def accuracy(x: Inputs, y: Tensor) -> Evaluate:
    """Accuracy above chance on these examples."""
    chance = 1 / (int(y.max()) + 1)
    return lambda model: bounded(((call(model, x).argmax(1) == y).float().mean().item() - chance) / (1 - chance))


def explained(x: Inputs, y: Tensor) -> Evaluate:
    """The share of the variance of these examples' targets that the model explains."""
    truth = y.float()
    variance = (truth - truth.mean(0)).square().mean()
    return lambda model: bounded(
        1 - ((call(model, x).float().reshape(y.shape) - truth).square().mean() / variance).item()
    )


def drawn(data: Data, size: int = 64) -> Batches:
    """Random batches, with replacement, for as long as one asks."""
    x, y = data

    def batches(seed: int) -> Iterator[Data]:
        g = torch.Generator().manual_seed(1000 + seed)
        while True:
            chosen = torch.randint(len(y), (size,), generator=g)
            yield of(x, chosen), y[chosen]

    return batches


def epoch(data: Data, size: int = 64) -> Batches:
    """One pass over the examples in the order of the seed."""
    x, y = data

    def batches(seed: int) -> Iterator[Data]:
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(2000 + seed))
        for chosen in order.split(size):
            yield of(x, chosen), y[chosen]

    return batches


def changed(recipe: Recipe, change: Callable[[int, Any, Any], tuple[Any, Any]]) -> Recipe:
    """The same with the i-th batch altered."""

    def batches(seed: int) -> Iterator[Any]:
        return (change(i, x, y) for i, (x, y) in enumerate(recipe.batches(seed)))

    return replace(recipe, batches=batches)


def learning(
    model: Callable[[], nn.Module],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    data: Data,
    steps: int,
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    batch: int = 64,
    held: int = 400,
    passes: bool = False,
    **others: Any,
) -> Recipe:
    """A recipe on examples, the first ``held`` of which only score: class numbers by accuracy, all else by variance.

    ``passes`` goes through all examples in turn instead of drawing them.
    """
    x, y = data
    classes = not y.is_floating_point()
    others.setdefault("evaluate", (accuracy if classes else explained)(of(x, slice(held)), y[:held]))
    return Recipe(
        model=model,
        optimizer=optimizer,
        loss=loss or (F.cross_entropy if classes else F.mse_loss),
        batches=(epoch if passes else drawn)((of(x, slice(held, None)), y[held:]), batch),
        steps=steps,
        **others,
    )


def language(
    model: Callable[[], nn.Module],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    steps: int,
    *,
    length: int = 20,
    batch: int = 16,
    **others: Any,
) -> Recipe:
    """Next-character prediction; 1 is the entropy of the source and 0 that of a uniform guess."""
    text, window = characters(), torch.arange(length + 1)
    held = text[torch.arange(50_000, 59_000, 150)[:, None] + window]

    def batches(seed: int) -> Iterator[Data]:
        g = torch.Generator().manual_seed(1000 + seed)
        while True:
            b = text[torch.randint(49_000, (batch, 1), generator=g) + window]
            yield b[:, :-1], b[:, 1:]

    def loss(scores: Tensor, following: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), following.flatten())

    def evaluate(model: nn.Module) -> float:
        nats = loss(model(held[:, :-1]), held[:, 1:]).item()
        return bounded((math.log(24) - nats) / (math.log(24) - 0.92))

    return Recipe(model, optimizer, loss, batches, evaluate, steps, **others)
