"""The untreated training under watch, and all that is known when its remedies are chosen."""

from __future__ import annotations

import itertools
import math

from gradiometer.errors import GradiometerError
from gradiometer.probe.measure import measure
from gradiometer.records import Reading, Run
from gradiometer.remedies.base import Situation
from gradiometer.remedies.recipe import Recipe
from gradiometer.rules import diagnose
from gradiometer.trials.training import Training, endless


def examine(recipe: Recipe, seed: int = 0, deadline: float = math.inf) -> tuple[Training, Situation]:
    """Trains a recipe under watch and says what is known of it: the training, and the situation."""
    training = Training(recipe, seed, watched=True)
    training.advance(recipe.steps, deadline)
    training.close()
    return training, situation_of(recipe, training.run, tuple(training.losses), seed)


def situation_of(recipe: Recipe, run: Run, losses: tuple[float, ...], seed: int = 0) -> Situation:
    """Everything that remedies are chosen by, from the run of the untreated training."""
    fresh = Training(recipe, seed)
    batch = next(itertools.islice(endless(recipe, seed), 1))
    readings = run.readings
    return Situation(
        recipe=recipe,
        model=fresh.model,
        batch=batch,
        diagnosis=diagnose(run, ignore=()),
        birth=_birth(fresh, batch),
        early=readings[0] if len(readings) else None,
        last=readings[-1] if len(readings) else None,
        losses=losses,
    )


def _birth(fresh: Training, batch: object) -> Reading | None:
    """One measured pass; a model that `measure` cannot use is trained all the same."""
    try:
        return measure(fresh.model, batch, fresh.recipe.loss)
    except (GradiometerError, RuntimeError, TypeError, ValueError):
        return None
