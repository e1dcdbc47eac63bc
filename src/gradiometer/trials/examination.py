"""The untreated training under watch, and all that is known when its remedies are chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gradiometer.errors import GradiometerError
from gradiometer.probe.measure import measure
from gradiometer.records import Diagnosis, Reading, Run
from gradiometer.remedies.base import Situation
from gradiometer.remedies.recipe import Recipe
from gradiometer.rules import diagnose
from gradiometer.rules.progress import progress
from gradiometer.trials.training import Batches, Training


@dataclass(frozen=True)
class Facts:
    """What of a `Situation` travels between processes: records, and no recipe.

    ``stands`` says that the loss does not fall, whatever the findings say of it.
    """

    diagnosis: Diagnosis
    birth: Reading | None = None
    early: Reading | None = None
    last: Reading | None = None
    losses: tuple[float, ...] = ()
    stands: bool = False

    def situation(self, recipe: Recipe) -> Situation:
        """The situation of a recipe, with a network and a batch made anew."""
        return Situation(
            recipe=recipe,
            model=Training(recipe, 0).model,
            batch=next(Batches(recipe, 0)),
            diagnosis=self.diagnosis,
            birth=self.birth,
            early=self.early,
            last=self.last,
            losses=self.losses,
            stands=self.stands,
        )


def facts(run: Run, losses: tuple[float, ...]) -> Facts:
    """What a watched training tells; its birth is measured apart."""
    readings = run.readings
    ends = (readings[0], readings[-1]) if len(readings) else (None, None)
    seen = progress(run.losses(), list(readings))
    return Facts(diagnose(run, ignore=()), None, *ends, losses, stands=seen.learning is False and not seen.little)


def birth(recipe: Recipe, seed: int = 0) -> Reading | None:
    """One measured pass of the network as it is made; a model that `measure` cannot use is trained all the same."""
    model, batch = Training(recipe, seed).model, next(Batches(recipe, seed))
    try:
        return measure(model, batch, recipe.loss)
    except (GradiometerError, RuntimeError, TypeError, ValueError, LookupError):
        return None


def examine(recipe: Recipe, seed: int = 0, deadline: float = math.inf) -> tuple[Training, Situation]:
    """Trains a recipe under watch and says what is known of it: the training, and the situation."""
    training = Training(recipe, seed, watched=True)
    training.advance(recipe.steps, deadline)
    training.close()
    known = replace(facts(training.run, tuple(training.losses)), birth=birth(recipe, seed))
    return training, known.situation(recipe)
