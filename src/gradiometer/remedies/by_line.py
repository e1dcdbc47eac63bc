"""Activations that are called as functions where torch.fx cannot trace: exchanged by the line that calls them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from gradiometer.remedies.flow import Flow
from gradiometer.remedies.following import Step


class Instead(TorchFunctionMode):
    """While it lasts, modules are called in the places of functions: a function's name and the line that calls it."""

    def __init__(self, new: Mapping[tuple[str, str], nn.Module]) -> None:
        """``new`` are the modules by the places, such as ``("tanh", "net.py:12")``."""
        super().__init__()
        self.new, self.names = new, {name for name, _ in new}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, or what stands for it; an activation is the same word with and without ``_``."""
        name = getattr(function, "__name__", "").removesuffix("_")
        if name in self.names:
            frame: Any = sys._getframe(1)
            while frame.f_globals.get("__name__", "").startswith("torch."):
                frame = frame.f_back
            place = (name, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            if place in self.new:
                return self.new[place](*args[:1], **{key: value for key, value in (kwargs or {}).items() if not args})
        return function(*args, **(kwargs or {}))


def exchange_by_line(module: nn.Module, places: Sequence[tuple[str, str]], activation: Callable[[], nn.Module]) -> None:
    """Has ``forward`` call new activation modules in the places of functions on some lines."""
    own = type(module)
    names = {place: f"new_{place[0]}_{number}" for number, place in enumerate(places)}
    for name in names.values():
        module.add_module(name, activation())

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Instead({place: getattr(self, name) for place, name in names.items()}):
            return own.forward(self, *args, **kwargs)

    module.__class__ = type(own.__name__, (own,), {"forward": forward})


def lines(seen: Flow, wanted: Sequence[Step]) -> tuple[tuple[str, str], ...]:
    """The places of the wanted activations; none if one of them has no line, or shares it with one that must stay."""
    places = dict.fromkeys((step.operation, step.line) for step in wanted)
    meant = set(map(id, wanted))
    for step in seen.steps:
        if (step.operation, step.line) in places and id(step) not in meant:
            return ()
    plain = all(step.line and step.module is None and step.function == step.operation for step in wanted)
    return tuple(places) if plain else ()
