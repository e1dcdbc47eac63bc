"""The losses that a backward pass begins from, and what they compare, read off autograd's graph.

Loss functions of torch keep their inputs in their node, so that outputs and targets are seen without a word from the
user, and without having been there when the loss was computed.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradiometer.measures import Scalar, around_center, resolve
from gradiometer.probe.comparing import (
    BINARY,
    CLASSES,
    DIFFERENCES,
    LOSSES,
    compared,
    range_and_spread,
    range_of,
    scalar,
)
from gradiometer.probe.kept import dimension, kept, shape
from gradiometer.probe.nodes import of_node, plain
from gradiometer.probe.normalized import sums
from gradiometer.probe.pairing import paired
from gradiometer.probe.reducing import passed
from gradiometer.probe.weighing import DIVERGENCE, SOFT, Weighing, judged, weighing
from gradiometer.probe.weighing import numbers as weighing_numbers
from gradiometer.records import Task

_LIMIT = 32
_DEPTH = 4  # operations before the loss that are named

_VIEWS = frozenset(
    """view unsafe_view reshape reshape_alias transpose t permute squeeze unsqueeze expand select slice clone to_copy
    alias contiguous as_strided index""".split()
)
_REDUCING = frozenset(("mean", "sum", "div", "mul", "neg"))  # between a loss and what backward is called on

_BY_HAND = {"pow": "mse_loss", "abs": "l1_loss"}  # (y - t) ** 2 and |y - t|, which is how torch writes l1_loss too


class _Draft(NamedTuple):
    """A task whose numbers may still lie on the device."""

    task: Task
    numbers: dict[str, Scalar]


def find(root: Tensor, output: Tensor | None = None) -> list[_Draft]:
    """The losses among the operations that lead to a tensor; nothing is read from the device.

    Args:
        root: what backward is called on.
        output: what the model gave last; without it a difference that was taken by hand does not tell its targets.

    Example:
        >>> y = torch.tensor([[1.0], [3.0]], requires_grad=True)
        >>> found = read(find(torch.nn.functional.mse_loss(y.relu(), torch.tensor([[0.0], [2.0]]))))
        >>> found[0].loss, found[0].before, found[0].guess
        ('mse_loss', ('relu',), 2.0)
    """
    out: list[_Draft] = []
    queue: deque[tuple[Any, bool, float | None]] = deque([(root.grad_fn, True, 1.0)])
    seen: set[Any] = set()
    alone = True  # whether nothing was added so far
    while queue and len(seen) < _LIMIT:
        node, direct, factor = queue.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = plain(node.name())
        if name in LOSSES:
            draft = _draft(node, name, direct and len(seen) == 1)
            if draft is not None:
                out.append(draft)
        elif name in _BY_HAND and (difference := _difference(node)) is not None:
            plain_loss = len(seen) <= 2 and all(plain(n.name()) in (name, "mean") for n in seen)
            out.append(_by_hand(_BY_HAND[name], node, difference, plain_loss, output))
        elif direct or name in _VIEWS or name in ("add", "sub", *_REDUCING):
            if name in ("sub", "mul") and (weighed := weighing(node, output)) is not None:
                out.append(_weighed(weighed, factor, alone))
                seen.add(weighed.product)
            elif name == "mul" and factor is not None and (pairs := _paired(node)) is not None:
                out.append(pairs)
            parents = [parent for parent, _ in node.next_functions]
            alone = alone and sum(parent is not None for parent in parents) < 2
            queue.extend((parent, False, passed(node, k, factor)) for k, parent in enumerate(parents))
    return out


def read(drafts: list[_Draft]) -> tuple[Task, ...]:
    """The same with their numbers, in one transfer."""
    values = iter(resolve(v for draft in drafts for v in draft.numbers.values()))
    tasks = []
    for task, numbers in drafts:
        found = {name: next(values) for name in numbers}
        if task.loss in (DIVERGENCE, SOFT):
            probabilities = judged(task.loss, found)
            if probabilities is None:
                continue
            found = probabilities
        guess = found.get("guess", math.nan)
        if math.isnan(guess) and "even" in found:
            guess = found["even"]
        tasks.append(
            Task(
                loss=task.loss,
                before=task.before,
                examples=task.examples,
                width=task.width,
                guess=None if math.isnan(guess) else guess * (found.get("count", 1.0)),
                outputs=_pair(found, "output_min", "output_max"),
                targets=_pair(found, "target_min", "target_max"),
                spread=_pair(found, "output_spread", "target_spread"),
                beyond=found.get("beyond", 0.0),
                broadcast=task.broadcast,
                direct=task.direct,
                sums=_pair(found, "sum_min", "sum_max"),
            )
        )
    return tuple(tasks)


def _pair(found: dict[str, float], low: str, high: str) -> tuple[float, float] | None:
    return (found[low], found[high]) if low in found else None


def _draft(node: Any, name: str, direct: bool) -> _Draft | None:
    output, target = kept(node, "self"), kept(node, "target")
    if output is None or target is None:
        return None
    before, width = _before(_first(node))
    examples = target.numel() if name in CLASSES else (target.shape[0] if target.dim() else 1)
    stretched = any(
        n > 1 and s == 0 for x in (output, target) for n, s in zip(x.shape, x.stride(), strict=True)
    ) and name in (*DIFFERENCES, *BINARY)
    numbers: dict[str, Scalar] = {}
    if target.numel() and target.device.type != "meta":
        numbers = compared(node, name, output, target, stretched)
        if name in CLASSES:
            numbers |= sums(node, output, target)
        low, high = range_of(node, next((b for b in before if b != "dropout"), ""))
        if name in DIFFERENCES and (math.isfinite(low) or math.isfinite(high)):
            numbers["beyond"] = scalar((target - target.clamp(low, high)).float().square().mean().sqrt())
    loss = "nll_loss" if name == "nll_loss2d" else name
    task = Task(loss, before, examples, width, broadcast=stretched, direct=direct)
    return _Draft(task, numbers)


def _difference(node: Any) -> Any:
    """The subtraction that a node squares or makes positive, ``None`` if it does something else."""
    parent = node.next_functions[0][0]
    squared = plain(node.name()) != "pow" or getattr(node, "_saved_exponent", None) == 2
    return parent if squared and parent is not None and plain(parent.name()) == "sub" else None


def _by_hand(loss: str, node: Any, difference: Any, direct: bool, output: Tensor | None) -> _Draft:
    """Of a difference taken by hand the shapes are known, and with the model's output the targets as well."""
    made = shape(difference)
    sides = [shape(parent) for parent, _ in difference.next_functions if parent is not None]
    n = made[0] if made else 1
    # N outputs against N targets of another shape are N times N pairs; other shapes may be meant to be broadcast.
    pairs = n > 1 and made == (n, n) and bool(sides) and sides[0] in ((n,), (n, 1))
    before, width = _before(_first(difference))
    task = Task(loss, before, n, width, broadcast=pairs, direct=direct)
    target = _other_side(node, difference, output)
    if output is None or target is None:
        return _Draft(task, {})
    cost = torch.square if loss == "mse_loss" else torch.abs
    numbers: dict[str, Scalar] = {"guess": around_center(target, cost), **range_and_spread(output, target)}
    return _Draft(task, numbers)


def _other_side(node: Any, difference: Any, output: Tensor | None) -> Tensor | None:
    """The targets, from the difference that a node has kept and the output that went into it."""
    if output is None or output.grad_fn is None:
        return None
    sides = [parent for parent, _ in difference.next_functions]
    if output.grad_fn not in sides:
        return None
    d = kept(node, "self")
    if d is None or d.shape != output.shape or d.is_complex():
        return None
    y = output.detach()
    return y - d if sides[0] is output.grad_fn else y + d


def _weighed(found: Weighing, factor: float | None, alone: bool) -> _Draft:
    """Weighed log-probabilities; what a constant answer costs is in the unit of the loss that backward is called on."""
    before, width = _before(found.below)
    count = width or found.weights.shape[-1]
    task = Task(found.loss, before, found.weights.numel() // max(count, 1), width, direct=alone and factor is not None)
    return _Draft(task, weighing_numbers(found, factor))


def _paired(node: Any) -> _Draft | None:
    """A product of constants and outputs that pairs each with all; of its shapes alone."""
    sides = [k for k, (parent, _) in enumerate(node.next_functions) if parent is not None]
    if len(sides) != 1 or len(node.next_functions) != 2:
        return None
    before, width = _before(node.next_functions[sides[0]][0])
    n = paired(node, sides[0], before)
    return None if n is None else _Draft(Task("mul", before, n, width, broadcast=True, direct=False), {})


def _first(node: Any) -> Any:
    return node.next_functions[0][0] if node.next_functions else None


def _before(parent: Any) -> tuple[tuple[str, ...], int | None]:
    """Operations just before a loss, beginning with this one, and the size of the first softmax among them.

    They follow each other along their first inputs.
    """
    names: list[str] = []
    width: int | None = None
    for _ in range(_LIMIT):
        if parent is None or len(names) >= _DEPTH or parent.name() == "torch::autograd::AccumulateGrad":
            break
        name = plain(parent.name())
        if name not in _VIEWS:
            names.append(of_node(parent.name(), True).name)
        if name in ("log_softmax", "softmax") and width is None:
            width = _size(parent)
        # Of a layer that has a bias the bias is the first input: beyond a layer nothing is asked for.
        if of_node(parent.name(), True).cause == "weights":
            break
        parent = _first(parent)
    return tuple(names), width


def _size(node: Any) -> int | None:
    result = kept(node, "result")
    if result is None:
        return None
    return result.shape[dimension(node)] if result.dim() else 1
