"""One training of a recipe from a seed, taken a few steps at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import nn

from gradiometer.errors import InputError
from gradiometer.probe.watch import unheard, watch
from gradiometer.records import Run
from gradiometer.remedies.recipe import Recipe, loss_of
from gradiometer.trials.gradient import FirstGradient
from gradiometer.trials.randomness import RandomStates, seed_everything

LOST = 20
"""Losses in a row that are NaN or Inf after which a training is over: a loss scaler that looks for its scale skips
a few steps in a row, and nothing else comes back."""

BUDGET = 0.2
"""Share of a training's time that watching may cost here: everything that follows rests on this diagnosis."""


class Training:
    """A training of a recipe, which can be taken up again where it was left.

    ``losses`` are those of the steps so far, ``failure`` says why it ended early (``error`` is what was raised),
    ``seconds`` is what its steps took. ``gradient`` is that of the first weight layer over that of the last in the
    first step, in decades. Other trainings may run in between: the random states are its own.
    """

    def __init__(self, recipe: Recipe, seed: int, *, watched: bool = False) -> None:
        """Builds everything from the seed; ``watched`` keeps a run, so that `diagnosis` can be asked for."""
        self.recipe, self.seed = recipe, seed
        self.losses: list[float] = []
        self.failure = ""
        self.error: Exception | None = None
        self.gradient: float | None = None
        self.seconds = 0.0
        with RandomStates() as states:
            seed_everything(seed)
            self.model = recipe.model().train()
            self.optimizer = recipe.optimizer(self.model.parameters())
            self._schedule = recipe.schedule(self.optimizer) if recipe.schedule is not None else None
            states.keep()
        self._batches = Batches(recipe, seed)
        self.states = states
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
        with self.states, unheard(self._watch):
            try:
                while self.steps < until and not self.failure and monotonic() < deadline:
                    self.losses.append(self._step())
                    self.failure = lost(self.losses)
            except Exception as error:
                self.failure = f"{type(error).__name__} at step {self.steps}: {str(error).strip()[:200]}".rstrip(": ")
                self.error = error
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
        return score_of(self.recipe, self.model, self.seed)

    def _step(self) -> float:
        batch = next(self._batches)
        if not self.losses:
            with FirstGradient(self.model) as first:
                loss = self._taken(batch)
            self.gradient = first.decades
        else:
            loss = self._taken(batch)
        if self._schedule is not None:
            self._schedule.step()
        return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)

    def _taken(self, batch: Any) -> Any:
        recipe = self.recipe
        if recipe.step is not None:
            loss = recipe.step(self.model, self.optimizer, recipe.loss, batch)
            if loss is None:
                raise InputError("step(model, optimizer, loss, batch) returned None: let it return the loss.")
            return loss
        return self._standard_step(batch)

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


class Batches:
    """The batches of a seed, drawn with random states of their own.

    A loader that draws from the global generator then gives the same batches to a twin whose network drew more numbers.
    """

    LOOKS = 4
    """Batches after which it is known whether Python's and numpy's generators are drawn from at all: putting numpy's
    state in place and back takes as long as a step of a small network."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        """Nothing is drawn yet."""
        self._states = RandomStates()
        self._batches = endless(recipe, seed)
        self._drawn = 0
        self._plain_moved = False
        with self._states:
            seed_everything(seed)

    def __next__(self) -> Any:
        """The next batch."""
        with self._states as states:
            batch = next(self._batches)
        if self._drawn < self.LOOKS:
            self._drawn += 1
            self._plain_moved |= states.plain_moved
            states.torch_only = self._drawn == self.LOOKS and not self._plain_moved
        return batch


def lost(losses: list[float]) -> str:
    """Why a training with these losses is over; nothing if it is not."""
    if len(losses) < LOST or any(map(math.isfinite, losses[-LOST:])):
        return ""
    return f"the loss is {losses[-1]} from step {len(losses) - LOST} on"


def score_of(recipe: Recipe, model: nn.Module, seed: int) -> float | None:
    """What ``evaluate`` says of a model; ``None`` without one, NaN if it failed.

    What it draws comes from the seed, so that the score is the same wherever and whenever it is asked for.
    """
    if recipe.evaluate is None:
        return None
    modes = [(module, module.training) for module in model.modules()]
    with RandomStates(), unheard(), torch.no_grad():
        seed_everything(seed)
        try:
            return float(recipe.evaluate(model.eval()))
        except (Exception, SystemExit):
            return math.nan
        finally:
            for module, mode in modes:
                module.training = mode
