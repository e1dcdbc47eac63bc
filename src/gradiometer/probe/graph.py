"""Which operations lie between the model's output and the loss, read off autograd's graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from typing import Any

from torch import Tensor

from gradiometer.probe.nodes import plain

ACCUMULATE = "torch::autograd::AccumulateGrad"

LIMIT = 64
"""A loss is a handful of operations; a longer walk is inside something that is not ours to explain."""


def loss_operations(root: Tensor, known: Container[object]) -> tuple[str, ...]:
    """Names of the nodes from the loss down to the nodes that are measured already, breadth first.

    Args:
        root: what backward is called on.
        known: nodes of the graph at which to stop.

    Returns:
        Names such as ``("nll_loss", "log")``, the loss first; empty if nothing that is known is ever met.

    Example:
        >>> import torch
        >>> y = torch.ones(3, requires_grad=True) * 2
        >>> loss_operations(y.log().mean(), {y.grad_fn})
        ('mean', 'log')
    """
    names: list[str] = []
    queue = deque([root.grad_fn])
    seen: set[object] = set()
    met = False
    while queue and len(names) < LIMIT:
        node = queue.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in known:
            met = True
            continue
        name = node.name()
        if "AccumulateGrad" in name:
            continue
        names.append(plain(name))
        queue.extend(parent for parent, _ in node.next_functions)
    return tuple(names) if met else ()


def node_of(x: Tensor) -> Any:
    """The node that made a tensor, ``None`` of a leaf.

    Also of a view made under ``no_grad`` whose base was changed since (spectral normalization has one): of such a
    tensor torch refuses to say.
    """
    try:
        return x.grad_fn
    except RuntimeError:
        return None


def leaves(root: Any) -> Iterator[Tensor]:
    """The tensors at which a graph ends and gradients come to rest: parameters, and inputs that require a gradient.

    Args:
        root: a tensor, or a node of autograd's graph.

    Example:
        >>> import torch
        >>> w = torch.ones(2, requires_grad=True)
        >>> [leaf is w for leaf in leaves((w * 3).sum())]
        [True]
    """
    first = node_of(root) if isinstance(root, Tensor) else root
    if first is None:
        if root.requires_grad and root._base is None:
            yield root
        return
    seen: set[object] = set()
    stack = [first]
    while stack:
        node: Any = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == ACCUMULATE:
            yield node.variable
        stack.extend(target for target, _ in node.next_functions)
