"""What comes out of `prescribe`: what was found, and the cure to take home."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from gradiometer.errors import InputError
from gradiometer.records import Arm, Diagnosis, PrescriptionRecord, Trial
from gradiometer.remedies.base import Remedy, Situation, UnusableError, applied
from gradiometer.remedies.patching import diff
from gradiometer.remedies.recipe import Recipe
from gradiometer.remedies.writing import text


class Prescription:
    """What ails a recipe, what was tried, and what cured it.

    ``best`` is a `Remedy`, a combination perhaps, or ``None`` when nothing beat the untreated arm. ``record`` holds all
    that was found as plain data: the diagnosis, the trials, the code.
    """

    def __init__(self, record: PrescriptionRecord, best: Remedy | None, situation: Situation | None) -> None:
        """``situation`` is that in which the remedies were chosen."""
        self.record, self.best, self._situation = record, best, situation

    @property
    def diagnosis(self) -> Diagnosis:
        """Of the untreated recipe."""
        return self.record.diagnosis

    @property
    def untreated(self) -> Arm:
        """What came of the untreated trainings."""
        return self.record.untreated

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All that were made, what is verified first."""
        return self.record.trials

    @property
    def recipe(self) -> Recipe:
        """The cured recipe, or the untreated one if there is no cure; with the steps and the score that were used."""
        assert self._situation is not None
        recipe = self._situation.recipe
        return recipe if self.best is None else applied(recipe, self.best, self._situation)

    def apply(self, model: nn.Module) -> nn.Module:
        """Carries the cure out on a model in memory, as far as it is a change of the model.

        Formula: none.

        Args:
            model: one like those that the recipe builds. It is changed; go on with what is returned, and build its
                optimizer anew.

        Returns:
            The treated model.

        Raises:
            InputError: if there is no cure, or none that changes a model, or not this one.

        Example:
            >>> from gradiometer.remedies.cases.activation import sigmoid_chain
            >>> from gradiometer.trials.prescribe import prescribe
            >>> cure = prescribe(sigmoid_chain(), remedies="relu+he")
            >>> cure.apply(sigmoid_chain().model())[1]
            ReLU()

        Source:
            none.
        """
        if self.best is None or self._situation is None:
            raise InputError(f"there is no cure to apply: {self.record.reason}.")
        if self.best.model is None:
            raise InputError(
                f"{self.best.title} changes nothing in a model. It is done elsewhere in the script; "
                "print(prescription.code()) says where."
            )
        try:
            return self.best.model(model, self._situation)
        except UnusableError as error:
            raise InputError(f"{self.best.title} cannot be applied to this model: {error}") from error

    @property
    def not_applied(self) -> str:
        """What `apply` cannot change, because it is no part of a model; empty if there is nothing."""
        parts = () if self.best is None else self.best.parts or (self.best,)
        left = [part.title for part in parts if part.recipe is not None]
        return f"{' and '.join(left)}: see prescription.code()" if left else ""

    def code(self) -> str:
        """What to write in one's own script; empty if there is no cure."""
        return self.record.code

    def to_dict(self) -> dict[str, Any]:
        """The prescription as plain data."""
        return self.record.to_dict()

    def __repr__(self) -> str:
        """In short."""
        return repr(self.record)

    def __str__(self) -> str:
        """The verdict, the trials and the code, as plain text."""
        return str(self.record)


def written(record: PrescriptionRecord, best: Remedy | None, situation: Situation) -> PrescriptionRecord:
    """The record with the cure as code and as a change of the recipe's source."""
    if best is None:
        return record
    code = best.code(replace(situation, model=copy.deepcopy(situation.model)))
    patch = diff(situation.recipe, code)
    return replace(record, code=text(best.title, code), diff=patch.text, by_hand=patch.missing)
