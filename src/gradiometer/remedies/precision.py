"""Number formats: loss scaling, bfloat16 in place of float16, float32 in place of both."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradiometer.remedies.around import Around
from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import precision as cases
from gradiometer.remedies.known import needs_own_loss, objection, own_step, undisturbed
from gradiometer.remedies.recipe import Recipe, loss_of

SHORT = (torch.float16, torch.bfloat16)

HIGHEST = 2.0**13
"""What a scaled loss should not exceed: an eighth of the largest number of float16."""


class Cast(Around):
    """A network in another number format: its weights, and what goes in; what comes out is float32, or ``outputs``."""

    def __init__(self, network, dtype, outputs=torch.float32):
        """Its weights are changed in place."""
        super().__init__(network.to(dtype))
        self.dtype, self.outputs = dtype, outputs

    def forward(self, *args, **kwargs):
        """What the network gives."""
        args = [self.cast(x, self.dtype) for x in args]
        kwargs = {name: self.cast(x, self.dtype) for name, x in kwargs.items()}
        return self.cast(self.network(*args, **kwargs), self.outputs)

    def cast(self, x, dtype):
        """Floating-point tensors alone."""
        return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


class Autocast(Around):
    """A network with an autocast of its own, in place of the one around it; of float32 it has none."""

    def __init__(self, network, dtype):
        """bfloat16, or float32."""
        super().__init__(network)
        self.dtype = dtype

    def forward(self, *args, **kwargs):
        """What the network gives."""
        device = next(self.network.parameters()).device.type
        if self.dtype == torch.float32:
            with torch.autocast(device, enabled=False):
                return self.network(*args, **kwargs)
        with torch.autocast(device, dtype=self.dtype):
            return self.network(*args, **kwargs)


class LossScale:
    """A loss times a constant, and gradients divided by it, so that they are not lost to float16 on their way."""

    def __init__(self, scale):
        """A power of two changes no digit."""
        self.scale = scale

    def around(self, loss):
        """The loss function, scaled."""
        return lambda outputs, targets: loss(outputs, targets) * self.scale

    def attach(self, optimizer):
        """From its next step on."""
        optimizer.register_step_pre_hook(self.before_step)

    def before_step(self, optimizer, args, kwargs):  # noqa: ARG002 - torch calls it so
        """The gradients as they are."""
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.scale)


# -- what there is ----------------------------------------------------------------------------------------------------


def _weights(model: nn.Module) -> torch.dtype | None:
    """The short format of the weights, ``None`` if they are in float32."""
    return next((p.dtype for p in model.parameters() if p.dtype in SHORT), None)


def _autocast(situation: Situation) -> torch.dtype | None:
    """The format of the forward pass, in the recipe or in a step of one's own."""
    if situation.recipe.step is not None:
        return own_step(situation).autocast
    return situation.recipe.autocast


def _device(model: nn.Module) -> str:
    return next((p.device.type for p in model.parameters()), "cpu")


# -- loss scaling -----------------------------------------------------------------------------------------------------


def scale(situation: Situation) -> float | None:
    """The constant by which a loss is to be multiplied; ``None`` where `torch.amp.GradScaler` can find one.

    Raises:
        UnusableError: if nothing is in float16, or a scale is there already.
    """
    recipe = situation.recipe
    if torch.float16 not in (_autocast(situation), _weights(situation.model)):
        raise UnusableError("nothing is computed in float16: there is nothing that a scale would save")
    if recipe.scaler:
        raise UnusableError("the loss is scaled already (torch.amp.GradScaler)")
    if recipe.step is None and _weights(situation.model) is None:
        return None
    needs_own_loss(situation)
    first = next((abs(x) for x in situation.losses if math.isfinite(x) and x), 1.0)
    return 2.0 ** max(1, min(24, math.floor(math.log2(HIGHEST / first))))


def _scaling(recipe: Recipe, situation: Situation) -> Recipe:
    factor, loss = scale(situation), recipe.loss
    if factor is None or loss is None:
        return replace(recipe, scaler=True)

    def change(optimizer: Optimizer) -> Optimizer:
        LossScale(factor).attach(optimizer)
        return optimizer

    return replace(recipe.with_optimizer(change), loss=LossScale(factor).around(loss))


def _scaling_code(situation: Situation) -> Code:
    factor = scale(situation)
    if factor is None:
        return Code(
            imports=("import torch",),
            optimizer=f'scaler = torch.amp.GradScaler("{_device(situation.model)}")',
            step="# in place of loss.backward() and optimizer.step():\n"
            "# scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()",
        )
    return Code(
        imports=("import torch",),
        classes=(LossScale,),
        optimizer=f"LossScale({factor:.0f}).attach(optimizer)",
        loss=f"loss = LossScale({factor:.0f}).around(loss)",
    )


# -- another format ---------------------------------------------------------------------------------------------------


def _outputs(model: nn.Module, dtype: torch.dtype, situation: Situation) -> torch.dtype:
    """The format in which outputs must come for the loss to take them: float32, or else what they had."""
    before = _weights(model) or torch.float32
    trial = Cast(copy.deepcopy(model), dtype)
    with undisturbed(), contextlib.suppress(Exception):
        loss_of(trial, situation.recipe.loss, situation.batch).backward()
        return torch.float32
    return before


def _line(model: nn.Module, situation: Situation, dtype: torch.dtype) -> tuple[type, str] | None:
    """The module to put around a network, and its arguments; ``None`` where the recipe's autocast is what to change.

    Raises:
        UnusableError: if it computes in this format, or a longer one, already.
    """
    weights, around = _weights(model), _autocast(situation)
    better = (torch.float16,) if dtype == torch.bfloat16 else SHORT
    if weights in better:
        outputs = _outputs(model, dtype, situation)
        return Cast, f"{dtype}" + (f", outputs={outputs}" if outputs != torch.float32 else "")
    if around in better:
        return (Autocast, f"{dtype}") if situation.recipe.step is not None else None
    raise UnusableError(f"nothing is computed in {' or '.join(str(one).removeprefix('torch.') for one in better)}")


def _format(dtype: torch.dtype) -> dict[str, Any]:
    """What a remedy does that brings a network to a format."""

    def model(network: nn.Module, situation: Situation) -> nn.Module:
        line = _line(network, situation, dtype)
        if line is None:
            return network
        if line[0] is Cast:
            return Cast(network, dtype, _outputs(network, dtype, situation))
        return Autocast(network, dtype)

    def recipe(given: Recipe, _: Situation) -> Recipe:
        if given.autocast is None or given.step is not None:
            return given
        return replace(given, autocast=None if dtype == torch.float32 else dtype, scaler=False)

    def code(situation: Situation) -> Code:
        line = _line(situation.model, situation, dtype)
        if line is not None:
            return Code(("import torch",), (Around, line[0]), model=f"model = {line[0].__name__}(model, {line[1]})")
        device = _device(situation.model)
        written = (
            "without it" if dtype == torch.float32 else f'with torch.autocast("{device}", dtype={dtype}), no scaler'
        )
        return Code(step=f"# the forward pass in place of the autocast that there is: {written}")

    check: Callable[[Situation], object] = lambda situation: _line(situation.model, situation, dtype)  # noqa: E731
    return {"model": model, "recipe": recipe, "code": code, "unusable": objection(check)}


_MICIKEVICIUS = "Micikevicius et al., Mixed precision training (2018)"

REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="loss_scaling",
        title="loss scaling",
        group="optimization",
        treats=("underflow", "stalled_training"),
        changes_function=False,
        source=f"{_MICIKEVICIUS}, section 3.2",
        code=_scaling_code,
        recipe=_scaling,
        unusable=objection(scale),
        proofs=(Proof(cases.autocast_without_scaler, 0.8), Proof(cases.half_by_hand, 0.8)),
    ),
    Remedy(
        name="bfloat16",
        title="bfloat16 in place of float16",
        group="optimization",
        treats=("underflow", "nonfinite"),
        changes_function=False,
        source="Kalamkar et al., A study of BFLOAT16 for deep learning training (2019)",
        proofs=(Proof(cases.autocast_without_scaler, 0.8), Proof(cases.half_by_hand, 0.8)),
        **_format(torch.bfloat16),
    ),
    Remedy(
        name="float32",
        title="float32",
        group="optimization",
        treats=("underflow", "nonfinite", "stalled_training"),
        changes_function=False,
        source=f"{_MICIKEVICIUS}, section 3.1: a copy of the weights in float32",
        proofs=(Proof(cases.weights_in_bfloat16, 0.8), Proof(cases.autocast_without_scaler, 0.8)),
        **_format(torch.float32),
    ),
)
