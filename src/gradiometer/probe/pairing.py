"""Products in which every output meets every target, because their shapes were broadcast.

``(t * y).mean()`` of N targets ``(N,)`` and N outputs ``(N, 1)`` is the mean target times the mean output: which target
belongs to which output is lost, so that nobody can mean it. A product of two outputs may well be one of all pairs.
"""

from __future__ import annotations

from typing import Any

from gradiometer.probe.kept import kept, shape

_DIRECT = frozenset(("linear", "log", "exp", "sigmoid", "log_sigmoid", "softplus", "tanh", "relu"))
"""What the network's side comes from: a weight for each example's loss (``(w * l).mean()``) does less harm."""


def paired(node: Any, side: int, before: tuple[str, ...]) -> int | None:
    """The number N of outputs that a product pairs with as many constants each, ``None`` if it does something else.

    Args:
        node: a product whose elements all count alike in the loss.
        side: which of its inputs is the network's.
        before: operations on that side, the nearest first.
    """
    constants = kept(node, "other" if side == 0 else "self")
    made, own = shape(node), shape(node.next_functions[side][0])
    n = made[0] if made else 0
    if constants is None or n < 2 or made != (n, n) or not before or before[0] not in _DIRECT:
        return None
    given = tuple(constants.shape)
    crossed = (own == (n, 1) and given in ((n,), (1, n))) or (own in ((n,), (1, n)) and given == (n, 1))
    return n if crossed else None
