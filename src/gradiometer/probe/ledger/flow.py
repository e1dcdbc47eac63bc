"""The gradients of one backward pass, measured where they enter and leave the nodes of autograd's graph.

A hook on a node gets what entered it and what leaves it. What leaves on an edge is measured at once. Where a tensor
was used more than once the gradients of its users are kept until the last has come, to be told apart in their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradiometer.measures import Scalar, norm, resolve, spread
from gradiometer.probe.ledger.factors import Derivatives, weight_scale
from gradiometer.probe.ledger.knots import Group, Key, Knot, Layout
from gradiometer.probe.nodes import of_node

_FEW = 4
_SAMPLE = 1 << 16
"""Of a fork with more than `_FEW` users only this many elements are kept of each, to compare them by."""


class Arrival:
    """What one group sends to a key: its norm, and the product with the sum of all that arrive there."""

    __slots__ = ("elements", "norm", "product")

    def __init__(self, norm: Scalar, elements: int, product: Scalar = 1.0) -> None:
        """``product`` is ``<this, sum> / |sum|^2``, one where nothing else arrives."""
        self.norm = norm
        self.elements = elements
        self.product = product


class Sent(NamedTuple):
    """A gradient that one knot has sent to a key; ``kept`` where it will have to be told apart from others there."""

    knot: Knot | None
    norm: Scalar
    elements: int
    address: int
    kept: Tensor | None

    @property
    def group(self) -> Group | None:
        """The operation of the knot, ``None`` of the loss itself."""
        return self.knot.group if self.knot is not None else None


class Flow:
    """Measures one backward pass over a layout."""

    def __init__(self, layout: Layout, guard: Callable[..., None]) -> None:
        """``guard(where, act, *args)`` calls what a hook has to do."""
        self.layout = layout
        self.arrivals: dict[Key, dict[Group | None, Arrival]] = {}
        self.entering: dict[Key, tuple[Scalar, int]] = {}
        self.scales: dict[Group, Scalar] = {}
        self.derivatives = Derivatives(layout.groups)
        self.tables: dict[Group, tuple[Scalar, int]] = {}
        """Of each lookup in a table the norm of the table's gradient, and the size of the table."""
        self.tied: dict[Key, set[Knot]] = {}
        """Keys of which what some of the users send, together, is wanted as well (the state of a recurrence)."""
        self.tied_norms: dict[Key, Scalar] = {}
        self.counted: dict[Key, set[Knot]] = {}
        """Keys of which only what some of the users send is the gradient that is asked for, and the norms of that."""
        self.counted_norms: dict[Key, Scalar] = {}
        self.on_fired: Callable[..., None] = lambda *_: None
        """Called with a knot, what leaves and enters it, and the norms of both."""
        self.on_altered: Callable[[Knot, Tensor], None] = lambda *_: None
        """Called where finite gradients were summed, or handed to a hook of the user, and the outcome is not finite."""
        self._waiting: dict[Key, list[Sent]] = {}
        self._handles: list[Any] = []
        self._guard = guard

    def install(self) -> None:
        """Hooks the nodes. The hooks go with the graph, and stop working at `remove`."""
        self._waiting[self.layout.root] = [Sent(None, 1.0, 1, 0, None)]
        for knot in self.layout.knots:
            if knot.signal or self._computes(knot):
                self._handles.append(knot.node.register_hook(self._hook(knot)))

    @staticmethod
    def _computes(knot: Knot) -> bool:
        """Whether a knot makes one parameter of another (a norm of weights), and is no mere view of one."""
        return knot.parameter is None and of_node(knot.node.name(), has_parameter=True).cause != "reshaping"

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._waiting.clear()

    def _hook(self, knot: Knot) -> Callable[[Any, Any], None]:
        def fired(leaving: tuple[Any, ...], entering: tuple[Any, ...]) -> None:
            with torch.no_grad():  # a gradient of gradients is none of ours
                self._guard("ledger", self._fired, knot, leaving, entering)

        return fired

    # -- one node -------------------------------------------------------------------------------------------------

    def _fired(self, knot: Knot, leaving: tuple[Any, ...], entering: tuple[Any, ...]) -> None:
        if not knot.signal:
            self.on_fired(knot, leaving, entering, _norms(leaving), _norms(entering))
            return
        came = [self._finish((knot, nr), g) for nr, g in enumerate(entering) if g is not None]
        went = []
        signals = 0
        for (target, nr), g in zip(knot.edges, leaving, strict=False):
            if g is None or target is None:
                continue
            if target.signal:
                went.append(self._leave(knot, (target, nr), g))
                signals = g.numel()
            if knot.group is not None and knot.group.operation.name.startswith("embedding"):
                self.tables[knot.group] = (norm(g), g.numel())
        group = knot.group
        if group is not None and signals and group.operation.cause == "weights" and group not in self.scales:
            scale = weight_scale(knot, sum(g.numel() for g in entering if g is not None), signals)
            if scale is not None:
                self.scales[group] = scale
        if group is not None:
            self.derivatives.fired(knot, entering)
        self.on_fired(knot, leaving, entering, went, came)

    def _leave(self, knot: Knot, key: Key, g: Tensor) -> Scalar:
        size = norm(g)
        users = len(key[0].consumers.get(key[1], ()))
        kept = None if users < 2 else g.detach() if users <= _FEW else spread(g.detach(), _SAMPLE)
        self._waiting.setdefault(key, []).append(
            Sent(knot, size, g.numel(), g.data_ptr() if g.layout is torch.strided else 0, kept)
        )
        return size

    def _finish(self, key: Key, total: Tensor) -> Scalar:
        """Takes stock of what has come to a key, now that all of it has."""
        waiting = self._waiting.pop(key, [])
        outside = [sent for sent in waiting if sent.group is not key[0].group]
        # What came on one edge alone is still the same tensor, if no hook of the user's has put another in its place.
        same = len(waiting) == 1 and waiting[0].address == total.data_ptr() != 0
        size = waiting[0].norm if same else norm(total)
        on_host = total.device.type == "cpu" and not same
        if on_host and not math.isfinite(size) and all(math.isfinite(sent.norm) for sent in waiting):
            self.on_altered(key[0], total)
        if len(waiting) > 1:
            sample = len(waiting) > _FEW
            whole = (spread(total, _SAMPLE) if sample else total).detach()
            if len(outside) < len(waiting):  # some of it never left the operation
                if not outside:
                    return size
                whole = _sum(outside)
                size = norm(whole)
            by_group: dict[Group | None, list[Sent]] = {}
            for sent in outside:
                by_group.setdefault(sent.group, []).append(sent)
            self.arrivals[key] = {user: _arrival(parts, whole, sample) for user, parts in by_group.items()}
        else:
            self.arrivals[key] = {sent.group: Arrival(sent.norm, sent.elements) for sent in outside}
        for wanted, norms in ((self.tied, self.tied_norms), (self.counted, self.counted_norms)):
            taken = [sent for sent in outside if sent.knot in wanted.get(key, ())]
            if taken:
                norms[key] = taken[0].norm if len(taken) == 1 else norm(_sum(taken))
        self.entering[key] = (size, total.numel())
        return size

    # -- afterwards -----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Reads everything that still lies on a device, with one transfer."""
        arrivals = [a for users in self.arrivals.values() for a in users.values()]
        values = resolve(v for a in arrivals for v in (a.norm, a.product))
        for a, size, product in zip(arrivals, values[::2], values[1::2], strict=True):
            a.norm, a.product = size, product
        tables = resolve(size for size, _ in self.tables.values())
        self.tables = {g: (size, count) for (g, (_, count)), size in zip(self.tables.items(), tables, strict=True)}
        self.scales = dict(zip(self.scales, resolve(self.scales.values()), strict=True))
        self.tied_norms = dict(zip(self.tied_norms, resolve(self.tied_norms.values()), strict=True))
        self.counted_norms = dict(zip(self.counted_norms, resolve(self.counted_norms.values()), strict=True))
        sizes = resolve(size for size, _ in self.entering.values())
        for (key, (_, count)), size in zip(list(self.entering.items()), sizes, strict=True):
            self.entering[key] = (size, count)
        self.derivatives.settle()


def _arrival(parts: Sequence[Sent], whole: Tensor, sample: bool) -> Arrival:
    """What one operation sends to a key, on one edge or on several."""
    tensor, elements = _sum(parts), parts[0].elements
    size = parts[0].norm
    if len(parts) > 1:
        size = norm(tensor)
        if sample:  # only samples were kept
            size = size * math.sqrt(elements / tensor.numel())
    return Arrival(size, elements, _share(tensor, whole))


def _sum(parts: Sequence[Sent]) -> Tensor:
    total = parts[0].kept
    for part in parts[1:]:
        total = total + part.kept  # type: ignore[operator]
    return total  # type: ignore[return-value]


def _norms(gradients: Sequence[Tensor | None]) -> list[Scalar]:
    return [norm(g) for g in gradients if g is not None]


def _share(part: Tensor, whole: Tensor) -> Scalar:
    """``<part, whole> / |whole|^2``, in numbers near one, whose squares fit into every format."""
    wide = torch.float32 if whole.device.type == "mps" else torch.float64
    if whole.is_complex():
        part, whole = torch.view_as_real(part.resolve_conj()), torch.view_as_real(whole.resolve_conj())
    whole = whole.to(wide)
    peak = whole.abs().amax().clamp_min(torch.finfo(wide).tiny)
    share = ((part.to(wide) / peak) * (whole / peak)).sum() / (whole / peak).square().sum()
    return share.item() if share.device.type == "cpu" else share
