"""Layers of equal width in a row, each of which sees all that came before it."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import nn

from gradiometer.remedies.base import Code, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import connection as cases
from gradiometer.remedies.placing import aliases, check, like, listed, moved, objection, put, weighted
from gradiometer.remedies.residual import KINDS, Unit, in_place, units

FEWEST = 3
"""Layers in a row for which it means something: what two have to share, a residual connection gives as well."""


class Dense(nn.Module):
    """Layers in a row; each gets all that came before, side by side, brought back to the width by a linear layer."""

    def __init__(self, layers, width, dimensions):
        """``dimensions`` of the images, none for rows; the mixing layers keep the variance."""
        super().__init__()
        kind = [nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d][dimensions]
        kernel = (1,) if dimensions else ()
        self.layers = nn.ModuleList(layers)
        self.mixes = nn.ModuleList(kind(i * width, width, *kernel) for i in range(2, len(layers) + 2))
        self.dim = 1 if dimensions else -1
        for i, mix in enumerate(self.mixes, 2):
            nn.init.normal_(mix.get_parameter("weight"), std=(i * width) ** -0.5)
            nn.init.zeros_(mix.get_parameter("bias"))

    def forward(self, x):
        """What the last mixing layer makes of everything."""
        seen = [x]
        for layer, mix in zip(self.layers, self.mixes, strict=True):
            seen.append(layer(x))
            x = mix(torch.cat(seen, self.dim))
        return x


class _Row(NamedTuple):
    """Neighbouring children of a sequential module, and the width and dimensions (of a convolution) they share."""

    units: list[Unit]
    width: int
    dimensions: int


def _rows(model: nn.Module, situation: Situation) -> list[_Row]:
    found: list[_Row] = []
    row: list[Unit] = []
    for unit in [*units(model, situation), None]:
        if unit is not None and row and _adjoin(model, row[-1], unit):
            row.append(unit)
            continue
        if len(row) >= FEWEST:
            found.append(_Row(row, *_width(model, row[0])))
        row = [unit] if unit is not None and _in_sequence(model, unit) else []
    if not found:
        raise UnusableError(
            f"no nn.Sequential has {FEWEST} layers or blocks in a row that keep the shape. Write "
            "x = self.mix(torch.cat(all_so_far, 1)) in the forward pass."
        )
    return found


def _width(model: nn.Module, unit: Unit) -> tuple[int, int]:
    """Units and spatial dimensions: channels come first in what convolutions make, and in what blocks of them make."""
    module = model.get_submodule(unit.paths[0])
    kinds = ((nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv3d, 3))
    dimensions = next((n for kind, n in kinds for m in module.modules() if isinstance(m, kind)), 0)
    return unit.shape[1] if dimensions else unit.shape[-1], dimensions


def _in_sequence(model: nn.Module, unit: Unit) -> bool:
    parent = unit.paths[0].rpartition(".")[0]
    home = model.get_submodule(parent)
    return type(home).forward is nn.Sequential.forward and all(p.rpartition(".")[0] == parent for p in unit.paths)


def _adjoin(model: nn.Module, one: Unit, other: Unit) -> bool:
    """Whether two units are neighbours in a sequential module and alike in shape."""
    parent, _, last = one.paths[-1].rpartition(".")
    above, _, first = other.paths[0].rpartition(".")
    names = [name for name, _ in model.get_submodule(parent).named_children()]
    together = parent == above and one.shape == other.shape and _in_sequence(model, other)
    return together and names.index(first) == names.index(last) + 1


def _treat(model: nn.Module, situation: Situation) -> nn.Module:
    made = []
    rows = _rows(model, situation)
    for path in in_place(model, [unit for row in rows for unit in row.units]):
        model.get_submodule(path).inplace = False  # type: ignore[assignment]
    for row in rows:
        branches = [[model.get_submodule(path) for path in unit.paths] for unit in row.units]
        dense = Dense([nn.Sequential(*modules) for modules in branches], row.width, row.dimensions)
        made.append(like(dense, weighted(branches[0])))
        for unit in row.units:
            for path in unit.paths:
                put(model, path, nn.Identity())
        put(model, row.units[0].paths[0], made[-1])
    check(model, situation, made)
    return model


def _code(situation: Situation) -> Code:
    lines: list[str] = []
    paths = []
    found = _rows(situation.model, situation)
    loud = in_place(situation.model, [unit for row in found for unit in row.units])
    if loud:
        lines += [f"for path in {listed(loud)}:", "    model.get_submodule(path).inplace = False"]
    for row in found:
        everything = [path for unit in row.units for path in unit.paths]
        paths += everything
        size = len(row.units[0].paths)
        there = moved(weighted([situation.model.get_submodule(path) for path in everything]))
        if any(len(unit.paths) != size for unit in row.units):
            inner = ", ".join(listed(unit.paths) for unit in row.units)
            lines.append(f"rows = [{inner}]")
        else:
            columns = [listed([unit.paths[k] for unit in row.units]) for k in range(size)]
            lines += ["rows = list(zip(", *(f"    {column}," for column in columns), "))"]
        lines += [
            "layers = [nn.Sequential(*(model.get_submodule(path) for path in row)) for row in rows]",
            "for row in rows:",
            "    for path in row:",
            "        model.set_submodule(path, nn.Identity())",
            f"model.set_submodule(rows[0][0], Dense(layers, {row.width}, {row.dimensions}){there})",
        ]
    return Code(classes=(Dense,), model="\n".join(lines) + aliases(situation.model, paths))


DENSE = Remedy(
    name="dense",
    title="dense connections",
    group="connection",
    treats=KINDS,
    changes_function=True,
    source="Huang et al., Densely connected convolutional networks (2017), equation 2, with a layer of 1 x 1 (a "
    "transition, section 3) behind each",
    code=_code,
    model=_treat,
    unusable=objection(lambda model, situation: _treat(copy.deepcopy(model), situation)),
    proofs=cases.DENSE,
)
