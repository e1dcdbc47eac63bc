"""Residual branches without normalization that begin at zero, by the scale of their weights."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

from gradiometer.probe.given import call as call_model
from gradiometer.probe.outputs import tensors
from gradiometer.probe.traceless import traceless
from gradiometer.remedies.base import Code, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import connection as cases
from gradiometer.remedies.placing import Followed, listed, objection
from gradiometer.remedies.residual import KINDS, ScaledResidual, Unit, units, wrap, written
from gradiometer.remedies.wiring import Pass, Wiring


class _Plan(NamedTuple):
    """The branches, the layers inside that are drawn anew with their factors, and those that are zero."""

    units: list[Unit]
    drawn: dict[str, float]
    zero: list[str]


def _plan(model: nn.Module, situation: Situation) -> _Plan:
    wiring = Wiring(model, situation.batch)
    found = units(model, situation)
    layers = {one.path: one for one in wiring.layers()}
    normed = {one.path for one in wiring.passes if one.role == "normalization"}
    if any(path == p or path.startswith(f"{p}.") for unit in found for p in unit.paths for path in normed):
        raise UnusableError("a normalization stands in the branches, which Fixup is to do without: use residual.")
    inside = [path for unit in found for path in _inside(unit, layers)]
    computed = [path for path in inside if "weight" not in model.get_submodule(path)._parameters]
    if computed:
        raise UnusableError(
            f"the weight of {computed[0]} is computed from others (a parametrization), and cannot be set."
        )
    drawn: dict[str, float] = {}
    zero: list[str] = []
    for unit in found:
        if not _inside(unit, layers):
            raise UnusableError(
                f"the weights of {unit.paths[0]} are parameters of its own, and no layers to draw anew."
            )
        *others, last = _inside(unit, layers)
        zero.append(last)
        m = len(others) + 1
        drawn |= {path: round(len(found) ** (-1 / (2 * m - 2)), 4) for path in others}
    return _Plan(found, drawn, zero)


def _inside(unit: Unit, layers: dict[str, Pass]) -> list[str]:
    return [path for path in layers if any(path == p or path.startswith(f"{p}.") for p in unit.paths)]


def _treat(model: nn.Module, situation: Situation) -> nn.Module:
    plan = _plan(model, situation)
    layers: list[tuple[Any, float]] = [(model.get_submodule(path), factor) for path, factor in plan.drawn.items()]
    last = [model.get_submodule(path) for path in plan.zero]
    model = wrap(model, situation, plan.units, lambda *modules: ScaledResidual(1.0, *modules))
    with torch.no_grad():
        for layer, factor in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu").mul_(factor)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for layer in last:
            for p in layer.parameters(recurse=False):
                nn.init.zeros_(p)
    _check_learns(model, situation, last)
    return model


def _check_learns(model: nn.Module, situation: Situation, last: list[nn.Module]) -> None:
    """Raises if no gradient comes to the weights of zero."""
    batch = situation.batch
    with traceless(model), torch.enable_grad():
        weights = [p.requires_grad_(True) for layer in last for p in layer.parameters(recurse=False)]
        output = call_model(model, batch[0] if isinstance(batch, (tuple, list)) else batch)
        total = sum(x.square().sum() for _, x in tensors(output) if x.is_floating_point() and x.requires_grad)
        found = torch.autograd.grad(total, weights, allow_unused=True) if isinstance(total, torch.Tensor) else ()
        if not any(g is not None and g.abs().sum() > 0 for g in found):
            raise UnusableError(
                "behind the last weights of a branch stands an activation that passes no gradient on at zero, so "
                "weights of zero would stay zero. Move it before the branch: x + f(relu(x))."
            )


def _code(situation: Situation) -> Code:
    plan = _plan(situation.model, situation)
    lines = []
    if plan.drawn:
        for factor in dict.fromkeys(plan.drawn.values()):
            lines.append(f"for path in {listed([path for path, f in plan.drawn.items() if f == factor])}:")
            lines.append("    layer = model.get_submodule(path)")
            lines.append(f'    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu").data.mul_({factor})')
            lines.append("    if layer.bias is not None:")
            lines.append("        nn.init.zeros_(layer.bias)")
    lines.append(f"for path in {listed(plan.zero)}:")
    lines.append("    for p in model.get_submodule(path).parameters():")
    lines.append("        nn.init.zeros_(p)")
    code = written(situation, plan.units, "ScaledResidual(1.0, ", (Followed, ScaledResidual))
    return Code(classes=code.classes, model="\n".join([*lines, code.model]))


FIXUP = Remedy(
    name="residual_fixup",
    title="residual connections with Fixup's start",
    group="connection",
    treats=KINDS,
    changes_function=True,
    source="Zhang, Dauphin and Ma, Fixup initialization: residual learning without normalization (2019), section 3: "
    "the last layer of each of the L branches zero, the others He's times L^(-1/(2m-2)), a learned factor",
    code=_code,
    model=_treat,
    unusable=objection(lambda model, situation: _treat(copy.deepcopy(model), situation)),
    proofs=cases.RESIDUAL_FIXUP,
)
