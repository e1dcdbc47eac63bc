"""Which operations lie between the model's output and the loss, read off autograd's graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Container

from torch import Tensor

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
        name = node.name().removeprefix("torch::autograd::")
        if "AccumulateGrad" in name:
            continue
        names.append(_plain(name))
        queue.extend(parent for parent, _ in node.next_functions)
    return tuple(names) if met else ()


def _plain(name: str) -> str:
    name = name.rstrip("0123456789").removesuffix("Backward")
    out = ""
    for i, c in enumerate(name):
        out += ("_" if c.isupper() and i and not name[i - 1].isupper() else "") + c.lower()
    return out.strip("_")
