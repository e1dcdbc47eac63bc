"""Trainings of one recipe from several seeds, at once where that gives the same numbers and is faster."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from gradiometer.records import Run
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.together import Together, tensors
from gradiometer.trials.training import Training

STEPS = 5
"""Steps that are taken both ways and compared, the first of them untimed: it makes what later ones find."""

LEAST = 8 * STEPS
"""Steps of a training below which it is not worth the comparison, which takes those steps twice or three times."""

GAIN = 0.9
"""Share of the time of one after the other below which at once is called faster: times of a few steps are noisy."""

LOSS = 1e-4
"""Relative difference of losses that is float32's rounding, in a sum of some hundred terms a few steps deep."""

MOVED, WEIGHT = 1e-3, 1e-6
"""The same of a parameter: of how far it has come, and of its size (sixteen roundings)."""

EXACT = 1e-9
"""What both leave of that in float64."""


class Stack:
    """Trainings of one recipe from several seeds, with the face of one: they are taken up where they were left.

    The first steps are taken both ways. If losses, parameters and buffers agree up to rounding and at once is faster,
    all seeds are trained as one network with stacked parameters (`Together`) from then on, else one after the other.
    ``timed=False`` leaves out who is faster. ``seconds`` is what the steps took, without what the comparison did.
    """

    def __init__(self, recipe: Recipe, seeds: Sequence[int], *, watched: bool = False, timed: bool = True) -> None:
        """Builds the trainings; one under watch is trained by itself."""
        self.recipe, self.seeds = recipe, tuple(seeds)
        self.gradient: float | None = None
        self._timed = timed
        self._apart = [Training(recipe, seed, watched=watched) for seed in self.seeds]
        self._together: Together | None = None
        self._wasted = 0.0  # seconds of steps at once of which nothing was left
        self._undecided = len(self.seeds) > 1 and not watched
        self._scored: dict[int, tuple[int, float | None]] = {}

    # -- what there is --------------------------------------------------------------------------------------------

    @property
    def together(self) -> bool:
        """Whether the seeds are trained at once."""
        return self._together is not None

    @property
    def losses(self) -> list[list[float]]:
        """The losses of all steps so far, by seed."""
        return self._together.losses if self._together else [training.losses for training in self._apart]

    @property
    def failures(self) -> list[str]:
        """Why a training ended early, by seed; empty texts where there is nothing."""
        return self._together.failures if self._together else [training.failure for training in self._apart]

    @property
    def seconds(self) -> float:
        """What the steps took."""
        apart = sum(training.seconds for training in self._apart)
        return self._wasted + (self._together.seconds if self._together else apart)

    @property
    def steps(self) -> int:
        """Steps that the longest training has taken."""
        return max(map(len, self.losses))

    @property
    def run(self) -> Run:
        """What the watch of a single training has recorded."""
        return self._apart[0].run

    def ended(self, until: int) -> bool:
        """Whether every training has taken so many steps or failed."""
        return all(text or len(row) >= until for row, text in zip(self.losses, self.failures, strict=True))

    def scores(self) -> list[float | None]:
        """What ``evaluate`` says of each network as it is; ``None`` before its first step."""
        return [self._score(i) if self.losses[i] else None for i in range(len(self.seeds))]

    def _score(self, i: int) -> float | None:
        steps = len(self.losses[i])
        if self._scored.get(i, (-1,))[0] != steps:
            self._scored[i] = steps, self._together.score(i) if self._together else self._apart[i].score()
        return self._scored[i][1]

    # -- what is done ---------------------------------------------------------------------------------------------

    def advance(self, until: int, deadline: float = math.inf) -> None:
        """Takes every training on to a step, until it fails, or as far as it comes before a deadline."""
        if self._undecided and self.steps == 0 and max(until, self.recipe.steps) >= LEAST and until >= STEPS:
            self._decide(deadline)
        self._undecided = False
        if self._together is not None:
            try:
                self._together.advance(until, deadline)
                return
            except Exception:
                # Something that no step before did. Nothing of it is of use then but the seeds.
                self._wasted, self._together = self._together.seconds, None
                self._apart = [Training(self.recipe, seed) for seed in self.seeds]
        for training in self._apart:
            training.advance(until, deadline)
            training.error = None  # it holds on to what was computed in that step
            if training.steps >= self.recipe.steps or training.failure:
                training.close()
        self.gradient = self._apart[0].gradient

    def close(self) -> None:
        """Ends the watch, if there is one."""
        for training in self._apart:
            training.close()

    def _decide(self, deadline: float) -> None:
        """Takes the first steps one after the other, and goes on at once if that is as good."""
        apart = self._apart
        try:
            together = Together(self.recipe, apart)
        except Exception:
            return
        _taken(apart, 1, deadline)
        with _hooks_noted() as hooks:
            rest = _taken(apart, STEPS, deadline)
        self.gradient = apart[0].gradient
        if hooks or monotonic() >= deadline or any(t.failure or t.steps < STEPS for t in apart):
            return
        try:
            with warnings.catch_warnings():
                # Where torch has no rule for many at once it goes through them one by one, and warns: no gain there.
                warnings.filterwarnings("error", message="There is a performance drop")
                together.advance(1)
                warm = together.seconds
                together.advance(STEPS)
                if self._timed and together.seconds - warm > GAIN * rest:
                    return
                if not (
                    _same_losses(apart, together) and (_same(apart, together) or _exactly(self.recipe, self.seeds))
                ):
                    return
        except Exception:
            return
        together.begun.clear()
        self._together, self._apart = together, []


@contextmanager
def _hooks_noted() -> Iterator[list[str]]:
    """Collects what is hooked to tensors meanwhile.

    Inside ``vmap`` no tensor says that it requires a gradient, so that a model which asks first hooks none of them.
    """
    hooked: list[str] = []
    plain = Tensor.register_hook

    def register_hook(self: Tensor, hook: Any) -> Any:
        hooked.append(repr(hook))
        return plain(self, hook)

    Tensor.register_hook = register_hook
    try:
        yield hooked
    finally:
        Tensor.register_hook = plain


def _taken(trainings: Sequence[Training], until: int, deadline: float) -> float:
    """The seconds that it took."""
    before = sum(training.seconds for training in trainings)
    for training in trainings:
        training.advance(until, deadline)
    return sum(training.seconds for training in trainings) - before


def _same_losses(apart: Sequence[Training], together: Together, tolerance: float = LOSS) -> bool:
    """Whether the losses agree, NaN with NaN."""
    rows = zip((training.losses for training in apart), together.losses, strict=True)
    exact = partial(torch.tensor, dtype=torch.float64)
    return all(torch.allclose(exact(a), exact(b), tolerance, 1e-12, equal_nan=True) for a, b in rows)


def _same(apart: Sequence[Training], together: Together, moved: float = MOVED, weight: float = WEIGHT) -> bool:
    """Whether parameters and buffers agree, measured by how far they have come and by their size."""
    for i, training in enumerate(apart):
        values, begun = tensors(training.model), together.begun[i]
        for name, value in together.values(i).items():
            ours, there = value.detach().double(), values[name].detach().double()
            allowed = moved * _largest(there - begun[name].double()) + weight * _largest(there)
            if not torch.allclose(ours, there, 0.0, allowed, equal_nan=True):
                return False
    return True


def _largest(x: Tensor) -> float:
    """The largest magnitude among the finite elements."""
    return float(x.nan_to_num(0.0, 0.0, 0.0).abs().max()) if x.numel() else 0.0


def _exactly(recipe: Recipe, seeds: Sequence[int]) -> bool:
    """Whether both ways agree in float64, where they differ in float32.

    Where a gradient is nothing but rounding (a bias before batch normalization), an optimizer that normalizes it makes
    whole steps of it, and they differ; in float64 the rounding is below what such an optimizer adds.
    """
    exact = _in_float64(recipe)
    apart = [Training(exact, seed) for seed in seeds]
    together = Together(exact, apart)
    _taken(apart, STEPS, math.inf)
    together.advance(STEPS)
    return _same_losses(apart, together, EXACT) and _same(apart, together, EXACT, EXACT)


def _in_float64(recipe: Recipe) -> Recipe:
    made, batches = recipe.model, recipe.batches
    return replace(
        recipe,
        model=lambda: made().double(),
        batches=lambda seed: (_double(batch) for batch in batches(seed)),
    )


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _double(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_double(one) for one in value)
    return value
