"""What a node of autograd's graph has kept for the way back, without running anybody's hook."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def kept(node: Any, name: str) -> Tensor | None:
    """A tensor that a node has saved, ``None`` where asking for it would run somebody's hook, or where there is none.

    A checkpoint computes its part of the network again when a tensor it has put away is asked for, and does so once.

    Example:
        >>> import torch
        >>> y = torch.ones(2, requires_grad=True).exp()
        >>> kept(y.grad_fn, "result").shape, kept(y.grad_fn, "target")
        (torch.Size([2]), None)
    """
    raw = getattr(node, "_raw_saved_" + name, None)
    if raw is None or getattr(raw, "unpack_hook", kept) is not None:  # unknown to older versions of torch
        return None
    try:
        value = getattr(node, "_saved_" + name)
    except RuntimeError:  # changed in place since, or set free: the backward pass will say so
        return None
    return value.detach() if isinstance(value, Tensor) else None


def dimension(node: Any) -> int:
    """The dimension that a node has kept; autograd shows a negative one without its sign."""
    dim = int(node._saved_dim)
    return dim - 2**64 if dim >= 2**63 else dim


def shape(node: Any) -> tuple[int, ...]:
    """The shape of what a node made, empty if it does not tell."""
    known = getattr(node, "_input_metadata", None)
    return tuple(int(n) for n in known[0].shape) if known else ()
