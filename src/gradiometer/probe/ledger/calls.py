"""Which call of which operation made which nodes of autograd's graph.

Autograd numbers the nodes that a thread makes, one after the other. A call of an operation owns the nodes whose numbers
were given while it ran; whatever lies between two calls (a custom ``autograd.Function``, a loss outside every module)
belongs to the module that was running then.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.probe.graph import node_of
from gradiometer.probe.observation import Observation
from gradiometer.probe.operations import Operation
from gradiometer.probe.outputs import tensors

_COMPOSITE = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)

_TO_NUMBERS = frozenset(("item", "tolist", "numpy", "array", "float", "int", "index"))
_LAYERS = ("linear", "bilinear", "conv", "lstm", "gru", "rnn")

number_of_next_node = torch._C._autograd._get_sequence_nr  # type: ignore[attr-defined]
"""The number that the next node made by this thread will have."""


@dataclass(slots=True, eq=False)
class Cut:
    """A call that got tensors with a graph and gave one without: no gradient goes back through it.

    ``inputs`` are the nodes of those tensors, or the parameters themselves.

    ``block`` says so where it ran with gradients off, ``torch.no_grad()``; else it is the operation itself.
    ``to_numbers`` says that plain numbers were made of it, so that nothing is known of what became of them.
    """

    number: int
    model: str
    site: str
    operation: Operation
    inputs: tuple[Any, ...]
    block: str
    to_numbers: bool = False


@dataclass(slots=True, eq=False)
class Call:
    """One call; ``composite`` ones are many operations (a recurrent layer) whose nodes are told apart.

    ``given`` is the node of the first argument, of a layer whose first argument is the signal whatever it is made of.
    ``cuts`` are those behind which some of its arguments were computed.
    """

    start: int
    end: int
    model: str
    base: str
    operation: Operation
    seen: Observation | None
    composite: bool
    given: Any = None
    cuts: tuple[Cut, ...] = ()


@dataclass(slots=True, eq=False)
class Scope:
    """The running of one module that has others inside, or of the loss function."""

    start: int
    end: int
    model: str
    path: str


class CallLog:
    """All calls of one pass, in the order in which they ran."""

    def __init__(self) -> None:
        """Nothing has run yet."""
        self.calls: list[Call] = []
        self.scopes: list[Scope] = []
        self.cuts: list[Cut] = []
        self._behind: dict[int, tuple[weakref.ref[Tensor], tuple[Cut, ...]]] = {}  # what was computed behind which cuts

    def called(
        self,
        start: int,
        place: tuple[str, str],
        base: str,
        operation: Operation,
        seen: Observation | None,
        inputs: Iterable[Any],
        output: Any,
        *,
        composite: bool = False,
    ) -> None:
        """Notes a call that has ended; ``start`` is `number_of_next_node` as it was before."""
        end, made = number_of_next_node(), [y for _, y in tensors(output)]
        given = [x for x in _flat(inputs) if isinstance(x, Tensor)]
        cuts = self._cuts_behind(given) if self._behind else ()
        if end > start and any(y.requires_grad for y in made):
            layer = operation.name.startswith(_LAYERS) and given
            node = (node_of(given[0]) or given[0].requires_grad or None) if layer else None
            self.calls.append(Call(start, end, place[0], base, operation, seen, composite, node, cuts))
        # Parameters by themselves, and of everything else the node: a tensor would be kept alive with all its memory.
        asked = tuple(node_of(x) or x for x in given if x.requires_grad)
        severed = [y for y in made if not y.requires_grad]
        if asked and (severed or (not made and operation.name in _TO_NUMBERS)):
            cut = Cut(start, place[0], base, operation, asked, "" if torch.is_grad_enabled() else _block())
            self.cuts.append(cut)
            cuts = (*cuts, cut)
        for y in severed if cuts else ():
            self._behind[id(y)] = (weakref.ref(y), cuts)  # weakly: these may be all activations of a frozen part
        if not made and operation.name in _TO_NUMBERS:
            for cut in cuts:
                cut.to_numbers = True

    def _cuts_behind(self, given: Iterable[Tensor]) -> tuple[Cut, ...]:
        known = ((x, self._behind.get(id(x))) for x in given)
        found = (cut for x, entry in known if entry is not None and entry[0]() is x for cut in entry[1])
        return tuple({id(cut): cut for cut in found}.values())

    def cuts_behind(self, x: Tensor) -> tuple[Cut, ...]:
        """The cuts behind which a tensor without a graph was computed, in the order in which they ran."""
        return tuple(sorted(self._cuts_behind((x,)), key=lambda cut: cut.number))

    def ran(self, start: int, place: tuple[str, str]) -> None:
        """Notes that a module with others inside has returned."""
        self.scopes.append(Scope(start, number_of_next_node(), *place))

    def call_of(self, number: int) -> Call | None:
        """The call that made the node of this number."""
        place = bisect_right(self.calls, number, key=lambda call: call.start) - 1
        return self.calls[place] if place >= 0 and number < self.calls[place].end else None

    def scope_of(self, number: int) -> Scope | None:
        """The innermost module that was running when the node of this number was made."""
        around = [s for s in self.scopes if s.start <= number < s.end]
        return max(around, key=lambda s: (s.start, -s.end), default=None)

    @property
    def ended(self) -> int:
        """The number of the next node when the last module had returned."""
        return max((x.end for x in (*self.scopes, *self.calls[-1:])), default=0)


def is_composite(module: nn.Module) -> bool:
    """Whether one module of torch.nn is many operations, each with a cause of its own."""
    return isinstance(module, _COMPOSITE)


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _block() -> str:
    return "torch.inference_mode()" if torch.is_inference_mode_enabled() else "torch.no_grad()"
