"""Values that are none: NaN, Inf, and what lies a thousand times out of range, in inputs and targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradiometer.remedies.around import Around
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.known import (
    first_batches,
    inputs_of,
    literal,
    needs_own_loss,
    rounded,
    signal_of,
    targets_of,
)
from gradiometer.remedies.recipe import Recipe
from gradiometer.remedies.scaling import FEATURES, Number

OUTLIER = 1e3
"""Size over the median size from which on a value is taken for a mistake."""

Bounds = tuple[Number, float]

MANY = 300
"""Batches that are searched for values that are none."""


class Cleaned(Around):
    """A network whose floating-point inputs are cut at a size, NaN becoming the usual value."""

    def __init__(self, network, usual, largest):
        """``usual`` stands in for NaN: a number, or one for every feature."""
        super().__init__(network)
        self.usual, self.largest = usual, largest

    def forward(self, *args, **kwargs):
        """What the network gives."""
        kwargs = {name: self.cleaned(x) for name, x in kwargs.items()}
        return self.network(*map(self.cleaned, args), **kwargs)

    def cleaned(self, x):
        """A tensor within bounds."""
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        usual = torch.tensor(self.usual, dtype=x.dtype, device=x.device)
        if usual.dim() and x.shape[-1:] != usual.shape:
            usual = usual.mean()
        return torch.where(x.isnan(), usual, x).clamp(-self.largest, self.largest)


def of_clean_targets(loss, largest):
    """The loss of the examples whose targets are numbers, and not above a size."""

    def cleaned(outputs, targets):
        good = (targets.isfinite() & (targets.abs() <= largest)).reshape(len(targets), -1).all(1)
        return loss(outputs[good], targets[good]) if good.any() else 0.0 * outputs.nan_to_num().sum()

    return cleaned


@dataclass(frozen=True)
class _Dirt:
    """The usual value and the largest good one, of inputs and targets; ``None`` where nothing is wrong."""

    inputs: Bounds | None
    targets: Bounds | None


def dirt(situation: Situation) -> _Dirt:
    """What is wrong with the first batches.

    Raises:
        UnusableError: if nothing is.
    """
    batches = first_batches(situation, min(MANY, max(situation.recipe.steps, 1)))
    inputs = _bounds([x for b in batches if (x := signal_of(inputs_of(b))) is not None])
    targets = _bounds([t for b in batches if (t := targets_of(b)) is not None and t.is_floating_point()])
    if inputs is None and targets is None:
        raise UnusableError(f"no batch of the first {len(batches)} holds NaN, Inf, or values far out of range")
    if targets is not None:
        needs_own_loss(situation)
    return _Dirt(inputs, targets)


def _bounds(values: list[Tensor]) -> Bounds | None:
    """The median, of every feature where they differ much, and the largest size of what is no outlier, if any is."""
    if not values:
        return None
    width = values[0].shape[-1] if values[0].dim() == 2 else 1  # features of a table have scales of their own
    every = torch.cat([v.detach().float().reshape(-1, width)[: 1 << 16] for v in values if not v.numel() % width])
    sizes = torch.where(every.isfinite() & (every != 0), every.abs(), torch.nan)
    usual = sizes.nanmedian(0).values
    good = sizes[sizes <= OUTLIER * usual]
    if not len(good) or (bool(every.isfinite().all()) and len(good) == int((~sizes.isnan()).sum())):
        return None
    middle = torch.where(every.isfinite(), every, torch.nan).nanmedian(0).values.nan_to_num(0.0)
    alike = float(middle.max() - middle.min()) <= FEATURES * float(usual.nanmedian())
    stand_in = rounded(float(middle.mean())) if alike else [rounded(v) for v in middle.tolist()]
    return stand_in, rounded(1.01 * float(good.max()))


def clean(model: nn.Module, situation: Situation) -> nn.Module:
    """The network, given clean inputs."""
    found = dirt(situation).inputs
    return model if found is None else Cleaned(model, *found)


def clean_targets(recipe: Recipe, situation: Situation) -> Recipe:
    """The recipe, with a loss of clean targets."""
    found = dirt(situation).targets
    return recipe if found is None else replace(recipe, loss=of_clean_targets(recipe.loss, found[1]))


def clean_code(situation: Situation) -> Code:
    """What a user would write for both."""
    found, classes, model, loss = dirt(situation), [], "", ""
    if found.inputs is not None:
        classes += [Around, Cleaned]
        model = f"model = Cleaned(model, {literal(found.inputs[0])}, {literal(found.inputs[1])})"
    if found.targets is not None:
        classes.append(of_clean_targets)
        loss = f"loss = of_clean_targets(loss, {literal(found.targets[1])})"
    return Code(imports=("import torch",), classes=tuple(classes), model=model, loss=loss)
