"""Puts modules into a network, where other modules stand, and writes down how a user does the same."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from gradiometer.probe.given import call as call_model
from gradiometer.probe.traceless import traceless
from gradiometer.remedies.base import Situation, UnusableError
from gradiometer.remedies.known import undisturbed


class Followed(nn.Sequential):
    """A layer and what comes behind it; who asks it for a weight, or for a size, gets that of the layer."""

    def __getattr__(self, name):
        """What it has not, the layer has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("0"), name)

    def forward(self, *args, **kwargs):
        """The layer gets all that is given, the others what the one before them made."""
        layer, *further = self
        output = layer(*args, **kwargs)
        for module in further:
            output = module(output)
        return output


def places(model: nn.Module, path: str) -> list[str]:
    """All paths under which the module at a path is registered, this one first."""
    module = model.get_submodule(path)
    every = [other for other, found in model.named_modules(remove_duplicate=False) if found is module]
    return [path, *(other for other in every if other != path)]


def put(model: nn.Module, path: str, made: nn.Module) -> nn.Module:
    """Puts a module in the place of another, everywhere, in its mode; what replaces the root is returned."""
    if not path:
        return made.train(model.training)
    made.train(model.get_submodule(path).training)
    for place in places(model, path):
        model.set_submodule(place, made)
    return model


def aliases(model: nn.Module, paths: Iterable[str]) -> str:
    """Statements that carry what was put at some paths to the other paths of the same module."""
    more = [(path, other) for path in paths if path for other in places(model, path)[1:]]
    return "".join(f'\nmodel.set_submodule("{b}", model.get_submodule("{a}"))' for a, b in more)


def like(made: nn.Module, module: nn.Module) -> nn.Module:
    """A module on the device of another and in its number format."""
    p = next((p for p in module.parameters() if p.is_floating_point()), None)
    return made if p is None else made.to(device=p.device, dtype=p.dtype)


def moved(module: nn.Module) -> str:
    """What is written behind a new module to bring it there, nothing where torch makes it as it should be."""
    p = next((p for p in module.parameters() if p.is_floating_point()), None)
    parts = []
    if p is not None and p.device.type != "cpu":
        parts.append(f'device="{p.device}"')
    if p is not None and p.dtype != torch.float32:
        parts.append(f"dtype={p.dtype}")
    return f".to({', '.join(parts)})" if parts else ""


def weighted(modules: Sequence[nn.Module]) -> nn.Module:
    """The first of some modules that has parameters, whose device and format the others go by."""
    return next((m for m in modules if any(True for _ in m.parameters())), modules[0])


def check(model: nn.Module, situation: Situation, made: Iterable[nn.Module]) -> None:
    """Raises unless the network still runs on the batch and calls every one of some modules."""
    called: set[int] = set()
    wanted = list(made)
    handles = [m.register_forward_pre_hook(lambda module, _: called.add(id(module))) for m in wanted]
    try:
        run(model, situation)
    finally:
        for handle in handles:
            handle.remove()
    if any(id(m) not in called for m in wanted):
        raise UnusableError(
            "the forward pass reaches its layers by other ways than the attributes under which they are registered "
            "(a plain list of them, or their weights), so nothing can be put behind them from outside. "
            "Put it into the forward pass."
        )


def run(model: nn.Module, situation: Situation) -> Any:
    """The network's output for the first batch, leaving no trace."""
    batch = situation.batch
    with traceless(model), torch.no_grad():
        return call_model(model, batch[0] if isinstance(batch, (tuple, list)) else batch)


def objection(plan: Callable[[nn.Module, Situation], Any]) -> Callable[[Situation], str | None]:
    """What a plan for the untreated network raises, as a text; random states stay as they are."""

    def unusable(situation: Situation) -> str | None:
        try:
            with undisturbed():
                plan(situation.model, situation)
        except UnusableError as error:
            return str(error)
        return None

    return unusable


def listed(paths: Sequence[str]) -> str:
    """A Python expression for some paths, short where they are numbered.

    Example:
        >>> listed(["net.0", "net.2", "net.4", "net.6"])
        '[f"net.{i}" for i in range(0, 7, 2)]'
        >>> listed(["a", "b"])
        '["a", "b"]'
    """
    split = [re.findall(r"\d+|\D+", path) for path in paths]
    if len(paths) > 3 and len({len(parts) for parts in split}) == 1:
        varying = [k for k in range(len(split[0])) if len({parts[k] for parts in split}) > 1]
        if len(varying) == 1 and all(parts[varying[0]].isdigit() for parts in split):
            numbers = [int(parts[varying[0]]) for parts in split]
            steps = {b - a for a, b in pairwise(numbers)}
            plain = all(str(n) == parts[varying[0]] for n, parts in zip(numbers, split, strict=True))
            if plain and len(steps) == 1 and (step := steps.pop()) > 0:
                parts = [*split[0]]
                parts[varying[0]] = "{i}"
                first, last = numbers[0], numbers[-1] + 1
                span = f"{first}, {last}, {step}" if step > 1 else f"{first}, {last}" if first else f"{last}"
                return f'[f"{"".join(parts)}" for i in range({span})]'
    return "[" + ", ".join(f'"{path}"' for path in paths) + "]"


def loop(groups: Mapping[str, Sequence[str]], body: str, single: str = "") -> str:
    """Statements for each group of paths: ``body`` with ``{made}`` filled in, in a loop over ``path``.

    ``single`` is used for a path that stands alone, with ``{path}`` as well.
    """
    out = []
    for made, paths in groups.items():
        if len(paths) == 1 and single:
            out.append(single.replace("{made}", made).replace("{path}", paths[0]))
            continue
        head = f"for path in {listed(paths)}:"
        if len(head) > 110:
            inner = textwrap.fill(listed(paths)[1:-1], 100, break_long_words=False)
            head = "for path in [\n" + textwrap.indent(inner + ",", "    ") + "\n]:"
        out.append(head + "\n" + textwrap.indent(body.replace("{made}", made), "    "))
    return "\n".join(out)
