"""What a case of the gauntlet is: a training in plain torch, and the truth about it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

KINDS = (
    "vanishing_gradient exploding_gradient saturated_units dead_units bad_initialization symmetric_units rank_collapse "
    "attention_collapse nonfinite loss_spike oscillating_loss diverging_loss stalled_training frozen_parameters "
    "unscaled_inputs output_mismatch underflow clipping_bound"
).split()


@dataclass
class Training:
    """A training about to begin: nothing in it knows of any instrument.

    ``step(i)`` does the i-th training step (forward, backward, optimizer) and returns the loss. ``score()`` says after
    any number of steps how well the task is done: 1 is perfect, 0 a constant guess (accuracy above chance, the share
    of the variance explained, ...); it is taken without touching the training (no random numbers of the training's
    generator, train or eval mode as before, no gradient).
    """

    model: nn.Module | Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer | list[torch.optim.Optimizer]
    step: Callable[[int], float]
    steps: int
    score: Callable[[], float]


@dataclass(frozen=True)
class Case:
    """A training with its truth.

    ``make(sick)`` builds it: with ``False`` the same training without the fault, its healthy twin. ``kinds`` are the
    kinds of finding that may stand first, best one first; empty for a healthy training. ``also`` are consequences that
    are as true. ``sites`` is a regular expression that one of the first finding's sites must match. ``good`` is
    the score from which on the task counts as learned: the healthy one must reach it and the sick one must not.
    ``unlearned`` says how a sick case fails if it is not by its score (a loss that spikes and comes back).
    """

    name: str
    make: Callable[[bool], Training]
    kinds: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    sites: str | None = None
    good: float = 0.5
    unlearned: Callable[[list[float]], bool] | None = None

    def build(self, *, sick: bool) -> Training:
        """The training from its seed."""
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return self.make(sick)


@dataclass
class Cases:
    """The cases of one file, in a list that the runner reads."""

    all: list[Case] = field(default_factory=list)

    def sick(
        self,
        *kinds: str,
        also: tuple[str, ...] = (),
        sites: str | None = None,
        good: float = 0.5,
        unlearned: Callable[[list[float]], bool] | None = None,
        name: str | None = None,
    ) -> Callable[[Callable[[bool], Training]], Callable[[bool], Training]]:
        """Registers a function of one argument, ``sick``, as a case with a fault that ``sick=True`` plants."""
        unknown = {*kinds, *also} - set(KINDS)
        if unknown or not kinds:
            raise ValueError(f"not kinds of finding: {unknown or 'none given'}")

        def add(make: Callable[[bool], Training]) -> Callable[[bool], Training]:
            self.all.append(Case(name or make.__name__, make, kinds, also, sites, good, unlearned))
            return make

        return add

    def healthy(
        self, *, good: float = 0.5, name: str | None = None
    ) -> Callable[[Callable[[], Training]], Callable[[], Training]]:
        """Registers a function without arguments as a training in which nothing is to be found."""

        def add(make: Callable[[], Training]) -> Callable[[], Training]:
            self.all.append(Case(name or make.__name__, lambda _: make(), good=good))
            return make

        return add
