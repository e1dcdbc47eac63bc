"""Arms to train in tests of workers: small, counted, and able to fail in every way."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.worker import Outcome

STEPS = 60
X = torch.randn(128, 6, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.randn(6, 3, generator=torch.Generator().manual_seed(1))).argmax(1)

drawn: Counter[int] = Counter()
"""Batches drawn in this process, by seed."""


def batches(seed: int) -> Iterator[Any]:
    order = torch.Generator().manual_seed(seed)
    while True:
        drawn[seed] += 1
        picked = torch.randint(len(X), (16,), generator=order)
        yield X[picked], Y[picked]


def global_batches(seed: int) -> Iterator[Any]:
    """From every generator that has no name."""
    while True:
        picked = [random.randrange(len(X)) for _ in range(4)] + list(np.random.randint(len(X), size=4))
        yield X[picked] + 0.1 * torch.randn(8, 6), Y[picked]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.2)


def evaluate(model: nn.Module) -> float:
    return -float(cross_entropy(model(X), Y))


def recipe(**changes: Any) -> Recipe:
    given: dict[str, Any] = {"model": network, "optimizer": sgd, "loss": cross_entropy, "batches": batches}
    return Recipe(**(given | {"evaluate": evaluate, "steps": STEPS} | changes))


class Arms:
    """The recipe of an arm; what it does ill is in its name. ``folder`` holds flags that say that it has done so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parent = os.getpid()
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, arm: tuple[str, ...], *context: Any) -> Recipe:
        self.asked.append((arm, *context))
        name = arm[0] if arm else ""
        if name == "unusable":
            raise UnusableError("there is no activation to change")
        return getattr(self, f"_{name}", recipe)()

    def _adam(self) -> Recipe:
        return recipe(optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02))

    def _global(self) -> Recipe:
        def model() -> nn.Module:
            return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 3))

        return recipe(model=model, batches=global_batches)

    def _noisy_score(self) -> Recipe:
        return recipe(evaluate=lambda model: float(model(torch.randn(4, 6)).sum()))

    def _unbuildable(self) -> Recipe:
        return recipe(model=lambda: nn.Linear(-1, 3))

    def _raising(self) -> Recipe:
        return self._at(20, lambda: int("x"))

    def _greedy(self) -> Recipe:
        def out_of_memory() -> None:
            raise MemoryError

        return self._at(20, out_of_memory)

    def _quitting(self) -> Recipe:
        return self._at(20, lambda: exit(3))

    def _diverging(self) -> Recipe:
        return recipe(
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30),
            loss=lambda outputs, _: (1e10 * outputs).square().mean(),
        )

    def _killed_once(self) -> Recipe:
        return self._at(20, lambda: self._die(once=True))

    def _killed(self) -> Recipe:
        return self._at(20, lambda: self._die(once=False))

    def _stuck(self) -> Recipe:
        return self._at(20, lambda: time.sleep(60))

    def _slow(self) -> Recipe:
        return recipe(batches=lambda seed: (time.sleep(0.02) or batch for batch in batches(seed)))

    def _process(self) -> Recipe:
        return recipe(evaluate=lambda model: float(os.getpid()))

    def _deaf(self) -> Recipe:
        return recipe(evaluate=lambda model: float(signal.getsignal(signal.SIGINT) is signal.SIG_IGN))

    def _loader(self) -> Recipe:
        data = torch.utils.data.TensorDataset(X, Y)
        return recipe(batches=lambda seed: torch.utils.data.DataLoader(data, 16, num_workers=1), steps=4)

    def _die(self, once: bool) -> None:
        flag = self.folder / "killed"
        if os.getpid() != self.parent and not (once and flag.exists()):
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _at(self, step: int, act: Callable[[], object]) -> Recipe:
        def acting(seed: int) -> Iterator[Any]:
            for i, batch in enumerate(batches(seed)):
                if i == step:
                    act()
                yield batch

        return recipe(batches=acting)


def numbers(outcomes: Any) -> dict[Any, Any]:
    """What must be equal wherever a job was done."""

    def of(outcome: Outcome) -> Any:
        return outcome.losses, outcome.scores, outcome.failures, outcome.steps, outcome.gradient

    return {outcome.job: of(outcome) for outcome in outcomes}
