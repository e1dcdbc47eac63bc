"""`prescribe`: from a recipe that does not learn to a cure that is proven."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Literal

from gradiometer.errors import InputError
from gradiometer.remedies.base import Remedy
from gradiometer.remedies.catalogue import by_name
from gradiometer.remedies.choice import Names, parsed
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.arms import Arms
from gradiometer.trials.checks import check, scored
from gradiometer.trials.executors import Executor, executor_of
from gradiometer.trials.prescription import Prescription
from gradiometer.trials.progress import Ticker
from gradiometer.trials.randomness import RandomStates
from gradiometer.trials.search import Search

LATE = 0.05
"""Share of the time limit that a step under way may take beyond it."""


def prescribe(
    recipe: Recipe,
    *,
    remedies: Iterable[str | Remedy] | None = None,
    steps: int | None = None,
    seeds: int = 3,
    time_limit: float | None = None,
    executor: Literal["local", "serial", "ray"] | Executor = "local",
    progress: bool | None = None,
) -> Prescription:
    """Diagnoses a recipe, tries remedies against the untreated twin, and hands over the one that is proven.

    Formula: a remedy is verified if its finding is gone and ``mean(score treated - score untreated)`` over seeds, with
    the same seed, the same batches and the same number of steps on both sides, has a 95 % interval above zero.

    Args:
        recipe: the training; without ``evaluate`` the score is minus the loss on batches of another seed.
        remedies: names (``"he"``, ``"relu+he"`` for a combination) or remedies of one's own to try, and no others.
        steps: of each training; those of the recipe if left out.
        seeds: trainings of each arm that the verdict rests on, from seed 1 on (seed 0 is that of the choice), and as
            many again where they are all better and too few to be sure; with one nothing can be verified.
        time_limit: seconds after which the best of what is known is returned.
        executor: ``"local"`` (processes on the cores of this machine), ``"serial"``, ``"ray"``.
        progress: whether to show a progress bar; without, on a terminal.

    Returns:
        A `Prescription`; its ``best`` is ``None`` if the recipe is healthy or nothing beat the untreated arm.

    Raises:
        InputError: a recipe that cannot be built twice or trained, an unknown remedy, kind of executor or number.

    Example:
        >>> import torch
        >>> from gradiometer.remedies.cases.activation import sigmoid_chain
        >>> cure = prescribe(sigmoid_chain(), remedies=["relu+he"], progress=False)
        >>> cure.best.name
        'relu+he'

    Source:
        Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization (2016):
        successive halving.
    """
    began = monotonic()
    known, wanted = _wanted(remedies)
    with RandomStates():  # the caller's are as they were
        check(recipe, steps, seeds, time_limit)
        recipe = scored(replace(recipe, steps=steps or recipe.steps))
        deadline = math.inf if time_limit is None else began + time_limit
        with executor_of(executor, Arms(recipe, known)) as workers, Ticker(progress) as ticker:
            workers.grace = math.inf if time_limit is None else LATE * time_limit
            search = Search(recipe, known, wanted, seeds, deadline, workers, ticker)
            try:
                search.run()
            except KeyboardInterrupt:
                search.reason, search.cut_short = "interrupted", True
            return search.prescription(monotonic() - began)


def _wanted(remedies: Iterable[str | Remedy] | None) -> tuple[Mapping[str, Remedy], list[Names] | None]:
    known = by_name()
    if remedies is None:
        return known, None
    wanted: list[Names] = []
    for one in [remedies] if isinstance(remedies, (str, Remedy)) else remedies:
        if isinstance(one, Remedy):
            known = {**known, one.name: one}
            wanted.append((one.name,))
        else:
            wanted += parsed(one)
    unknown = sorted({name for names in wanted for name in names if name not in known})
    if unknown:
        raise InputError(f"there is no remedy {unknown[0]!r}. There are: {', '.join(known)}.")
    return known, wanted
