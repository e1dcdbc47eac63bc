"""What one element of a tensor counts in the loss that it is summed, averaged and scaled to."""

from __future__ import annotations

import math
from typing import Any

import torch

from gradiometer.probe.kept import kept, shape
from gradiometer.probe.nodes import plain

_SAME = frozenset(
    """sum view unsafe_view reshape reshape_alias transpose t permute squeeze unsqueeze clone to_copy alias
    contiguous""".split()
)
_NUMBERS = (torch.float64, torch.int64)


def passed(node: Any, side: int, factor: float | None) -> float | None:
    """What an element of one of a node's inputs counts, where one of its output counts ``factor``.

    Args:
        node: of autograd's graph.
        side: which of its inputs.
        factor: of the output; ``None`` stays ``None``.

    Returns:
        ``None`` where elements count differently, or where the graph does not tell.

    Example:
        >>> import torch
        >>> y = torch.ones(3, 4, requires_grad=True)
        >>> passed((y * 2).mean().grad_fn, 0, 1.0)
        0.08333333333333333
    """
    name = plain(node.name())
    parent = node.next_functions[side][0]
    if factor is None or parent is None:
        return None
    if name in ("add", "sub"):
        alpha = getattr(node, "_saved_alpha", 1)
        same = shape(parent) == shape(node)
        return factor * ((alpha if side else 1) * (-1 if side and name == "sub" else 1)) if same else None
    if name in _SAME:
        return factor
    if name == "neg":
        return -factor
    if name == "mean":
        given = math.prod(node._saved_self_sym_sizes)
        return factor * (math.prod(shape(node)) / given) if given else None
    if name in ("mul", "div") and not (name == "div" and side):
        other = _constant(node, side)
        if not other:
            return None
        return factor * other if name == "mul" else factor / other
    return None


def _constant(node: Any, side: int) -> float | None:
    """The number that a node multiplies or divides with, if it is one of Python's.

    Those become tensors of the widest types. A tensor of another type may be the factor of a gradient scaler, by which
    the gradients are divided again.
    """
    if any(parent is not None for k, (parent, _) in enumerate(node.next_functions) if k != side):
        return None
    name = "self" if side else "other"
    if hasattr(node, "_raw_saved_" + name):
        value = kept(node, name)
        if value is None or value.dim() or value.device.type != "cpu" or value.dtype not in _NUMBERS:
            return None
        return float(value)
    value = getattr(node, "_saved_" + name, None)
    return float(value) if isinstance(value, (int, float)) else None
