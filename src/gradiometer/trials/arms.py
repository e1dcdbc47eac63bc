"""From the names of remedies to the recipe of an arm, in this process or in a worker."""

from __future__ import annotations

from collections.abc import Mapping

from gradiometer.remedies.base import Remedy, Situation, treated
from gradiometer.remedies.choice import Names
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.examination import Facts


class Arms:
    """Builds the recipe of an arm: no names are the untreated one."""

    def __init__(self, recipe: Recipe, remedies: Mapping[str, Remedy]) -> None:
        """``remedies`` by their names."""
        self.recipe, self.remedies = recipe, remedies
        self._known: tuple[Facts, Situation] | None = None

    def __call__(self, names: Names, facts: Facts | None = None) -> Recipe:
        """The recipe with the remedies of these names."""
        if not names:
            return self.recipe
        assert facts is not None, "remedies are chosen after a diagnosis"
        return treated(self.recipe, tuple(self.remedies[name] for name in names), self._situation(facts))

    def _situation(self, facts: Facts) -> Situation:
        """The situation of these facts, made once."""
        if self._known is None or self._known[0] is not facts:
            self._known = facts, facts.situation(self.recipe)
        return self._known[1]
