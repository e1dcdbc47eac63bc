"""Where a loss that is not finite came from, in a step that nobody was looking at.

Its graph is still there when ``backward`` is called on it, with what the operations have kept for the way back. Read in
the order in which they ran, these tensors show where the first NaN or Inf stands.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradiometer.probe.explanation import at_the_edge, count, explain, is_mask, nonfinite, numbers
from gradiometer.probe.graph import ACCUMULATE
from gradiometer.probe.nodes import of_node, plain
from gradiometer.probe.roster import Roster
from gradiometer.records import Birth, Reading

LIMIT = 20_000
"""Nodes of a graph that are read; reading takes about as long as the pass that made them, once in a training."""

_RAW, _SAVED = "_raw_saved_", "_saved_"
_VIEWS = ("t", "transpose", "to_copy", "view", "permute", "expand", "unsqueeze", "reshape_alias")
_NEAR = 3  # edges between an operation and its own parameter: a transpose, a cast


class Aftermath:
    """Finds out where the first loss that is not finite came from, once in a training, and makes a reading of it."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self._found: tuple[Birth | None, float] | None = None
        self._told = False

    def look(self, root: Tensor, roster: Roster) -> None:
        """Looks at a loss on the CPU before its backward pass; elsewhere asking for its value would stop the queue."""
        if self._found is None and root.device.type == "cpu" and root.numel() == 1 and not math.isfinite(root.item()):
            self._found = born(root, roster.parameter_names), float(root.detach())

    def reading(self, number: int, step: int, time: float, level: str) -> Reading | None:
        """What was found, as the reading of the step that it ends, once."""
        if self._found is None or self._told:
            return None
        self._told = True
        birth, loss = self._found
        return None if birth is None else Reading(step, number, time, loss, 1.0, level, 1, (), (), birth=birth)


@torch.no_grad()
def born(root: Tensor, parameters: Mapping[int, str]) -> Birth | None:
    """The first operation below a loss that made something that is not finite.

    Args:
        root: the loss, before the backward pass.
        parameters: ``id`` of each parameter to its name.

    Returns:
        What is known of it; ``None`` if nothing is, or if a parameter was not finite before.

    Example:
        >>> w = torch.ones(2, requires_grad=True)
        >>> found = born((w - 1).log().sum(), {id(w): "w"})
        >>> found.operation, found.site
        ('log', 'log after w')
    """
    nodes = _in_order(root.grad_fn)
    if any(nonfinite(node.variable) for node in nodes if node.name() == ACCUMULATE):
        return None
    for node in nodes:
        if node.name() == ACCUMULATE:
            continue
        given, made = _kept(node)
        name = of_node(node.name(), has_parameter=bool(_own(node, parameters))).name
        bad = next((x for x in given if nonfinite(x) and not is_mask(x)), None)
        if bad is not None:
            maker = _maker(node)
            if maker is None:
                return Birth("forward", "input", "input", f"the batch holds {count(bad)}")
            what = of_node(maker.name(), has_parameter=bool(_own(maker, parameters))).name
            return Birth(
                "forward", _place(maker, what, parameters), what, *explain(what, _kept(maker)[0], form=bad.dtype)
            )
        if at_the_edge(name, given) or any(nonfinite(x) and not is_mask(x) for x in made):
            return Birth("forward", _place(node, name, parameters), name, *explain(name, given, form=root.dtype))
    return None


def _in_order(root: Any) -> list[Any]:
    """The nodes of a graph in the order in which they were made."""
    seen: set[Any] = set()
    stack = [root]
    while stack and len(seen) < LIMIT:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(target for target, _ in node.next_functions)
    return sorted(seen, key=lambda node: node._sequence_nr())


def _kept(node: Any) -> tuple[list[Tensor], list[Tensor]]:
    """What a node has kept of its inputs and of its results, but for what somebody's hook would have to unpack."""
    given: list[Tensor] = []
    made: list[Tensor] = []
    for name in dir(node):
        if not name.startswith(_RAW):
            continue
        short = name.removeprefix(_RAW)
        raw = getattr(node, name)
        if getattr(raw, "unpack_hook", _kept) is not None:  # one that older versions of torch do not tell of counts too
            continue
        try:
            tensors = numbers([getattr(node, _SAVED + short)])
        except RuntimeError:
            continue
        (made if short.startswith(("result", "out")) else given).extend(tensors)
    return given, made


def _own(node: Any, parameters: Mapping[int, str]) -> str | None:
    """The name of the parameter that an operation works with, ``None`` if it has none."""
    queue = deque((target, 1) for target, _ in node.next_functions)
    while queue:
        target, depth = queue.popleft()
        if target is None:
            continue
        if target.name() == ACCUMULATE:
            if id(target.variable) in parameters:
                return parameters[id(target.variable)]
        elif depth < _NEAR and plain(target.name()) in _VIEWS:
            queue.extend((further, depth + 1) for further, _ in target.next_functions)
    return None


def _maker(node: Any) -> Any:
    """The operation whose output a node got, the last that ran if there are several; ``None`` for the batch."""
    parents = [target for target, _ in node.next_functions if target is not None and target.name() != ACCUMULATE]
    parents = [p for p in parents if not _of_a_parameter(p)]
    return max(parents, key=lambda p: p._sequence_nr(), default=None)


def _of_a_parameter(node: Any) -> bool:
    """Whether this is a parameter as a layer takes it: transposed, cast, expanded."""
    return plain(node.name()) in _VIEWS and all(
        target is None or target.name() == ACCUMULATE or _of_a_parameter(target) for target, _ in node.next_functions
    )


def _place(node: Any, operation: str, parameters: Mapping[int, str]) -> str:
    """A layer's own name, or the operation and the layer that it comes after."""
    own = _own(node, parameters)
    if own is not None and of_node(node.name(), has_parameter=True).cause in ("weights", "normalization"):
        return own.rpartition(".")[0] or own
    queue = deque([node])
    seen: set[Any] = set()
    while queue:
        at = queue.popleft()
        if at in seen or at is None:
            continue
        seen.add(at)
        if at.name() == ACCUMULATE:
            if id(at.variable) in parameters:
                name = parameters[id(at.variable)]
                return f"{operation} after {name.rpartition('.')[0] or name}"
            continue
        queue.extend(target for target, _ in at.next_functions)
    return operation
