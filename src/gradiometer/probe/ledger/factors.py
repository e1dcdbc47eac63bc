"""The two factors of a weight layer (scale, alignment) and of an activation (its derivative, its flat units)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gradiometer.measures import Scalar, can_die, norm, resolve
from gradiometer.probe.ledger.knots import Group, Key, Knot, parameters_below
from gradiometer.probe.nodes import plain

# For each product the tensors it saves, by the edge on which their gradient leaves.
_FACTORS = {
    "addmm": {1: "_saved_mat1", 2: "_saved_mat2"},
    "mm": {0: "_saved_self", 1: "_saved_mat2"},
    "bmm": {0: "_saved_self", 1: "_saved_mat2"},
    "linear": {1: "_saved_weight"},
    "mv": {0: "_saved_self"},
    "convolution": {1: "_saved_weight"},
}

PEAKS = {"sigmoid": 0.25, "hardsigmoid": 1 / 6}
"""Largest ``|f'|`` of the activations where it is not one (or, as for SiLU, close to it)."""

_HALF_LINES = frozenset("leaky_relu prelu rrelu hardshrink softshrink clamp clamp_min clamp_max abs".split())


def weight_scale(knot: Knot, entering: int, leaving: int) -> Scalar | None:
    """The gain that the scale and shape of a weight explain: that of a gradient in a random direction.

    Formula: ``scale = rms(W) sqrt(pairs / leaving)``, where ``pairs`` counts the products of a weight and an element of
    the gradient: every element that leaves is a sum of ``pairs / leaving`` of them. For a linear layer
    this is ``rms(W) sqrt(fan_out)``, one at the initialization of He (times ``sqrt(2)``) and of Glorot.

    Args:
        knot: a node that multiplies the signal with a weight.
        entering: number of elements of the gradient that enters it.
        leaving: number of elements of the gradient that leaves it towards the input.

    Returns:
        The scale, ``None`` for operations whose weight cannot be had.

    Source:
        Glorot and Bengio (2010), equation 6; He et al., Delving deep into rectifiers (2015), equation 14. Places in
        the padding of a convolution are counted as if they were inside, so that the scale is a little too large there.
    """
    name = plain(knot.node.name())
    saved = _FACTORS.get(name)
    place = next((i for i, (t, _) in enumerate(knot.edges) if saved and i in saved and t and not t.signal), None)
    if saved is None or place is None:
        return None
    try:
        weight = getattr(knot.node, saved[place])
    except (AttributeError, RuntimeError):  # a checkpoint gives its tensors out but once
        weight = next((p for p in parameters_below(knot) if p.dim() > 1), None)
    if weight is None:
        return None
    count = weight.numel()
    if name == "convolution":
        transposed = knot.node._saved_transposed
        pairs = (leaving if transposed else entering) * count / weight.shape[0]
    else:
        pairs = math.sqrt(entering * leaving * count)
    return norm(weight) * math.sqrt(pairs / leaving / count)


class Derivatives:
    """The derivative of every activation, by sending ones back through it beside the gradient.

    A node of the graph can be called: called with ones, an elementwise operation gives its ``f'``. The tensors it needs
    are there until the hooks on it have run.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        """Takes those groups that are activations of one input."""
        self.found: dict[Group, tuple[Scalar, Scalar | None]] = {}
        """Of each activation the rms of ``f'``, and the share of elements where it is below 1 % of its maximum."""
        self._left = {g: len(g.knots) for g in groups if g.operation.cause == "activation" and len(g.leads_to()) == 1}
        self._ones: dict[Key, Tensor] = {}
        self._out: dict[Group, Tensor] = {}
        self._shapes: dict[Any, Tensor] = {}

    def fired(self, knot: Knot, entering: tuple[Any, ...]) -> None:
        """Sends ones on through a node whose gradient has just passed."""
        group = knot.group
        if group is None or group not in self._left:
            return
        if isinstance(knot.node, torch.autograd.function.BackwardCFunction):
            del self._left[group]  # a function of the user's own, which nobody else should call
            return
        ones = [self._ones.pop((knot, i), None if g is None else self._plain(g)) for i, g in enumerate(entering)]
        try:
            given = knot.node(*ones)
        except (RuntimeError, TypeError):  # a checkpoint gives its tensors out but once
            del self._left[group]
            return
        outs = given if isinstance(given, tuple) else (given,)
        for (target, nr), out in zip(knot.edges, outs, strict=False):
            if target is None or out is None or not target.signal:
                continue
            if target.group is group:
                before = self._ones.get((target, nr))
                self._ones[target, nr] = out if before is None else before + out
            else:
                before = self._out.get(group)
                self._out[group] = out if before is None else before + out
        self._left[group] -= 1
        if not self._left[group]:
            self._measure(group, entering)

    def _plain(self, g: Tensor) -> Tensor:
        """Ones of the shape of a gradient; one network has few shapes, and nobody writes into them."""
        kind = (g.shape, g.dtype, g.device)
        if kind not in self._shapes:
            self._shapes[kind] = torch.ones_like(g)
        return self._shapes[kind]

    def _measure(self, group: Group, entering: tuple[Any, ...]) -> None:
        derivative = self._out.pop(group, None)
        first = next((g for g in entering if g is not None), None)
        if derivative is None or first is None or derivative.numel() != first.numel():
            return  # no elementwise operation (GLU)
        size = norm(derivative) / math.sqrt(derivative.numel())
        self.found[group] = (size, _flat_share(group.operation.name, derivative))

    def settle(self) -> None:
        """Reads everything that still lies on a device."""
        self._shapes.clear()
        sizes = resolve(rms for rms, _ in self.found.values())
        flats = iter(resolve(flat for _, flat in self.found.values() if flat is not None))
        for (group, (_, flat)), rms in zip(list(self.found.items()), sizes, strict=True):
            self.found[group] = (rms, None if flat is None else next(flats))


def _flat_share(operation: str, derivative: Tensor) -> Scalar | None:
    """Share of the elements in a flat part, of what is flat on both sides or slowly becomes so.

    Half of a ReLU is flat, and has to be: of those only units that are dead count, see `can_die`.
    """
    if can_die(operation) or operation in _HALF_LINES:
        return None
    flat = derivative.abs().lt_(0.01 * PEAKS.get(operation, 1.0)).mean()
    return flat.item() if flat.device.type == "cpu" else flat
