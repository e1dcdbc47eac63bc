"""Finds the models and optimizers of a script that says nothing of them."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch import nn

from gradiometer.probe.alive import alive, optimizers
from gradiometer.probe.engine import Probe


class Discovery:
    """Puts models under watch when the first of them is called with gradients on, under their names in the script.

    By then the optimizers are made as a rule, so that all models whose parameters they hold are found at once; a
    model that comes later is found when it is called.
    """

    def __init__(self, probe: Probe) -> None:
        """The probe asks for every outermost module it does not know."""
        self._probe = probe
        self._known: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._names: set[str] = set()
        probe.on_unknown_module = self.unknown

    def unknown(self, module: nn.Module) -> None:
        """Adds the model a module belongs to, if it is one that can be trained, and the others of its optimizers."""
        if module in self._known:
            return
        self._known.add(module)
        if not any(p.requires_grad for p in module.parameters()):
            return  # a loss, a metric, a frozen teacher
        found = optimizers()
        held = {id(p) for o in found for group in o.param_groups for p in group["params"]}
        roots = [r for r in _roots() if r is not module and any(id(p) in held for p in r.parameters())]
        if not any(m is module for root in roots for m in root.modules()):
            roots.insert(0, _root(module))
        roots = [r for r in roots if r not in self._known or r is module]
        for root in roots:
            # One model alone needs no prefix: its sites are then named as its author names them.
            name = self._free_name(root) if len(roots) > 1 or self._names else ""
            self._names.add(name)
            self._known.update(root.modules())
            self._probe.roster.add_model(name, root)
        self._probe.find_optimizers(lambda: found)

    def _free_name(self, root: nn.Module) -> str:
        wanted = name = _name_in_script(root) or type(root).__name__
        number = 1
        while name in self._names:
            number += 1
            name = f"{wanted}{number}"
        return name


def _roots() -> list[nn.Module]:
    """The modules alive that are part of no other, in the order in which they were made as far as that is known."""
    modules = alive(nn.Module)
    parts = {id(child) for m in modules for child in m.children()}
    return [m for m in modules if id(m) not in parts]


def _root(module: nn.Module) -> nn.Module:
    """The outermost module that holds this one (a part of a model may be called before the whole)."""
    holders = [r for r in _roots() if any(m is module for m in r.modules())]
    # Two models that share this part (a generator trained through a critic): neither is its home.
    return holders[0] if len(holders) == 1 else module


def _name_in_script(module: nn.Module) -> str | None:
    for name, value in _variables():
        if value is module and name != "self":
            return name
        # An attribute of an object that is no module: a trainer, a config.
        inside = getattr(value, "__dict__", None) if name == "self" else None
        for attribute, part in (inside or {}).items():
            if part is module:
                return attribute
    return None


def _variables() -> Iterator[tuple[str, Any]]:
    """Local and global variables of the frames outside of torch and of this package, the innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if not str(frame.f_globals.get("__name__", "")).startswith(("gradiometer.", "torch.")):
            yield from list(frame.f_locals.items())
            yield from list(frame.f_globals.items())
        frame = frame.f_back
