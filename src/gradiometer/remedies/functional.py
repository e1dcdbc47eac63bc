"""Activations that ``forward`` calls as functions, found and exchanged in the graph that torch.fx traces of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from gradiometer.probe.given import call as call_model
from gradiometer.probe.outputs import tensors
from gradiometer.probe.traceless import traceless
from gradiometer.remedies.anatomy import NAMES
from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.by_line import exchange_by_line, lines
from gradiometer.remedies.draws import listed, named
from gradiometer.remedies.flow import Flow
from gradiometer.remedies.following import Step, activation_named


class Shallow(fx.Tracer):
    """Traces the ``forward`` of one module; the modules that it calls stay calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - torch names them so
        """Every module is."""
        return True


def exchange(module: nn.Module, places: Sequence[str], activation: Callable[[], nn.Module], absent: Any = ()) -> None:
    """Has ``forward`` call new activation modules in some places, named as torch.fx names the calls there.

    It is traced for training and for evaluation, since that is decided while tracing; ``absent`` are arguments that
    are ``None``.
    """
    own, mode, forwards = type(module), module.training, []
    for place in places:
        module.add_module(f"new_{place}", activation())
    for training in (True, False):
        module.training = training
        graph = Shallow().trace(module, dict.fromkeys(absent))
        for node in [node for node in graph.nodes if node.name in places]:
            with graph.inserting_before(node):
                given = node.args[:1] or (node.kwargs["input"],)
                node.replace_all_uses_with(graph.call_module(f"new_{node.name}", given))
            graph.erase_node(node)
        forwards.append(type(fx.GraphModule(module, graph)).forward)
    module.training = mode

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forwards[not self.training](self, *args, **kwargs)

    module.__class__ = type(own.__name__, (own,), {"forward": forward})


@dataclass(frozen=True)
class Found:
    """Activations in the ``forward`` of one module: names in torch.fx and absent arguments, or functions and lines."""

    path: str
    names: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    places: tuple[tuple[str, str], ...] = ()

    def exchange(self, model: nn.Module, activation: Callable[[], nn.Module]) -> None:
        """Exchanges them."""
        module = model.get_submodule(self.path)
        if self.places:
            exchange_by_line(module, self.places, activation)
        else:
            exchange(module, self.names, activation, self.absent)

    def written(self, activation: str) -> str:
        """The same as a user writes it."""
        if self.places:
            return f"exchange_by_line({named(self.path)}, {listed(self.places)}, {activation})"
        absent = f", {listed(self.absent)}" if self.absent else ""
        return f"exchange({named(self.path)}, {listed(self.names)}, {activation}{absent})"


def find(model: nn.Module, batch: Any, seen: Flow, path: str, wanted: Sequence[Step]) -> Found:
    """Where the wanted activations are called in the ``forward`` of the module at a path.

    Raises:
        UnusableError: where they cannot be exchanged; it names the lines to change by hand.
    """
    module = model.get_submodule(path)
    steps = [step for step in seen.steps if step.caller == path and step.role == "activation"]
    key = (path, type(module), *((step.operation, step.line) for step in steps))
    if key not in seen.traced:
        seen.traced[key] = _traced(model, module, batch, steps)
    names, absent, why = seen.traced[key]
    meant = set(map(id, wanted))
    if not why:
        chosen = [name for i, name in enumerate(names) if all(id(step) in meant for step in steps[i :: len(names)])]
        if chosen:
            return Found(path, tuple(chosen), absent)
        why = "each of them is an output's or a gate's as well"
    places = lines(seen, wanted)
    if places:
        return Found(path, places=places)
    told = ", ".join(dict.fromkeys(f"{step.operation} in {step.line}" for step in wanted if step.line))
    where = f"{type(module).__name__} ({path})" if path else type(module).__name__
    by_hand = f" Change it by hand: {told}." if told else ""
    raise UnusableError(f"torch.fx cannot exchange the activations in the forward of {where}: {why}.{by_hand}")


def _traced(
    model: nn.Module, module: nn.Module, batch: Any, steps: Sequence[Step]
) -> tuple[list[str], tuple[str, ...], str]:
    """Names of the activations of a ``forward`` in torch.fx, its absent arguments, and why there are none."""
    with traceless(model):
        args, kwargs = _first_call(model, module, batch)
        try:
            absent = _absent(module, args, kwargs)
            names = _names(module, absent, [step.operation for step in steps])
            if names and _agrees(module, args, kwargs, absent):
                return names, absent, ""
        except Exception as error:  # whatever a user's forward raises when it is given proxies
            return [], (), str(error).strip().partition("\n")[0].partition(". ")[0]
    return [], (), "traced, it calls other activations or gives something else"


def _names(module: nn.Module, absent: Sequence[str], operations: Sequence[str]) -> list[str]:
    """Names of the activation calls in the traced ``forward``; none unless they are those that were seen, in order,
    once or several times over, and the same in training and in evaluation."""
    found, other = (_activations(module, mode, absent) for mode in (True, False))
    names = [node.name for node, _ in found]
    if not names or names != [node.name for node, _ in other] or len(operations) % len(names):
        return []
    return names if [name for _, name in found] * (len(operations) // len(names)) == list(operations) else []


def _activations(module: nn.Module, training: bool, absent: Sequence[str]) -> list[tuple[fx.Node, str]]:
    """The activation calls of the traced ``forward`` in their order."""
    mode, module.training = module.training, training
    try:
        graph = Shallow().trace(module, dict.fromkeys(absent))
    finally:
        module.training = mode
    found = []
    for node in graph.nodes:
        if node.op == "call_module":
            operation = NAMES.get(type(module.get_submodule(node.target)), "")
        elif node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            operation = activation_named(name, node.args)
        else:
            continue
        if operation:
            found.append((node, operation))
    return found


def _first_call(model: nn.Module, module: nn.Module, batch: Any) -> tuple[Any, Any]:
    """What a module is given first."""
    given: list[Any] = []
    handle = module.register_forward_pre_hook(lambda _, a, k: given.append((a, k)), with_kwargs=True)
    try:
        with torch.no_grad(), traceless(model):
            call_model(model, batch[0] if isinstance(batch, (tuple, list)) else batch)
    finally:
        handle.remove()
    return given[0]


def _absent(module: nn.Module, args: Any, kwargs: Any) -> tuple[str, ...]:
    """Arguments that are ``None``, which a proxy would not be."""
    bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
    bound.apply_defaults()
    return tuple(name for name, value in bound.arguments.items() if value is None)


def _agrees(module: nn.Module, args: Any, kwargs: Any, absent: Sequence[str]) -> bool:
    """Whether the traced ``forward`` gives what the module does, in training and in evaluation."""
    mode = module.training
    for training in (True, False):
        results = []
        for forward in (type(module).forward, None):
            with traceless(module), torch.no_grad():
                module.training = training
                if forward is None:
                    forward = type(fx.GraphModule(module, Shallow().trace(module, dict.fromkeys(absent)))).forward
                results.append([x.clone() for _, x in tensors(forward(module, *args, **kwargs))])
        module.training = mode
        if len(results[0]) != len(results[1]) or not all(map(_same, *results)):
            return False
    return True


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
