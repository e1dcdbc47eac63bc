"""Inputs and targets of odd scales: standardized inside of the network, so that a score sees what it always saw."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradiometer.remedies.anatomy import anatomy
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
    tasks,
)
from gradiometer.remedies.recipe import Recipe
from gradiometer.rules.mismatch import DIFFERENCES

FEATURES = 10.0
"""Spread of the features' scales, or of their means in standard deviations, up to which one number does for all: what
hardly varies (the pixels at the edge of an image) is then not blown up."""

NEAR = 0.2
"""How near to standardized is standardized: a mean of a fifth of a deviation, a deviation a fifth off."""

Number = float | list[float]


class Standardized(Around):
    """A network whose first floating-point input comes to it less a mean and over a deviation."""

    input_mean: torch.Tensor
    input_deviation: torch.Tensor

    def __init__(self, network, mean, deviation, dim=-1):
        """Mean and deviation are numbers, or lists of them along a dimension."""
        super().__init__(network)
        parameter = next(network.parameters())
        self.register_buffer("input_mean", torch.tensor(mean, device=parameter.device))
        self.register_buffer("input_deviation", torch.tensor(deviation, device=parameter.device))
        self.dim = dim

    def forward(self, *args, **kwargs):
        """What the network gives."""
        names, given = [""] * len(args) + list(kwargs), [*args, *kwargs.values()]
        for i, (name, x) in enumerate(zip(names, given, strict=True)):
            signal = not any(word in name for word in ("label", "target", "mask", "weight"))
            if signal and isinstance(x, torch.Tensor) and x.is_floating_point():
                given[i] = self.standardized(x)
                break
        return self.network(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))

    def standardized(self, x):
        """Feature by feature along one dimension, or all alike."""
        shape = [1] * x.dim()
        if self.input_mean.dim():
            shape[self.dim] = -1
        return (x - self.input_mean.reshape(shape).to(x.dtype)) / self.input_deviation.reshape(shape).to(x.dtype)


class Rescaled(Around):
    """A network that gives outputs of mean 0 and deviation 1, which come out in the units of the targets."""

    target_mean: torch.Tensor
    target_deviation: torch.Tensor

    def __init__(self, network, mean, deviation):
        """Mean and deviation are those of the targets."""
        super().__init__(network)
        parameter = next(network.parameters())
        self.register_buffer("target_mean", torch.tensor(mean, device=parameter.device))
        self.register_buffer("target_deviation", torch.tensor(deviation, device=parameter.device))

    def forward(self, *args, **kwargs):
        """What the network gives, in the units of the targets."""
        outputs = self.network(*args, **kwargs)
        return outputs * self.target_deviation.to(outputs.dtype) + self.target_mean.to(outputs.dtype)


def in_deviations(loss, deviation):
    """The loss of outputs and targets that are divided by the targets' deviation."""

    def standardized(outputs, targets):
        unit = torch.as_tensor(deviation, dtype=outputs.dtype, device=outputs.device)
        return loss(outputs / unit, targets / unit)

    return standardized


# -- inputs -----------------------------------------------------------------------------------------------------------


def statistics(x: Tensor, dim: int) -> tuple[Number, Number]:
    """Mean and deviation, of every feature where these differ much, else of all alike; to three digits.

    A feature that does not vary is brought to a size of one if it is larger, and else left as it is.
    """
    rows = x.detach().double().movedim(dim, -1).reshape(-1, x.shape[dim])
    rows = rows[rows.isfinite().all(1)]
    if not len(rows):
        raise UnusableError("no example of the first batches is finite: look at the data")
    mean, deviation = rows.mean(0), rows.std(0, correction=0)
    varies = deviation > 1e-6 * mean.abs()
    if not varies.any():
        raise UnusableError("the inputs do not vary")
    usual = deviation[varies].median()
    alike = deviation.max() <= FEATURES * usual and (mean[varies] - mean[varies].mean()).abs().max() <= FEATURES * usual
    if alike and bool((mean[~varies].abs() <= FEATURES * rows.std()).all()):
        return exactly(float(rows.mean()), float(rows.std())), rounded(float(rows.std()))
    mean = torch.where(varies, mean, 0.0)
    constant = rows.mean(0).abs().clamp(min=1.0)
    deviation = torch.where(varies, deviation, constant)
    return [exactly(m, d) for m, d in zip(mean.tolist(), deviation.tolist(), strict=True)], [
        rounded(d) for d in deviation.tolist()
    ]


def _is_standard(mean: Number, deviation: Number) -> bool:
    if isinstance(mean, list) or isinstance(deviation, list):
        return False
    return abs(mean) <= NEAR * deviation and abs(deviation - 1) <= NEAR


def exactly(mean: float, deviation: float) -> float:
    """A mean to a thousandth of the deviation: of 1000.2 +- 0.1 three digits would be off."""
    digits = 3 + max(0, math.ceil(math.log10(abs(mean) / deviation))) if mean and deviation else 3
    return rounded(mean, min(digits, 9))


def input_scale(model: nn.Module, situation: Situation) -> tuple[Number, Number, int]:
    """Mean, deviation, and the dimension that they go along.

    Raises:
        UnusableError: if there is nothing to standardize, or it is standardized already.
    """
    found = [signal_of(inputs_of(batch)) for batch in first_batches(situation)]
    signals = [x for x in found if x is not None and x.dim()]
    if not signals:
        raise UnusableError("the inputs are no floating-point numbers (indices of tokens, bytes): there is no scale")
    dim = _dimension(model, signals[0], situation)
    width = signals[0].shape[dim]
    x = torch.cat([x.movedim(dim, -1).reshape(-1, width) for x in signals if x.shape[dim] == width])
    mean, deviation = statistics(x, -1)
    if _is_standard(mean, deviation):
        raise UnusableError("the inputs are standardized already")
    return mean, deviation, dim


def _dimension(model: nn.Module, x: Tensor, situation: Situation) -> int:
    """Channels lie along dimension 1 where the first weight layer is a convolution, and in images; features last."""
    layers = anatomy(model, situation.batch).weights
    convolution = bool(layers) and isinstance(layers[0].module, nn.modules.conv._ConvNd)
    first = x.dim() >= 4 or (convolution and x.dim() == 3)
    return 1 if first else -1


def standardize(model: nn.Module, situation: Situation) -> nn.Module:
    """The network, given standardized inputs."""
    return Standardized(model, *input_scale(model, situation))


def standardize_code(situation: Situation) -> Code:
    """What a user would write for that."""
    mean, deviation, dim = input_scale(situation.model, situation)
    along = f", dim={dim}" if isinstance(mean, list) and dim != -1 else ""
    line = f"model = Standardized(model, {literal(mean)}, {literal(deviation)}{along})"
    return Code(imports=("import torch",), classes=(Around, Standardized), model=line)


# -- targets ----------------------------------------------------------------------------------------------------------


def target_scale(situation: Situation) -> tuple[Number, Number]:
    """Mean and deviation of the targets of a regression.

    Raises:
        UnusableError: if it is none, or they are standardized already.
    """
    compared = tasks(situation)
    if compared and not all(task.loss in (*DIFFERENCES, "l1_loss") for task in compared):
        raise UnusableError(f"the loss compares no numbers with numbers ({compared[0].loss}): targets have no scale")
    targets = [t for batch in first_batches(situation) if (t := targets_of(batch)) is not None]
    if not targets or not all(t.is_floating_point() for t in targets):
        raise UnusableError("the targets are no floating-point numbers: they have no scale")
    needs_own_loss(situation)
    wide = targets[0].dim() == 2 and 1 < targets[0].shape[1] <= 64
    values = torch.cat([t.reshape(-1, t.shape[1] if wide else 1) for t in targets])
    mean, deviation = statistics(values, -1)
    if isinstance(mean, list) and not wide:
        mean, deviation = mean[0], deviation[0] if isinstance(deviation, list) else deviation
    if _is_standard(mean, deviation):
        raise UnusableError("the targets are standardized already")
    return mean, deviation


def rescale(model: nn.Module, situation: Situation) -> nn.Module:
    """The network, with outputs in the units of the targets."""
    return Rescaled(model, *target_scale(situation))


def rescaled(recipe: Recipe, situation: Situation) -> Recipe:
    """The recipe, with a loss in deviations of the targets."""
    return replace(recipe, loss=in_deviations(recipe.loss, target_scale(situation)[1]))


def rescale_code(situation: Situation) -> Code:
    """What a user would write for both."""
    mean, deviation = target_scale(situation)
    return Code(
        imports=("import torch",),
        classes=(Around, Rescaled, in_deviations),
        model=f"model = Rescaled(model, {literal(mean)}, {literal(deviation)})",
        loss=f"loss = in_deviations(loss, {literal(deviation)})",
    )
