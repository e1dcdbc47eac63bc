"""One training of a recipe from a seed, taken a few steps at a time."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from gradiometer.errors import InputError
from gradiometer.probe.watch import watch
from gradiometer.records import Run
from gradiometer.remedies.recipe import Recipe, loss_of

LOST = 20
"""Losses in a row that are NaN or Inf after which a training is over: a loss scaler that looks for its scale skips
a few steps in a row, and nothing else comes back."""

BUDGET = 0.05
"""Share of a training's time that watching may cost here: a diagnosis of a short training needs some readings."""


class Training:
    """A training of a recipe, which can be taken up again where it was left.

    ``losses`` are those of the steps so far, ``failure`` says why it ended early, ``seconds`` is what its steps took.
    Other trainings may run in between: the random states are its own.
    """

    def __init__(self, recipe: Recipe, seed: int, *, watched: bool = False) -> None:
        """Builds everything from the seed; ``watched`` keeps a run, so that `diagnosis` can be asked for."""
        self.recipe, self.seed = recipe, seed
        self.losses: list[float] = []
        self.failure = ""
        self.seconds = 0.0
        with _own_random_states() as states:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            self.model = recipe.model().train()
            self.optimizer = recipe.optimizer(self.model.parameters())
            self._schedule = recipe.schedule(self.optimizer) if recipe.schedule is not None else None
            self._batches = endless(recipe, seed)
            states.keep()
        self._states = states
        device = next((p.device.type for p in self.model.parameters()), "cpu")
        self._device = device
        self._watch = watch(self.model, self.optimizer, budget=BUDGET) if watched else None
        if self._watch is not None:
            self._watch.__enter__()
        self._scaler = torch.amp.GradScaler(device) if recipe.scaler else None  # type: ignore[reportPrivateImportUsage]

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return len(self.losses)

    def advance(self, until: int, deadline: float = math.inf) -> None:
        """Takes steps until there are ``until`` of them, the training fails, or `time.monotonic` passes a deadline.

        What a step raises is no error here: a training that raises has failed, and ``failure`` says with what.
        """
        began = perf_counter()
        with self._states:
            try:
                while self.steps < until and not self.failure and monotonic() < deadline:
                    self.losses.append(self._step())
                    if len(self.losses) >= LOST and not any(map(math.isfinite, self.losses[-LOST:])):
                        self.failure = f"the loss is {self.losses[-1]} from step {self.steps - LOST} on"
            except Exception as error:
                self.failure = f"{type(error).__name__} at step {self.steps}: {str(error).strip()[:200]}"
                self.close(error)
        self.seconds += perf_counter() - began

    @property
    def run(self) -> Run:
        """What the watch has recorded so far."""
        assert self._watch is not None, "this training is not watched"
        return self._watch.run

    def close(self, error: BaseException | None = None) -> None:
        """Ends the watch."""
        if self._watch is not None:
            self._watch.__exit__(type(error) if error is not None else None, error, None)

    def score(self) -> float | None:
        """What ``evaluate`` says of the model as it is; ``None`` without one, NaN if it failed."""
        if self.recipe.evaluate is None:
            return None
        modes = [(module, module.training) for module in self.model.modules()]
        with self._states.untouched(), torch.no_grad():
            try:
                return float(self.recipe.evaluate(self.model.eval()))
            except Exception:
                return math.nan
            finally:
                for module, mode in modes:
                    module.training = mode

    def _step(self) -> float:
        batch = next(self._batches)
        recipe = self.recipe
        if recipe.step is not None:
            loss = recipe.step(self.model, self.optimizer, recipe.loss, batch)
        else:
            loss = self._standard_step(batch)
        if self._schedule is not None:
            self._schedule.step()
        return float(loss)

    def _standard_step(self, batch: Any) -> torch.Tensor:
        recipe, optimizer, scaler = self.recipe, self.optimizer, self._scaler
        optimizer.zero_grad()
        with autocast(recipe, self._device):
            loss = loss_of(self.model, recipe.loss, batch)
        (scaler.scale(loss) if scaler is not None else loss).backward()
        if recipe.clip is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        return loss.detach()


def autocast(recipe: Recipe, device: str) -> contextlib.AbstractContextManager[Any]:
    """The number format of a forward pass."""
    if recipe.autocast is None:
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=recipe.autocast)


def endless(recipe: Recipe, seed: int) -> Iterator[Any]:
    """The batches of a seed, begun again when they end.

    Raises:
        InputError: if there is none at all.
    """
    while True:
        count = 0
        for batch in recipe.batches(seed):
            count += 1
            yield batch
        if not count:
            raise InputError(
                f"batches({seed}) yields nothing, so there is nothing to train on. A function that is called with a "
                "seed must make its batches anew each time; one that hands over an iterator that is used up does not."
            )


class _own_random_states:  # noqa: N801 - a context
    """The random states of one training: put in place on entering, kept on leaving, the others put back."""

    def __init__(self) -> None:
        self._own: tuple[Any, ...] | None = None
        self._others: tuple[Any, ...] = ()

    def __enter__(self) -> _own_random_states:
        self._others = _states()
        if self._own is not None:
            _set(self._own)
        return self

    def __exit__(self, *_: Any) -> None:
        self.keep()
        _set(self._others)

    def keep(self) -> None:
        """The states as they are now are this training's."""
        self._own = _states()

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """A block whatever is drawn in which counts nowhere."""
        before = _states()
        try:
            yield
        finally:
            _set(before)


def _states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), random.getstate(), np.random.get_state(), cuda


def _set(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state_all(states[3])
