"""What these recipes share: batches from a seed, scores on what is held back, the tasks of more than one file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.common_a import communities, table
from benchmarks.gauntlet.held_out.common_b import tidy_houses, words
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

Evaluate = Callable[[nn.Module], float]
Batches = Callable[[int], Iterator[tuple[Any, Any]]]

HELD = 400  # digits that no training sees
HELD_HOUSES = 500
HELD_TEXT = 36_000  # the text from here on is not trained on


def bounded(score: float) -> float:
    """Between -1 and 1, and -1 for what is no number."""
    return max(-1.0, min(1.0, score)) if math.isfinite(score) else -1.0


def accuracy(x: Tensor, y: Tensor, classes: int = 10) -> Evaluate:
    """Accuracy of the largest output, above chance."""

    def evaluate(model: nn.Module) -> float:
        right = (model(x).argmax(-1) == y).float().mean().item()
        return bounded((right * classes - 1) / (classes - 1))

    return evaluate


def explained(x: Tensor, y: Tensor) -> Evaluate:
    """The share of the variance of the targets that the outputs explain."""

    def evaluate(model: nn.Module) -> float:
        error = (model(x).float().reshape(y.shape) - y).square().mean()
        return bounded(1 - (error / (y - y.mean(0)).square().mean()).item())

    return evaluate


def drawn(x: Tensor, y: Tensor, size: int = 64) -> Batches:
    """Random batches, without end."""

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(1000 + seed)
        while True:
            chosen = torch.randint(len(y), (size,), generator=g)
            yield x[chosen], y[chosen]

    return batches


def digit_recipe(
    model: Callable[[], nn.Module],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    steps: int,
    *,
    shape: tuple[int, ...] = (64,),
    batch: int = 64,
    smoothing: float = 0.0,
    **further: Any,
) -> Recipe:
    """Cross-entropy on digits of the given shape; ``further`` are other fields of the recipe."""
    x, y = digits()
    x = x.view(-1, *shape)
    return Recipe(
        model=model,
        optimizer=optimizer,
        loss=nn.CrossEntropyLoss(label_smoothing=smoothing),
        batches=drawn(x[HELD:], y[HELD:], batch),
        evaluate=accuracy(x[:HELD], y[:HELD]),
        steps=steps,
        **further,
    )


def regression_recipe(
    model: Callable[[], nn.Module],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    data: tuple[Tensor, Tensor] | None,
    steps: int,
    *,
    batch: int = 64,
    **further: Any,
) -> Recipe:
    """Squared error on the first four fifths of some data, or of the table if there are none."""
    x, y = table() if data is None else data
    cut = len(y) * 4 // 5
    return Recipe(
        model=model,
        optimizer=optimizer,
        loss=further.pop("loss", F.mse_loss),
        batches=drawn(x[:cut], y[:cut], batch),
        evaluate=explained(x[cut:], y[cut:]),
        steps=steps,
        **further,
    )


def house_recipe(
    model: Callable[[], nn.Module],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    steps: int,
    *,
    data: tuple[Tensor, Tensor] | None = None,
    batch: int = 64,
    **further: Any,
) -> Recipe:
    """Squared error of the prices of houses, standardized ones unless other data are given."""
    x, y = tidy_houses() if data is None else data
    return Recipe(
        model=model,
        optimizer=optimizer,
        loss=further.pop("loss", F.mse_loss),
        batches=further.pop("batches", None) or drawn(x[HELD_HOUSES:], y[HELD_HOUSES:], batch),
        evaluate=explained(x[:HELD_HOUSES], y[:HELD_HOUSES]),
        steps=steps,
        **further,
    )


def node_recipe(
    model: Callable[[], nn.Module], optimizer: Callable[[Any], torch.optim.Optimizer], steps: int
) -> Recipe:
    """Communities of a graph: every step sees all of it and the labels of half its nodes; the others are the score."""
    _, x, y = communities()
    half = len(y) // 2

    def evaluate(model: nn.Module) -> float:
        share = (model(x)[half:].argmax(1) == y[half:]).float().mean().item()
        return bounded((share * 4 - 1) / 3)

    return Recipe(
        model=model,
        optimizer=optimizer,
        loss=lambda outputs, labels: F.cross_entropy(outputs[:half], labels),
        batches=lambda _: [(x, y[:half])],
        evaluate=evaluate,
        steps=steps,
    )


def next_symbol(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of symbols, over all positions."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def language_recipe(
    model: Callable[[], nn.Module],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    steps: int,
    *,
    length: int = 32,
    batch: int = 16,
    loss: Callable[[Tensor, Tensor], Tensor] = next_symbol,
    **further: Any,
) -> Recipe:
    """Next symbol of a text of words; the score is 1 at its entropy and 0 at that of a uniform guess over 20."""
    text, entropy = words()
    window = torch.arange(length + 1)
    held = text[torch.arange(HELD_TEXT, len(text) - length - 1, 60)[:, None] + window]

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(1000 + seed)
        while True:
            tokens = text[torch.randint(HELD_TEXT - length, (batch, 1), generator=g) + window]
            yield tokens[:, :-1], tokens[:, 1:]

    def evaluate(model: nn.Module) -> float:
        nats = next_symbol(model(held[:, :-1]).float(), held[:, 1:]).item()
        return bounded((math.log(20) - nats) / (math.log(20) - entropy))

    return Recipe(
        model=model, optimizer=optimizer, loss=loss, batches=batches, evaluate=evaluate, steps=steps, **further
    )
