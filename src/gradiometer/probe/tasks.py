"""The losses that a backward pass begins from, and what they compare, read off autograd's graph.

Loss functions of torch keep their inputs in their node, so that outputs and targets are seen without a word from the
user, and without having been there when the loss was computed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradiometer.measures import Scalar, around_center, binary_entropy, class_entropy, resolve
from gradiometer.probe.nodes import of_node, plain
from gradiometer.records import Task

_LIMIT = 32
_DEPTH = 4  # operations before the loss that are named
_SUM = 2  # what autograd calls reduction="sum"

_VIEWS = frozenset(
    """view unsafe_view reshape reshape_alias transpose t permute squeeze unsqueeze expand select slice clone to_copy
    alias contiguous as_strided index""".split()
)
_REDUCING = frozenset(("mean", "sum", "div", "mul", "neg"))  # between a loss and what backward is called on

_RANGES = {
    "relu": (0.0, math.inf), "sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0), "hardsigmoid": (0.0, 1.0), "softplus": (0.0, math.inf),
}  # fmt: skip


def _huber(node: Any) -> Callable[[Tensor], Tensor]:
    delta = node._saved_delta
    return lambda d: torch.where(d.abs() < delta, d.square() / 2, delta * (d.abs() - delta / 2))


def _smooth(node: Any) -> Callable[[Tensor], Tensor]:
    beta = node._saved_beta
    return lambda d: torch.where(d.abs() < beta, d.square() / (2 * beta), d.abs() - beta / 2) if beta else d.abs()


_DIFFERENCES: dict[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "mse_loss": lambda _: torch.square,
    "huber_loss": _huber,
    "smooth_l1_loss": _smooth,
}
_BY_HAND = {"pow": "mse_loss", "abs": "l1_loss"}  # (y - t) ** 2 and |y - t|, which is how torch writes l1_loss too
_CLASSES = ("nll_loss", "nll_loss2d")
_BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
_LOSSES = {*_DIFFERENCES, *_CLASSES, *_BINARY}


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
    queue = deque([(root.grad_fn, True)])
    seen: set[Any] = set()
    while queue and len(seen) < _LIMIT:
        node, direct = queue.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = plain(node.name())
        if name in _LOSSES:
            draft = _draft(node, name, direct and len(seen) == 1)
            if draft is not None:
                out.append(draft)
        elif name in _BY_HAND and (difference := _difference(node)) is not None:
            plain_loss = len(seen) <= 2 and all(plain(n.name()) in (name, "mean") for n in seen)
            out.append(_by_hand(_BY_HAND[name], node, difference, plain_loss, output))
        elif direct or name in _VIEWS or name in ("add", "sub", *_REDUCING):
            queue.extend((parent, False) for parent, _ in node.next_functions)
    return out


def read(drafts: list[_Draft]) -> tuple[Task, ...]:
    """The same with their numbers, in one transfer."""
    values = iter(resolve(v for draft in drafts for v in draft.numbers.values()))
    tasks = []
    for task, numbers in drafts:
        found = {name: next(values) for name in numbers}
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
            )
        )
    return tuple(tasks)


def _pair(found: dict[str, float], low: str, high: str) -> tuple[float, float] | None:
    return (found[low], found[high]) if low in found else None


def _draft(node: Any, name: str, direct: bool) -> _Draft | None:
    saved = _saved(node)
    if saved is None:
        return None
    output, target = saved
    before, width = _before(node)
    examples = target.numel() if name in _CLASSES else (target.shape[0] if target.dim() else 1)
    stretched = any(
        n > 1 and s == 0 for x in (output, target) for n, s in zip(x.shape, x.stride(), strict=True)
    ) and name in (*_DIFFERENCES, *_BINARY)
    numbers: dict[str, Scalar] = {}
    if target.numel() and target.device.type != "meta":
        numbers = _numbers(node, name, output, target, stretched)
        low, high = _range(node, next((b for b in before if b != "dropout"), ""))
        if name in _DIFFERENCES and (math.isfinite(low) or math.isfinite(high)):
            numbers["beyond"] = _scalar((target - target.clamp(low, high)).float().square().mean().sqrt())
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
    shape = _shape(difference)
    sides = [_shape(parent) for parent, _ in difference.next_functions if parent is not None]
    n = shape[0] if shape else 1
    # N outputs against N targets of another shape are N times N pairs; other shapes may be meant to be broadcast.
    pairs = n > 1 and shape == (n, n) and bool(sides) and sides[0] in ((n,), (n, 1))
    before, width = _before(difference)
    task = Task(loss, before, n, width, broadcast=pairs, direct=direct)
    target = _other_side(node, difference, output)
    if output is None or target is None:
        return _Draft(task, {})
    cost = torch.square if loss == "mse_loss" else torch.abs
    numbers: dict[str, Scalar] = {"guess": around_center(target, cost), **_range_and_spread(output, target)}
    return _Draft(task, numbers)


def _other_side(node: Any, difference: Any, output: Tensor | None) -> Tensor | None:
    """The targets, from the difference that a node has kept and the output that went into it."""
    hook = getattr(getattr(node, "_raw_saved_self", None), "unpack_hook", _saved)
    if output is None or output.grad_fn is None or hook is not None:
        return None
    sides = [parent for parent, _ in difference.next_functions]
    try:
        d = node._saved_self.detach()
    except RuntimeError:
        return None
    if output.grad_fn not in sides or d.shape != output.shape or d.is_complex():
        return None
    y = output.detach()
    return y - d if sides[0] is output.grad_fn else y + d


def _range_and_spread(output: Tensor, target: Tensor) -> dict[str, Scalar]:
    return {
        "target_min": _scalar(target.amin()),
        "target_max": _scalar(target.amax()),
        "target_spread": _spread(target),
        "output_spread": _spread(output.detach()),
        "output_min": _scalar(output.amin()),
        "output_max": _scalar(output.amax()),
    }


def _shape(node: Any) -> tuple[int, ...]:
    """The shape of what a node made, empty if it does not tell."""
    known = getattr(node, "_input_metadata", None)
    return tuple(int(n) for n in known[0].shape) if known else ()


def _range(node: Any, activation: str) -> tuple[float, float]:
    """What an activation before a loss can give; a clipped one keeps its bounds in its node (ReLU6 is one of them)."""
    if activation == "hardtanh":
        while node is not None and plain(node.name()) != "hardtanh":
            node = node.next_functions[0][0]
        if node is not None:
            return float(node._saved_min_val), float(node._saved_max_val)
    return _RANGES.get(activation, (-math.inf, math.inf))


def _numbers(node: Any, name: str, output: Tensor, target: Tensor, stretched: bool) -> dict[str, Scalar]:
    whole = node._saved_reduction == _SUM
    even = math.nan  # what answering all classes alike costs: too small a batch says nothing of their frequencies
    if name in _CLASSES:
        # Elsewhere counting classes would stop the queue: there all count as equally frequent.
        counted = target.device.type == "cpu"
        guess = class_entropy(target, node._saved_ignore_index) if counted else math.nan
        even = math.log(output.shape[1] if output.dim() > 1 else output.shape[0])
        valid = target != node._saved_ignore_index
        count = valid.sum() if whole else 1.0
        last = output.shape[1] - 1 if output.dim() > 1 else output.shape[0] - 1
        low, high = torch.where(valid, target, last).amin(), torch.where(valid, target, 0).amax()
        numbers: dict[str, Scalar] = {"target_min": _scalar(low), "target_max": _scalar(high)}
        if node._saved_weight is not None:
            guess = even = math.nan  # weighted classes have another best constant
    else:
        numbers = {"target_min": _scalar(target.amin()), "target_max": _scalar(target.amax())}
        numbers |= {"target_spread": _spread(target), "output_spread": _spread(output)}
        count = float(target.numel()) if whole else 1.0
        if name in _BINARY:
            weighted = node._saved_weight is not None or getattr(node, "_saved_pos_weight", None) is not None
            guess, even = (math.nan, math.nan) if weighted else (binary_entropy(target), math.log(2))
        else:
            # Of targets that were stretched nobody knows any more which dimension counts the examples.
            guess = math.nan if stretched else around_center(target, _DIFFERENCES[name](node))
    return numbers | {
        "guess": guess,
        "even": even,
        "count": _scalar(count),
        "output_min": _scalar(output.amin()),
        "output_max": _scalar(output.amax()),
    }


def _spread(x: Tensor) -> Scalar:
    if not x.dim() or x.shape[0] < 2:
        return math.nan
    x = x.float() if x.dtype not in (torch.float32, torch.float64) else x
    return _scalar((x - x.mean(0)).square().mean().sqrt())


def _scalar(x: Tensor | float) -> Scalar:
    if not isinstance(x, Tensor):
        return x
    x = x.detach()
    return float(x) if x.device.type == "cpu" else x.float()


def _saved(node: Any) -> tuple[Tensor, Tensor] | None:
    """What the loss compares, ``None`` where asking for it would run somebody's hook.

    A checkpoint computes its part of the network again when a tensor it has put away is asked for, and does so once.
    """
    for name in ("_raw_saved_self", "_raw_saved_target"):
        hook = getattr(getattr(node, name, None), "unpack_hook", _saved)  # unknown to older versions of torch
        if hook is not None:
            return None
    try:
        return node._saved_self.detach(), node._saved_target.detach()
    except RuntimeError:  # changed in place since: the backward pass will say so
        return None


def _before(node: Any) -> tuple[tuple[str, ...], int | None]:
    """Operations just before a loss, along its first input, and the size of the first softmax among them."""
    names: list[str] = []
    width: int | None = None
    parent = node.next_functions[0][0] if node.next_functions else None
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
        parent = parent.next_functions[0][0] if parent.next_functions else None
    return tuple(names), width


def _size(node: Any) -> int | None:
    raw = getattr(node, "_raw_saved_result", None)
    if raw is None or getattr(raw, "unpack_hook", _size) is not None:
        return None
    try:
        result = node._saved_result
    except RuntimeError:  # changed in place since, or set free: the backward pass will say so
        return None
    dim = node._saved_dim
    dim = dim - 2**64 if dim >= 2**63 else dim  # autograd shows a negative one without its sign
    return result.shape[dim] if result.dim() else 1
