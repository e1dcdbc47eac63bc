"""Parameters that stand still by how a training is wired, and gradients that are never set to zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from gradiometer.remedies.around import Around
from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import optimization as cases
from gradiometer.remedies.known import findings, objection, own_step
from gradiometer.remedies.recipe import Recipe

# -- switched off -----------------------------------------------------------------------------------------------------


def frozen(model: nn.Module, situation: Situation) -> list[str]:
    """The parameters that are switched off: those that a finding names, and all of them where it names none.

    Raises:
        UnusableError: if none is.
    """
    off = [name for name, p in model.named_parameters() if not p.requires_grad and p.is_floating_point()]
    named = {site for finding in findings(situation, "frozen_parameters") for site in finding.sites}
    found = [name for name in off if name in named] or off
    if not found:
        raise UnusableError("every parameter of the model requires a gradient already")
    return found


def _unfreeze(model: nn.Module, situation: Situation) -> nn.Module:
    for name in frozen(model, situation):
        model.get_parameter(name).requires_grad_(True)
    return model


def _unfreeze_code(situation: Situation) -> Code:
    names = frozen(situation.model, situation)
    if len(names) == sum(1 for _ in situation.model.parameters()):
        return Code(model="model.requires_grad_(True)")
    said = "".join(f'\n    "{name}",' for name in names)
    return Code(model=f"for name in ({said}\n):\n    model.get_parameter(name).requires_grad_(True)")


# -- in eval mode ----------------------------------------------------------------------------------------------------


class InTraining(Around):
    """A network that is in training mode wherever a gradient is wanted, whatever the loop says."""

    def forward(self, *args, **kwargs):
        """What the network gives."""
        if torch.is_grad_enabled():
            self.network.train()
        return self.network(*args, **kwargs)


_MODES = (_NormBase, _DropoutNd)


def _evaluating(situation: Situation) -> None:
    """Raises unless a step of one's own trains in eval mode what is otherwise in training.

    Raises:
        UnusableError: if none does, or nothing in the network asks for its mode.
    """
    if not any(isinstance(module, _MODES) for module in situation.model.modules()):
        raise UnusableError("no batch norm and no dropout asks whether the network is in training mode")
    if situation.recipe.step is None or not own_step(situation).evaluates:
        raise UnusableError("the network is in training mode when it is trained")


# -- in plain lists, dictionaries and attributes ----------------------------------------------------------------------


def register(model: torch.nn.Module) -> list[str]:
    """Makes modules and weights that lie in plain lists, tuples, dictionaries and attributes known to their module.

    Returns the places that it has changed.
    """
    changed = []
    for path, module in list(model.named_modules()):
        known = {id(p) for p in model.parameters()} | {id(m) for m in model.modules()}
        for name, value in list(vars(module).items()):
            inside = [one for one in _nested(value) if id(one) not in known] if not name.startswith("_") else []
            if not inside:
                continue
            if isinstance(value, torch.Tensor):
                delattr(module, name)
                module.register_parameter(name, torch.nn.Parameter(value.detach()))
            elif (kind := _container(value)) is not None:
                setattr(module, name, kind(value))
            else:
                modules = [one for one in inside if isinstance(one, torch.nn.Module)]
                weights = [one for one in inside if isinstance(one, torch.nn.Parameter)]
                module.add_module(f"{name}_modules", torch.nn.ModuleList(modules))
                module.add_module(f"{name}_weights", torch.nn.ParameterList(weights))
            changed.append(f"{path}.{name}".lstrip("."))
    return changed


def _nested(value):
    """The modules and trainable tensors in a value."""
    if isinstance(value, torch.nn.Module) or (
        isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf
    ):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [one for part in value for one in _nested(part)] if isinstance(value, (list, tuple)) else []


def _container(value):
    """What of torch.nn can stand in its place; ``None`` for what is nested, or has other things in it."""
    parts = list(value.values()) if isinstance(value, dict) else list(value)
    modules = all(isinstance(one, torch.nn.Module) for one in parts)
    if not modules and not all(isinstance(one, torch.Tensor) for one in parts):
        return None
    if not isinstance(value, dict):
        return torch.nn.ModuleList if modules else torch.nn.ParameterList
    if not all(isinstance(key, str) and "." not in key and not hasattr(dict, key) for key in value):
        return None
    return torch.nn.ModuleDict if modules else torch.nn.ParameterDict


def _register(model: nn.Module, _: Situation) -> nn.Module:
    if not register(model):
        raise UnusableError(_NOTHING_HIDDEN)
    return model


_NOTHING_HIDDEN = (
    "no module and no weight lies in a plain list, dictionary or attribute: model.parameters() has them all"
)


def _hidden(situation: Situation) -> list[Any]:
    model = situation.model
    known = {id(p) for p in model.parameters()} | {id(m) for m in model.modules()}
    found = [
        one
        for module in model.modules()
        for name, value in vars(module).items()
        if not name.startswith("_")
        for one in _nested(value)
        if id(one) not in known
    ]
    if not found:
        raise UnusableError(_NOTHING_HIDDEN)
    return found


# -- held by no optimizer ---------------------------------------------------------------------------------------------


def _left_out(parameters: Iterable[Tensor], optimizer: Optimizer) -> list[Tensor]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [p for p in parameters if p.requires_grad and id(p) not in held]


def _hold_all(recipe: Recipe, _: Situation) -> Recipe:
    made = recipe.optimizer

    def optimizer(parameters: Iterator[nn.Parameter]) -> Optimizer:
        everything = list(parameters)
        held = made(iter(everything))
        missing = _left_out(everything, held)
        if missing:
            held.add_param_group({"params": missing})
        return held

    return replace(recipe, optimizer=optimizer)


def _not_held(situation: Situation) -> None:
    # The optimizer of a copy would hold parameters of its own: this one is asked for those of the network itself.
    optimizer = situation.recipe.optimizer(situation.model.parameters())
    if not _left_out(situation.model.parameters(), optimizer):
        raise UnusableError("the optimizer holds every parameter of the model that requires a gradient")


_HOLD = """held = {id(p) for group in optimizer.param_groups for p in group["params"]}
missing = [p for p in model.parameters() if p.requires_grad and id(p) not in held]
optimizer.add_param_group({"params": missing})"""


# -- never set to zero ------------------------------------------------------------------------------------------------


class ZeroAfterStep:
    """Sets the gradients to zero after every step, in any loop, and at no other time."""

    def attach(self, optimizer):
        """From its next step on."""
        zero = optimizer.zero_grad
        optimizer.zero_grad = lambda set_to_none=True: None  # noqa: ARG005
        optimizer.register_step_post_hook(lambda optimizer, args, kwargs: zero())  # noqa: ARG005


def _carries(situation: Situation) -> None:
    told = findings(situation, "frozen_parameters", "never set to zero", "cleared between backward and step")
    carried = max((r.carried or 0.0 for r in (situation.early, situation.last) if r is not None), default=0.0)
    if situation.recipe.step is None or not (told or carried > 0):
        raise UnusableError("the gradients are set to zero between two steps already")


def _zero_grad(recipe: Recipe, _: Situation) -> Recipe:
    def change(optimizer: Optimizer) -> Optimizer:
        ZeroAfterStep().attach(optimizer)
        return optimizer

    return recipe.with_optimizer(change)


REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="register_modules",
        title="nn.ModuleList, nn.ModuleDict and nn.Parameter in place of plain lists, dictionaries and tensors",
        group="optimization",
        treats=("frozen_parameters",),
        changes_function=False,
        source="the documentation of torch.nn.ModuleList",
        code=lambda _: Code(
            imports=("import torch",), classes=(register, _nested, _container), model="register(model)"
        ),
        model=_register,
        unusable=objection(_hidden),
        proofs=(Proof(cases.layers_in_a_list, 0.8), Proof(cases.layers_in_a_dictionary, 0.8)),
    ),
    Remedy(
        name="train_mode",
        title="training mode in every step",
        group="optimization",
        treats=("unscaled_inputs", "saturated_units", "stalled_training", "frozen_parameters", "dead_units"),
        changes_function=True,
        source="Ioffe and Szegedy, Batch normalization (2015), algorithm 2",
        code=lambda _: Code(("import torch",), (Around, InTraining), "model = InTraining(model)"),
        model=lambda model, _: InTraining(model),
        unusable=objection(_evaluating),
        proofs=(Proof(cases.left_in_evaluation, 0.8),),
    ),
    Remedy(
        name="unfreeze",
        title="parameters that are switched on",
        group="optimization",
        treats=("frozen_parameters", "stalled_training"),
        changes_function=False,
        source="none",
        code=_unfreeze_code,
        model=_unfreeze,
        unusable=objection(lambda situation: frozen(situation.model, situation)),
        proofs=(Proof(cases.frozen_as_drawn, 0.8),),
    ),
    Remedy(
        name="hold_all",
        title="an optimizer that holds every parameter",
        group="optimization",
        treats=("frozen_parameters", "stalled_training"),
        changes_function=False,
        source="none",
        code=lambda _: Code(optimizer=_HOLD),
        recipe=_hold_all,
        unusable=objection(_not_held),
        proofs=(Proof(cases.held_by_nobody, 0.8),),
    ),
    Remedy(
        name="zero_grad",
        title="gradients that are set to zero after every step, and only there",
        group="optimization",
        treats=("frozen_parameters", "diverging_loss", "oscillating_loss", "stalled_training", "loss_spike"),
        changes_function=False,
        source="none",
        code=lambda _: Code(after_step="optimizer.zero_grad()  # here, and nowhere else"),
        recipe=_zero_grad,
        unusable=objection(_carries),
        proofs=(Proof(cases.without_zero_grad, 0.8), Proof(cases.zero_grad_too_late, 0.8)),
    ),
)
