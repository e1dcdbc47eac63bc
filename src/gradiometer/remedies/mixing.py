"""Batches in an odd order: sorted by what they are to be told apart by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradiometer.remedies.base import Situation, UnusableError
from gradiometer.remedies.known import first_batches, inputs_of, targets_of
from gradiometer.remedies.recipe import Recipe

BUFFER = 50
"""Batches of which the examples are mixed."""

SORTED = 0.5
"""Spread of the targets in a batch over that in all batches, from which on down they are sorted."""


def mixed(batches: Iterable[Any], seed: int, count: int = BUFFER) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the same size, of examples from ``count`` of them at a time in random order."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[Any] = []

    def shuffled() -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = (torch.cat([batch[i] for batch in waiting]) for i in range(2))
        order = torch.randperm(len(inputs), generator=generator)
        for some in order.split(len(waiting[0][0])):
            yield inputs[some], targets[some]

    for batch in batches:
        waiting.append(batch)
        if len(waiting) == count:
            yield from shuffled()
            waiting = []
    if waiting:
        yield from shuffled()


def is_sorted(situation: Situation) -> None:
    """Raises unless a batch holds far fewer kinds of targets than many of them do.

    Raises:
        UnusableError: if they are mixed, or cannot be.
    """
    batches = first_batches(situation, BUFFER)
    plain = all(targets_of(b) is not None and isinstance(inputs_of(b), Tensor) for b in batches)
    shapes = {tuple(inputs_of(b).shape[1:]) for b in batches} if plain else set()
    if not plain or len(shapes) != 1:
        raise UnusableError("the batches are no pairs of tensors of one shape: shuffle where they are made")
    targets = [t for b in batches if (t := targets_of(b)) is not None]
    spread = _spread(torch.cat(targets))
    within = [_spread(t) for t in targets if len(t) > 1]
    if len(targets) < 2 or not within or not spread > 0 or sum(within) / len(within) > SORTED * spread:
        raise UnusableError("the batches are mixed already: each holds the targets that all of them do")


def _spread(targets: Tensor) -> float:
    """Of classes the chance that two differ, of numbers their variance."""
    if targets.is_floating_point():
        return float(targets.double().var(0, correction=0).mean())
    shares = torch.unique(targets, return_counts=True)[1].double() / targets.numel()
    return float(1 - shares.square().sum())


def shuffle(recipe: Recipe, _: Situation) -> Recipe:
    """The recipe, with its batches mixed."""
    made: Callable[[int], Iterable[Any]] = recipe.batches
    return replace(recipe, batches=lambda seed: mixed(made(seed), seed))
