"""Several remedies as one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from gradiometer.remedies.base import Code, Remedy, Situation, in_order, treated
from gradiometer.remedies.recipe import Recipe


def combined(remedies: Sequence[Remedy]) -> Remedy:
    """One remedy that carries out several, in the order of `GROUPS`; a single one stays what it is.

    Formula: the composition of their changes.

    Args:
        remedies: at least one.

    Returns:
        A `Remedy` whose ``parts`` they are.

    Raises:
        nothing.

    Example:
        >>> from gradiometer.remedies.catalogue import find
        >>> combined([find("he"), find("relu")]).name
        'relu+he'

    Source:
        none.
    """
    parts = tuple(in_order(remedies))
    if len(parts) == 1:
        return parts[0]

    def model(network: nn.Module, situation: Situation) -> nn.Module:
        for part in parts:
            network = part.model(network, situation) if part.model is not None else network
        return network

    def unusable(situation: Situation) -> str | None:
        return next((text for part in parts if (text := part.unusable(situation))), None)

    return Remedy(
        name="+".join(part.name for part in parts),
        title=", ".join(part.title for part in parts[:-1]) + f" and {parts[-1].title}",
        group=parts[0].group,
        treats=tuple(dict.fromkeys(kind for part in parts for kind in part.treats)),
        changes_function=any(part.changes_function for part in parts),
        source="; ".join(part.source for part in parts),
        code=lambda situation: _code(parts, situation),
        model=model if any(part.model for part in parts) else None,
        recipe=_recipe_of(parts) if any(part.recipe for part in parts) else None,
        unusable=unusable,
        parts=parts,
    )


def _recipe_of(parts: Sequence[Remedy]) -> Callable[[Recipe, Situation], Recipe]:
    """What the parts change besides the network, which the combination changes at once."""
    others = tuple(replace(part, model=None) for part in parts)
    return lambda recipe, situation: treated(recipe, others, situation)


def _code(parts: Sequence[Remedy], situation: Situation) -> Code:
    """What to write for all of them; each part sees the network that those before it leave."""
    written = Code()
    for part in parts:
        here = part.code(situation)
        written = _joined(written, here)
        if part.model is not None:
            situation = replace(situation, model=part.model(copy.deepcopy(situation.model), situation))
    return written


def _joined(first: Code, then: Code) -> Code:
    return Code(
        imports=tuple(dict.fromkeys((*first.imports, *then.imports))),
        classes=tuple(dict.fromkeys((*first.classes, *then.classes))),
        **{name: _lines(getattr(first, name), getattr(then, name)) for name in _PLACES},
    )


_PLACES = ("model", "optimizer", "loss", "step", "after_step")


def _lines(first: str, then: str) -> str:
    return "\n".join(text for text in (first.rstrip("\n"), then) if text)
