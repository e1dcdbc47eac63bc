"""Whether the probabilities that a cross-entropy gets are those of the classes: they then sum to one over them.

A softmax over another dimension leaves a loss of the right shape. Which dimension it ran over cannot be followed
through every view in between, and sizes may be equal by chance; the sums cannot be.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradiometer.measures import Scalar
from gradiometer.probe.comparing import scalar
from gradiometer.probe.nodes import plain

_WHOLE = frozenset(
    """view unsafe_view reshape reshape_alias transpose t permute squeeze unsqueeze expand clone to_copy alias
    contiguous""".split()
)
_PART = frozenset(("slice", "select", "index", "narrow", "split", "unsafe_split", "split_with_sizes", "unbind"))
_RAISED = frozenset(("add", "clamp", "clamp_min"))  # softmax(x) + 1e-8, so that the logarithm is finite

_ELEMENTS = 1 << 16  # that are summed: one example already shows it
_WAY = 32


def sums(node: Any, output: Tensor, target: Tensor) -> dict[str, Scalar]:
    """Smallest and largest sum over the classes of what a loss takes for log-probabilities, of the first examples.

    Only where they come straight from a ``log_softmax``, or from the logarithm of a softmax. Of classes that were
    chosen among more a sum below one says nothing, and of probabilities that were raised one above: it counts as one.

    Args:
        node: of the loss.
        output: what it takes, the classes along dimension 1, or 0 of a single example.
        target: the indices of classes. One example is each class in turn where every example is held against all
            others: of such pairs the softmax may run over either dimension.
    """
    way = _way(node)
    if way is None or not output.numel():
        return {}
    part, raised = way
    dim = 1 if output.dim() > 1 else 0
    low, high = total(output, dim)
    if part:
        low = low.clamp(min=1)
    if raised:
        high = high.clamp(max=1)
    if output.dim() == 2 and output.shape[0] == output.shape[1]:
        pairs = (target == torch.arange(len(target), device=target.device)).all()
        low, high = (torch.where(pairs, 1.0, x) for x in (low, high))
    return {"sum_min": scalar(low), "sum_max": scalar(high)}


def total(logs: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest sum over a dimension of the exponentials of a few elements."""
    few = first(logs, dim).float().exp().sum(dim)
    return few.amin(), few.amax()


def first(x: Tensor, dim: int) -> Tensor:
    """The beginning of a tensor along all dimensions but one, of about `_ELEMENTS` elements."""
    room = max(_ELEMENTS // max(x.shape[dim], 1), 1)
    for k in range(x.dim() - 1, -1, -1):
        if k == dim % x.dim():
            continue
        take = min(x.shape[k], room)
        x, room = x.narrow(k, 0, take), max(room // max(take, 1), 1)
    return x


def _way(node: Any) -> tuple[bool, bool] | None:
    """Whether classes may have been left out, and probabilities raised, between a softmax and a loss."""
    part = raised = logarithm = False
    for _ in range(_WAY):
        node = node.next_functions[0][0] if node.next_functions else None
        if node is None:
            return None
        name = plain(node.name())
        if name in _PART:
            part = True
        elif name == "log" and not logarithm:
            logarithm = True
        elif name in _RAISED and logarithm:
            raised = True
        elif name not in _WHOLE:
            found = (name == "softmax" and logarithm) or (name == "log_softmax" and not logarithm)
            return (part, raised) if found else None
    return None
