"""Autograd's graph below a loss, laid out so that every gradient in it can be measured.

A *knot* is a node of the graph, a *key* one of its outputs (a tensor of the forward pass), a *group* the knots that one
operation is made of. Gradients enter a group at its keys and leave it at the keys of other groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from gradiometer.probe.graph import ACCUMULATE
from gradiometer.probe.ledger.calls import Call, CallLog
from gradiometer.probe.nodes import of_node
from gradiometer.probe.operations import PRODUCTS, Operation


class Knot:
    """A node of the graph: what it leads to, what uses its outputs, and the parameter if it is the end at one.

    ``signal`` says that it carries what the network computes from its input, and not only from its parameters.
    """

    __slots__ = ("consumers", "edges", "group", "node", "number", "parameter", "signal")

    def __init__(self, node: Any) -> None:
        """``edges`` and ``consumers`` are filled when all knots are there."""
        self.node = node
        self.number: int = node._sequence_nr()
        self.edges: list[tuple[Knot | None, int]] = []
        self.consumers: dict[int, list[Knot]] = {}
        self.parameter: Tensor | None = node.variable if node.name() == ACCUMULATE else None
        self.signal = False
        self.group: Group | None = None


Key = tuple[Knot, int]


class Group:
    """The knots of one operation, with its name and place."""

    __slots__ = ("base", "call", "knots", "model", "operation")

    def __init__(self, operation: Operation, model: str, base: str, call: Call | None) -> None:
        """``base`` is the name of its site, without the number of the call."""
        self.operation = operation
        self.model = model
        self.base = base
        self.call = call
        self.knots: list[Knot] = []

    def leads_to(self) -> set[Key]:
        """The tensors of other groups to which its gradient goes."""
        return {
            (target, nr)
            for knot in self.knots
            for target, nr in knot.edges
            if target is not None and target.signal and target.group is not self
        }

    def of_parameters(self) -> Iterator[Tensor]:
        """The parameters it uses, the largest first."""
        ends = (end for knot in self.knots for end in parameters_below(knot))
        yield from sorted({id(p): p for p in ends}.values(), key=lambda p: -p.numel())


class Layout:
    """All knots below a loss, those nearest to the input first, and the groups they form."""

    def __init__(self, root: Tensor, log: CallLog, inputs: Sequence[Any] = ()) -> None:
        """``inputs`` are the nodes at which the network's input enters, where it is known to autograd."""
        self.log = log
        self.knots = _walk(root.grad_fn)
        self.root: Key = (self.knots[-1], root.output_nr)
        for knot in self.knots:
            for target, nr in knot.edges:
                if target is not None:
                    target.consumers.setdefault(nr, []).append(knot)
        self._mark_signal(set(inputs))
        self.groups = self._group(set(inputs))

    def release(self) -> None:
        """Lets go of the graph; knots and groups point at each other, and would wait for the garbage collector."""
        for knot in self.knots:
            knot.node = knot.group = knot.parameter = None
            knot.edges, knot.consumers = [], {}
        self.knots, self.groups = [], []

    def _mark_signal(self, inputs: set[Any]) -> None:
        calls = {knot: self.log.call_of(knot.number) for knot in self.knots}
        members: dict[Call, list[Knot]] = {}
        for knot, call in calls.items():
            if call is not None and not call.composite:
                members.setdefault(call, []).append(knot)
        for knot in self.knots:
            call = calls[knot]
            knot.signal = knot.parameter is None and (
                knot.node in inputs
                or any(t is not None and t.signal for t, _ in knot.edges)
                or self._begins(knot, call, members.get(call, []) if call is not None else [])
            )
        if not any(knot.signal for knot in self.knots):  # data without a gradient in an operation that nobody knows
            for knot in self.knots:
                knot.signal = any(t is None for t, _ in knot.edges) and any(t is not None for t, _ in knot.edges)
        self._mark_given({call.given for call in members if call.given is not None})
        for knot in self.knots:
            knot.signal = knot.signal or any(t is not None and t.signal for t, _ in knot.edges)

    def _mark_given(self, asked: set[Any]) -> None:
        """What a layer is given as its input is signal, also if it is made of parameters (a table, a learned query)."""
        stack = [knot for knot in self.knots if knot.node in asked and not knot.signal]
        while stack:
            knot = stack.pop()
            if knot.parameter is None and not knot.signal:
                knot.signal = True
                stack.extend(t for t, _ in knot.edges if t is not None)

    def _begins(self, knot: Knot, call: Call | None, members: list[Knot]) -> bool:
        """Whether a knot is the first operation with weights, on data that has no gradient itself.

        ``members`` are the knots of its call, if that is one operation.
        """
        operation = call.operation if call is not None and members else of_node(knot.node.name(), has_parameter=True)
        if operation.cause != "weights" or (call is not None and ".parametrizations." in f".{call.base}."):
            return False
        if members and knot is not self.root[0]:
            using = [c for users in knot.consumers.values() for c in users]
            if all(c in members for c in using):
                return False  # the transposed weight, inside of the call
        if operation.name.startswith("embedding") or (call is not None and call.given is True):
            return True
        return any(t is None for k in members or [knot] for t, _ in k.edges)

    def _group(self, inputs: set[Any]) -> list[Group]:
        """The groups, nearest to the loss first."""
        groups: dict[Any, Group] = {}
        for knot in reversed(self.knots):
            if knot.signal:
                knot.group = self._group_of(knot, groups, knot.node in inputs)
                knot.group.knots.append(knot)
        for group in groups.values():
            if group.operation.name in PRODUCTS and any(_weighs(knot) for knot in group.knots):
                group.operation = group.operation._replace(cause="weights")
        return list(groups.values())

    def _group_of(self, knot: Knot, groups: dict[Any, Group], is_input: bool) -> Group:
        call = self.log.call_of(knot.number)
        if call is not None and not call.composite:
            return groups.setdefault(call, Group(call.operation, call.model, call.base, call))
        operation = of_node(knot.node.name(), any(t is not None and not t.signal for t, _ in knot.edges))
        if is_input:
            return groups.setdefault(knot, Group(operation, "", "input", None))
        if call is not None:
            return groups.setdefault(knot, Group(operation, call.model, f"{call.base}:{operation.name}", call))
        scope = self.log.scope_of(knot.number)
        if scope is not None:
            if scope.path == "loss":
                operation = operation._replace(cause="loss")
            return groups.setdefault(knot, Group(operation, scope.model, f"{scope.path}:{operation.name}", None))
        if knot.number >= self.log.ended:  # whatever comes after the last module
            return groups.setdefault(
                knot, Group(operation._replace(cause="loss"), "loss", f"loss:{operation.name}", None)
            )
        return groups.setdefault(knot, Group(operation, "", operation.name, None))


def _weighs(knot: Knot) -> bool:
    """Whether what a knot multiplies with is made of parameters."""
    return any(t is not None and not t.signal for t, _ in knot.edges)


def _walk(first: Any) -> list[Knot]:
    """All knots that a node leads to, each after those it leads to."""
    knots: dict[Any, Knot] = {}
    order: list[Knot] = []
    stack: list[tuple[Any, bool]] = [(first, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(knots[node])
        elif node not in knots:
            knots[node] = Knot(node)
            stack.append((node, True))
            stack.extend((target, False) for target, _ in node.next_functions if target is not None)
    for knot in order:
        knot.edges = [(None if target is None else knots[target], nr) for target, nr in knot.node.next_functions]
    return order


def parameters_below(knot: Knot) -> Iterator[Tensor]:
    """The parameters that a knot uses without the signal passing between: its weight, or what the weight is made of."""
    seen: set[Knot] = set()
    stack = [target for target, _ in knot.edges if target is not None and not target.signal]
    while stack:
        end = stack.pop()
        if end in seen:
            continue
        seen.add(end)
        if end.parameter is not None:
            yield end.parameter
        stack.extend(target for target, _ in end.edges if target is not None)
