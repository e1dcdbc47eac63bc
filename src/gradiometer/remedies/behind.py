"""Puts a module behind each hidden layer that asks for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.placing import Followed, aliases, check, like, loop, moved, put, run
from gradiometer.remedies.wiring import Pass, Wiring

Choose = Callable[[Pass], "tuple[str, Callable[[], nn.Module]] | None"]
"""The norm for a layer's output: as a user writes it, and what makes it; ``None`` if it has none."""


class Place(NamedTuple):
    """A layer, the norm that it gets as a user writes it, and what makes that norm."""

    path: str
    written: str
    make: Callable[[], nn.Module]


def hidden_places(model: nn.Module, situation: Situation, choose: Choose) -> list[Place]:
    """Where a norm goes: behind each hidden weight layer that none follows and whose output has one.

    Not behind layers whose output is an output of the network, nor behind what attention compares. An empty list is an
    `UnusableError`.
    """
    wiring = Wiring(model, situation.batch)
    layers = [one for one in wiring.layers() if wiring.hidden(one)]
    if not layers:
        raise UnusableError(
            "no linear or convolutional layer leads into another one (blocks of nn.Transformer have normalization of "
            "their own), so there is nothing to put it behind."
        )
    bare = [one for one in layers if not wiring.normalized(one) and "attention" not in wiring.next_kinds(one)]
    if not bare:
        raise UnusableError("a normalization follows every hidden layer already.")
    found = [(one, choose(one)) for one in bare]
    return [Place(one.path, *norm) for one, norm in found if norm is not None]


def insert(model: nn.Module, situation: Situation, found: list[Place]) -> tuple[nn.Module, bool]:
    """Puts the norms in; the second is whether the layers must go on to answer for their weights.

    They must if the forward pass, or a step of the user's own, asks them for their attributes.
    """
    layers = {place.path: model.get_submodule(place.path) for place in found}
    norms = {place.path: like(place.make(), layers[place.path]) for place in found}
    answers = situation.recipe.step is not None

    def wrap(kind: type[nn.Sequential]) -> None:
        for path, layer in layers.items():
            put(model, path, kind(layer, norms[path]))

    try:
        wrap(Followed if answers else nn.Sequential)
        if not answers:
            try:
                run(model, situation)
            except (AttributeError, TypeError):  # their weights are asked for, or they get several inputs
                answers = True
                for path, layer in layers.items():
                    put(model, path, layer)
                wrap(Followed)
        check(model, situation, norms.values())
    except BaseException:
        for path, layer in layers.items():
            put(model, path, layer)
        raise
    return model, answers


def written(situation: Situation, found: list[Place]) -> Code:
    """What a user writes to put these norms in."""
    model = situation.model
    layers = {place.path: model.get_submodule(place.path) for place in found}
    try:
        _, answers = insert(model, situation, found)
    finally:
        for path, layer in layers.items():
            put(model, path, layer)
    groups: dict[str, list[str]] = {}
    for place in found:
        groups.setdefault(place.written + moved(layers[place.path]), []).append(place.path)
    kind = "Followed" if answers else "nn.Sequential"
    body = f"model.set_submodule(path, {kind}(model.get_submodule(path), {{made}}))"
    single = f'model.set_submodule("{{path}}", {kind}(model.get_submodule("{{path}}"), {{made}}))'
    made = [type(place.make()) for place in found]
    own = [one for one in dict.fromkeys(made) if not one.__module__.startswith("torch.")]
    return Code(
        classes=(*((Followed,) if answers else ()), *own),
        model=loop(groups, body, single) + aliases(model, layers),
    )
