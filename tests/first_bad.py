"""Where the first NaN or Inf comes up, found without the program: by torch's dispatch, and node by node in backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class FirstBad(TorchDispatchMode):
    """The functions of aten that make NaN or Inf out of numbers that are neither.

    Minus infinity is a number here if it was one before, or comes from a function that makes masks.
    """

    MASKS = ("masked_fill", "full", "scalar_tensor", "lift_fresh", "where", "empty", "constant_pad_nd")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = list(_flat(args))
        sound = all(no_more_than_a_mask(x) for x in before)  # before it runs: it may change them in place
        masked = any(not finite(x) for x in before)
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::").strip("_")
        made = list(_flat([out]))
        minus = not masked and not name.startswith(self.MASKS) and any(not finite(x) for x in made)
        if sound and (minus or not all(no_more_than_a_mask(x) for x in made)):
            self.found.append(name)
        return out


def _flat(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        elif isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            yield value


def no_more_than_a_mask(x: Tensor) -> bool:
    return finite(x) or bool((torch.isfinite(x) | (x == -float("inf"))).all())


def finite(x: Any) -> bool:
    return all(bool(torch.isfinite(v).all()) for v in _flat([x]))


def first_bad_node(loss: Tensor) -> str:
    """The first node of autograd's graph, as backward comes by, that finite gradients enter and others leave."""
    found: list[str] = []
    stack, seen = [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)

        def fired(leaving: Any, entering: Any, name: str = node.name()) -> None:
            if finite(entering) and not finite(leaving):
                found.append(name)

        if "AccumulateGrad" not in node.name():
            node.register_hook(fired)
        stack.extend(target for target, _ in node.next_functions)
    loss.backward()
    return found[0] if found else ""
