"""What the output of a layer goes into, read off autograd's graph of one forward pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from gradiometer.probe.given import Inputs
from gradiometer.probe.graph import ACCUMULATE, node_of
from gradiometer.probe.nodes import of_node
from gradiometer.probe.outputs import tensors
from gradiometer.probe.traceless import traceless
from gradiometer.remedies.anatomy import Role, role_of

FUSED = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
"""Blocks of torch whose fused path reads the weights of the layers inside and calls none of them."""

_RECURRENT = ("lstm", "gru", "rnn")


@dataclass(frozen=True, eq=False)
class Pass:
    """One call of a module: shapes and graph nodes of the tensors that went in and came out, the first of them first.

    ``inside`` are the nodes between, those of its parameters excepted; ``overwrites`` says that it changes its input.
    """

    path: str
    module: nn.Module
    role: Role
    leaf: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    inside: frozenset[Any] = field(repr=False)
    overwrites: bool = False


class Wiring:
    """The calls of a network's modules in their order, the graph between them, and questions to it."""

    def __init__(self, model: nn.Module, batch: Any) -> None:
        """Runs the model on one batch in the mode it is in, leaving no trace."""
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        self.passes: list[Pass] = []
        self.paths = {id(module): path for path, module in model.named_modules()}
        self._open: list[tuple[Any, ...]] = []
        with traceless(model), torch.enable_grad():
            for p in model.parameters():
                if p.is_leaf and (p.is_floating_point() or p.is_complex()):
                    p.requires_grad_(True)
            handles: list[Any] = []
            inner = {id(m) for one in model.modules() if isinstance(one, ParametrizationList) for m in one.modules()}
            for module in (m for m in model.modules() if id(m) not in inner):
                handles.append(module.register_forward_pre_hook(self._begin, with_kwargs=True))
                handles.append(module.register_forward_hook(self._end))
            try:
                self._result = Inputs(inputs, with_gradient=True).call(model)
            finally:
                for handle in handles:
                    handle.remove()
        self._roots = _nodes(self._result)
        self._after: dict[Any, list[Any]] = {}
        for node in _below(self._roots, ()):
            for under, _ in node.next_functions:
                if under is not None:
                    self._after.setdefault(under, []).append(node)
        self._owner = {node: one for one in self.passes if one.leaf and one.role != "other" for node in one.inside}

    def layers(self) -> list[Pass]:
        """The first call of each weight layer, in their order, save those inside of torch's transformer blocks."""
        fused = [f"{path}." for path, module in self._named() if isinstance(module, FUSED)]
        found = {id(one.module): one for one in reversed(self.passes) if one.role == "weights"}
        ordered = [one for one in self.passes if found.get(id(one.module)) is one]
        return [one for one in ordered if not one.path.startswith(tuple(fused))]

    def calls(self, module: nn.Module) -> int:
        """How often a module was called."""
        return sum(one.module is module for one in self.passes)

    def hidden(self, one: Pass) -> bool:
        """Whether the output goes on into further weights and is not, as it is, one of the network's outputs.

        Where the graph is cut behind it, the order of the calls must do.
        """
        if not any(node in self._after or node in self._roots for node in one.inside):
            place = self.passes.index(one)
            return any(later.role in ("weights", "recurrent", "attention") for later in self.passes[place + 1 :])
        if self._told(one):
            return False
        queue, seen = deque(one.inside), set(one.inside)
        while queue:
            for node in self._after.get(queue.popleft(), ()):
                if node not in seen:
                    if self._kind(node) in ("weights", "attention"):
                        return True
                    seen.add(node)
                    queue.append(node)
        return False

    def next_kinds(self, one: Pass) -> set[str]:
        """What the output comes to first, on all its ways: weights, a normalization, a product of attention."""
        kinds: set[str] = set()
        queue, seen = deque(one.inside), set(one.inside)
        while queue:
            for node in self._after.get(queue.popleft(), ()):
                if node in seen:
                    continue
                seen.add(node)
                kind = self._kind(node)
                if kind:
                    kinds.add(kind)
                else:
                    queue.append(node)
        return kinds

    def normalized(self, one: Pass) -> bool:
        """Whether a normalization lies on every way from the output to further weights."""
        return "normalization" in (kinds := self.next_kinds(one)) and not kinds & {"weights", "attention"}

    def skips(self, one: Pass) -> bool:
        """Whether the output of a call holds its input by a way without weights: it has a connection already."""
        before = set(one.before)
        queue, seen = deque(one.after), set(one.after)
        while queue:
            node = queue.popleft()
            if node in before:
                return True
            if self._kind(node) in ("weights", "attention"):
                continue
            for under, _ in node.next_functions:
                if under is not None and under not in seen:
                    seen.add(under)
                    queue.append(under)
        return False

    def follower(self, one: Pass) -> Pass | None:
        """The leaf module that gets the output of a call, if nothing else does and nothing lies between."""
        if len(one.after) != 1 or one.after[0] in self._roots:
            return None
        place = self.passes.index(one)
        for later in self.passes[place + 1 :]:
            if later.leaf and later.before == one.after and later.inside:
                readers = self._after.get(one.after[0], [])
                alone = bool(readers) and all(node in later.inside for node in readers)
                return later if alone and self.calls(later.module) == 1 else None
        return None

    def readers(self, node: Any) -> list[Any]:
        """The nodes that read what a node made."""
        return self._after.get(node, [])

    def normalizes(self, node: Any) -> bool:
        """Whether a node belongs to a normalization."""
        return self._kind(node) == "normalization"

    def stream(self, total: Any) -> Any | None:
        """Of the two terms of a sum that from which the other is made, by way of weights; ``None`` if there is none."""
        branch = self._branch(total)
        return branch[0] if branch is not None else None

    def bridged(self) -> frozenset[Any]:
        """The nodes across which skips lead already, plain ones or by a single layer of their own."""
        found: set[Any] = set()
        for node in _below(self._roots, ()):
            terms = [under for under, _ in node.next_functions if under is not None]
            if of_node(node.name(), False).name != "add" or len(terms) != 2:
                continue
            one, other = (frozenset(_below([term], ())) for term in terms)
            if not any(shared.name() != ACCUMULATE for shared in one & other):
                continue  # made of different things: a bias, a second input
            for way, skip in ((one - other, other - one), (other - one, one - other)):
                if self._weights(way) > self._weights(skip) <= 1:
                    found |= way | skip
        return frozenset(found)

    def _weights(self, nodes: Iterable[Any]) -> int:
        """How many layers with weights there are among some nodes; attention of torch is one."""
        found = set()
        for node in nodes:
            owner = self._owner.get(node)
            if self._kind(node) == "weights" or (owner is not None and owner.role == "attention"):
                found.add(node if owner is None else owner)
        return len(found)

    def _branch(self, total: Any) -> tuple[Any, frozenset[Any]] | None:
        """Of a sum the term that stays as it is, and the nodes that make the other of it."""
        if of_node(total.name(), False).name != "add":
            return None
        terms = [under for under, _ in total.next_functions if under is not None]
        for one, other in (terms, terms[::-1]) if len(terms) == 2 else ():
            made = frozenset(_below([other], [one]))
            joined = any(under is one for node in made for under, _ in node.next_functions)
            if joined and self._weights(made):
                return one, made
        return None

    def weighty(self, one: Pass) -> int:
        """How many layers with weights a call goes through."""
        return self._weights(one.inside)

    def _named(self) -> Iterator[tuple[str, nn.Module]]:
        return ((one.path, one.module) for one in self.passes)

    def _told(self, one: Pass) -> bool:
        queue = deque(self._roots)
        while queue:
            node = queue.popleft()
            if node in one.inside:
                return True
            if of_node(node.name(), False).cause == "reshaping" and len(node.next_functions) == 1:
                queue.extend(under for under, _ in node.next_functions if under is not None)
        return False

    def _kind(self, node: Any) -> str:
        """``weights``, ``attention`` (a product without any) or ``normalization``; nothing for all else."""
        owner = self._owner.get(node)
        if owner is not None and owner.role in ("normalization", "attention"):
            return owner.role
        operation = of_node(node.name(), any(_made_of_parameters(under) for under, _ in node.next_functions))
        if owner is not None and owner.role in ("weights", "recurrent"):
            return "weights" if operation.cause in ("weights", "attention") else ""
        if operation.name in ("softmax", "embedding", "embedding_bag"):
            return ""
        if any(part in operation.name for part in _RECURRENT):
            return "weights"
        return operation.cause if operation.cause in ("weights", "attention", "normalization") else ""

    def _begin(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        first = next((x for _, x in tensors((args, kwargs))), None)
        version = None if first is None or first.is_inference() else first._version
        self._open.append((_nodes((args, kwargs)), _shape((args, kwargs)), first, version))

    def _end(self, module: nn.Module, _: Any, output: Any) -> None:
        before, given, first, version = self._open.pop()
        after = _nodes(output)
        inside = frozenset(node for node in _below(after, before) if node.name() != ACCUMULATE)
        role = role_of(module)
        leaf = role != "other" or not any(True for _ in module.children())
        if leaf and "norm" in type(module).__name__.lower():
            role = "normalization"  # one of the user's own
        path, overwrites = self.paths[id(module)], version is not None and first._version != version
        self.passes.append(Pass(path, module, role, leaf, given, _shape(output), before, after, inside, overwrites))


def _below(roots: Iterable[Any], stop: Iterable[Any]) -> Iterator[Any]:
    """The nodes from which some are made, themselves included, down to some others."""
    stop = set(stop)
    seen = {node for node in roots if node not in stop}
    queue = deque(seen)
    while queue:
        node = queue.popleft()
        yield node
        for under, _ in node.next_functions:
            if under is not None and under not in seen and under not in stop:
                seen.add(under)
                queue.append(under)


def _made_of_parameters(node: Any) -> bool:
    """Whether a node is a parameter of two dimensions or more, or one turned round."""
    while node is not None:
        if node.name() == ACCUMULATE:
            return isinstance(node.variable, nn.Parameter) and node.variable.ndim > 1
        if len(node.next_functions) != 1 or of_node(node.name(), False).cause != "reshaping":
            return False
        node = node.next_functions[0][0]
    return False


def _nodes(value: Any) -> tuple[Any, ...]:
    return tuple(node for _, x in tensors(value) if (node := node_of(x)) is not None)


def _shape(value: Any) -> tuple[int, ...]:
    return next((tuple(x.shape) for _, x in tensors(value)), ())
