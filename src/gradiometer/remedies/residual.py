"""Skips around blocks, or around single layers, of a network that has none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import connection as cases
from gradiometer.remedies.placing import Followed, aliases, check, like, listed, moved, objection, put, weighted
from gradiometer.remedies.wiring import FUSED, Pass, Wiring

MOST = 6
"""Weight layers in a block worth one skip: He et al. bridge two or three, and a skip across a whole network leaves the
layers inside as they were."""

KINDS = (
    "vanishing_gradient",
    "exploding_gradient",
    "rank_collapse",
    "stalled_training",
    "saturated_units",
    "dead_units",
    "bad_initialization",
)


class Residual(Followed):
    """A branch to whose output its input is added."""

    def forward(self, x, *args, **kwargs):
        """What was given, and what the branch makes of it."""
        return x + super().forward(x, *args, **kwargs)


class ScaledResidual(Followed):
    """A branch whose output, times a number that is learned, is added to its input."""

    def __init__(self, scale, *modules):
        """The number begins at ``scale``."""
        super().__init__(*modules)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x, *args, **kwargs):
        """What was given, and some of what the branch makes of it."""
        return x + self.scale * super().forward(x, *args, **kwargs)


class Unit(NamedTuple):
    """What becomes a branch: a module, and those that follow it and nothing else; their shape, and where it stands."""

    paths: tuple[str, ...]
    shape: tuple[int, ...]


def units(model: nn.Module, situation: Situation) -> list[Unit]:
    """The branches of a network without skips: repeated blocks that keep the shape, else layers that do.

    Layers that follow each other through modules make branches of two, which begin with what stands before the first
    and end with weights (pre-activation); others stand alone, with the normalization behind them.
    """
    wiring = Wiring(model, situation.batch)
    bridged = wiring.bridged()
    blocks = _blocks(wiring, bridged)
    if blocks:
        return blocks
    free = [one for one in wiring.layers() if wiring.hidden(one) and wiring.calls(one.module) == 1]
    free = [one for one in free if not one.inside & bridged and not isinstance(one.module, nn.Bilinear)]
    free = [one for one in free if "attention" not in wiring.next_kinds(one)]
    found = _chained(wiring, free)
    if not found:
        raise UnusableError(_why_not(wiring))
    return found


def _chained(wiring: Wiring, layers: list[Pass]) -> list[Unit]:
    """Branches of two segments in a row, of one where no second fits, of a layer alone where nothing leads to it."""
    segments = _segments(wiring)
    led = [one for segment in segments.values() for one in segment]
    found: list[Unit] = []
    taken: set[str] = set()
    waiting = {one.path: one for one in layers}
    for layer in layers:
        if layer.path in taken:
            continue
        chain = segments.get(layer.path, [])
        shape = layer.outputs
        if chain and chain[0].inputs == shape:
            behind = [s for p, s in segments.items() if s[0].before == layer.after and p in waiting]
            further = behind[0] if behind else []
            if further and further[-1].outputs == shape and len({*further, *chain}) == len(further) + len(chain):
                chain = [*chain, *further]
        elif layer.inputs == shape:
            after = wiring.follower(layer)
            chain = [layer]
            if after is not None and after.role == "normalization" and after not in led:
                chain.append(after)
        else:
            continue
        paths = tuple(one.path for one in chain)
        taken |= set(paths)
        found.append(Unit(paths, shape))
    return found


def _segments(wiring: Wiring) -> dict[str, list[Pass]]:
    """For each layer that a chain of modules leads to from another layer: those modules, and the layer."""
    found: dict[str, list[Pass]] = {}
    for one in wiring.layers():
        chain: list[Pass] = []
        after = wiring.follower(one)
        while after is not None and after.role in ("normalization", "activation", "dropout"):
            chain.append(after)
            after = wiring.follower(after)
        if chain and after is not None and after.role == "weights":
            found[after.path] = [*chain, after]
    return found


def _blocks(wiring: Wiring, bridged: frozenset[object]) -> list[Unit]:
    """The smallest modules with weights inside that keep the shape and stand beside another of their class."""
    found = [
        one
        for one in wiring.passes
        if not one.leaf
        and one.path
        and one.inputs == one.outputs
        and not isinstance(one.module, FUSED)
        and 1 <= wiring.weighty(one) <= MOST
        and wiring.calls(one.module) == 1
        and not one.overwrites
        and not one.inside & bridged
        and wiring.hidden(one)
        and not wiring.skips(one)
    ]
    found = [one for one in found if not any(other.path.startswith(f"{one.path}.") for other in found)]
    families: dict[tuple[str, type], int] = {}
    for one in found:
        family = one.path.rpartition(".")[0], type(one.module)
        families[family] = families.get(family, 0) + 1
    repeated = [one for one in found if families[one.path.rpartition(".")[0], type(one.module)] > 1]
    return [Unit((one.path,), one.outputs) for one in repeated]


def _why_not(wiring: Wiring) -> str:
    layers = wiring.layers()
    if any(one.inputs == one.outputs and wiring.hidden(one) for one in layers):
        return (
            "the layers that keep the shape of their input have skips around them, belong to attention, or are called "
            "once a time step (there use gated cells)."
        )
    widths = [one.outputs[1] for one in layers if len(one.outputs) > 1]  # of rows and of images
    if len(widths) < 3:
        return "it has no two hidden layers in a row between which a skip could stand."
    return (
        "no hidden layer keeps the shape of its input (widths " + ", ".join(map(str, widths[:8])) + "), so a skip has "
        "nothing to be added to. Give neighbouring layers the same width, or project: x = self.shortcut(x) + f(x)."
    )


Wrap = Callable[[int], "tuple[str, Callable[..., nn.Module]]"]
"""For a number of branches, the class of a branch as it is written, up to its modules, and what makes it."""


def wrap(model: nn.Module, situation: Situation, found: list[Unit], make: Callable[..., nn.Module]) -> nn.Module:
    """Makes branches of some units; of those of several modules the further ones leave their places."""
    held = {path: model.get_submodule(path) for unit in found for path in unit.paths}
    made = []
    loud = in_place(model, found)
    for path in loud:
        held[path].inplace = False  # type: ignore[assignment]
    for unit in found:
        modules = [held[path] for path in unit.paths]
        made.append(like(make(*modules), weighted(modules)))
        for path in unit.paths:
            put(model, path, nn.Identity())
        put(model, unit.paths[0], made[-1])
    try:
        check(model, situation, made)
    except (UnusableError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        for path, module in held.items():
            put(model, path, module)
        if isinstance(error, UnusableError):
            raise
        raise UnusableError(f"with skips around {found[0].paths[0]} and its like the network fails: {error}") from error
    return model


def written(situation: Situation, found: list[Unit], head: str, classes: tuple[type, ...]) -> Code:
    """What a user writes to make branches of some units."""
    lines: list[str] = []
    loud = in_place(situation.model, found)
    if loud:
        lines += [f"for path in {listed(loud)}:", "    model.get_submodule(path).inplace = False"]
    for length in sorted({len(unit.paths) for unit in found}):
        rows = [unit.paths for unit in found if len(unit.paths) == length]
        columns = [listed(column) for column in zip(*rows, strict=True)]
        here = weighted([situation.model.get_submodule(path) for path in rows[0]])
        there = moved(here) if "Scaled" in head else ""
        if length == 1:
            lines.append(f"for path in {columns[0]}:")
            lines.append(f"    model.set_submodule(path, {head}model.get_submodule(path)){there})")
            continue
        body = [
            "modules = [model.get_submodule(path) for path in paths]",
            "for path in paths:",
            "    model.set_submodule(path, nn.Identity())",
            f"model.set_submodule(paths[0], {head}*modules){there})",
        ]
        if len(rows) == 1:
            lines += [f"paths = {listed(rows[0])}", *body]
        else:
            lines += ["for paths in zip(", *(f"    {column}," for column in columns), "):", *(f"    {b}" for b in body)]
    more = aliases(situation.model, [path for unit in found for path in unit.paths])
    return Code(classes=classes, model="\n".join(lines) + more)


def in_place(model: nn.Module, found: list[Unit]) -> list[str]:
    """The activations at the head of a branch that would overwrite what is added to it."""
    return [unit.paths[0] for unit in found if getattr(model.get_submodule(unit.paths[0]), "inplace", False)]


def _row(name: str, title: str, source: str, wrapping: Wrap, proofs: tuple[Proof, ...]) -> Remedy:
    def treat(model: nn.Module, situation: Situation) -> nn.Module:
        found = units(model, situation)
        return wrap(model, situation, found, wrapping(len(found))[1])

    def code(situation: Situation) -> Code:
        found = units(situation.model, situation)
        head = wrapping(len(found))[0]
        kind = ScaledResidual if head.startswith("Scaled") else Residual
        return written(situation, found, head, (Followed, kind))

    return Remedy(
        name=name,
        title=title,
        group="connection",
        treats=KINDS,
        changes_function=True,
        source=source,
        code=code,
        model=treat,
        unusable=objection(lambda model, situation: treat(copy.deepcopy(model), situation)),
        proofs=proofs,
    )


def _plain(_: int) -> tuple[str, Callable[..., nn.Module]]:
    return "Residual(", Residual


def _zero(_: int) -> tuple[str, Callable[..., nn.Module]]:
    return "ScaledResidual(0.0, ", lambda *modules: ScaledResidual(0.0, *modules)


def _root(branches: int) -> tuple[str, Callable[..., nn.Module]]:
    scale = round(branches**-0.5, 4)
    return f"ScaledResidual({scale}, ", lambda *modules: ScaledResidual(scale, *modules)


RESIDUAL = (
    _row(
        "residual",
        "residual connections",
        "He et al., Deep residual learning for image recognition (2016), equation 1",
        _plain,
        cases.RESIDUAL,
    ),
    _row(
        "residual_rezero",
        "residual connections whose branches begin at zero",
        "Bachlechner et al., ReZero is all you need: fast convergence at large depth (2020), equation 1: x + a F(x) "
        "with a = 0",
        _zero,
        cases.RESIDUAL_REZERO,
    ),
    _row(
        "residual_skipinit",
        "residual connections whose branches begin at one over the root of their number",
        "De and Smith, Batch normalization biases residual blocks towards the identity function in deep networks "
        "(2020): a learned number at the end of each branch, at most one over the root of the depth",
        _root,
        cases.RESIDUAL_SKIPINIT,
    ),
)
