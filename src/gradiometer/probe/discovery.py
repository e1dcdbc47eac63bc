"""Finds the models and optimizers of a script that says nothing of them."""

from __future__ import annotations

import gc
import sys
from types import FrameType

import torch
from torch import nn

from gradiometer.probe.engine import Probe


def optimizers() -> list[torch.optim.Optimizer]:
    """All optimizers of the process that are alive, in the order in which they were made, as far as can be told."""
    # type(), not isinstance(): a proxy's __class__ may run somebody's code.
    return [o for o in gc.get_objects() if issubclass(type(o), torch.optim.Optimizer)]


class Discovery:
    """Puts a model under watch when it is first called with gradients on, under the name it has in the script."""

    def __init__(self, probe: Probe) -> None:
        """The probe asks for every outermost module it does not know."""
        self._probe = probe
        self._known: set[int] = set()
        self._roots: list[nn.Module] = []
        self._names: set[str] = set()
        probe.on_unknown_module = self.unknown

    def unknown(self, module: nn.Module) -> None:
        """Adds the model a module belongs to, if it is one that can be trained."""
        if id(module) in self._known:
            return
        self._known.add(id(module))
        if not any(p.requires_grad for p in module.parameters()):
            return  # a loss, a metric, a frozen teacher
        root = _root(module)
        self._known.update(id(m) for m in root.modules())
        self._roots.append(root)
        name = _name_in_script(root) or type(root).__name__
        while name in self._names:
            name += "_"
        self._names.add(name)
        # The first model has no prefix until a second one comes: most scripts have one, and its sites
        # are then named as its author names them.
        self._probe.add_model("" if len(self._roots) == 1 else name, root)
        for optimizer in optimizers():
            if self._probe.holds(optimizer) and not self._probe.knows(optimizer):
                self._probe.add_optimizer(optimizer)


def _root(module: nn.Module) -> nn.Module:
    """The outermost module alive that holds this one (a part of a model may be called before the whole)."""
    holders = [
        m for m in gc.get_objects()
        if issubclass(type(m), nn.Module) and m is not module and any(c is module for c in m.modules())
    ]  # fmt: skip
    inner = {id(c) for m in holders for c in m.modules() if c is not m}
    outermost = [m for m in holders if id(m) not in inner]
    # Two models that share this part (a generator trained through a critic): neither is its home.
    return outermost[0] if len(outermost) == 1 else module


def _name_in_script(module: nn.Module) -> str | None:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(("gradiometer.", "torch.")):
            for name, value in (*frame.f_locals.items(), *frame.f_globals.items()):
                if value is module and name != "self":
                    return name
                inside = getattr(value, "__dict__", {}).get("_modules") if name == "self" else None
                for child, part in (inside or {}).items():
                    if part is module:
                        return child
        frame = frame.f_back
    return None
