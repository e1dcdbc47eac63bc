"""One backward pass, traced: from the loss and the calls that led to it to the ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradiometer.probe.births import Births
from gradiometer.probe.explanation import largest, saved_tensors
from gradiometer.probe.ledger import recurrence, through_time
from gradiometer.probe.ledger.accounts import Accounts
from gradiometer.probe.ledger.calls import CallLog
from gradiometer.probe.ledger.cuts import starved
from gradiometer.probe.ledger.flow import Flow
from gradiometer.probe.ledger.knots import Knot, Layout, parameters_below
from gradiometer.probe.nodes import of_node
from gradiometer.probe.observation import Observation
from gradiometer.records import Birth, Ledger, LedgerRow, Recurrence

_EMPTY = Ledger()
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Traced:
    """What a traced pass comes to."""

    ledger: Ledger = _EMPTY
    recurrences: tuple[Recurrence, ...] = ()
    birth: Birth | None = None

    def unscaled(self, scale: float) -> Traced:
        """The same for the loss before a gradient scaler multiplied it: without that row, and divided by the scale."""
        rows = self.ledger.rows
        place = next((i for i, row in enumerate(rows) if row.cause == "loss" and _is_scaling(row, scale)), None)
        if scale == 1.0 or place is None:
            return self
        divided = tuple(_divided(row, scale) for row in rows[place + 1 :])
        through_time = [replace(r, gradients=tuple(g / scale for g in r.gradients)) for r in self.recurrences]
        ledger = replace(self.ledger, rows=rows[:place] + divided, end_rms=self.ledger.end_rms / scale)
        return replace(self, ledger=ledger, recurrences=tuple(through_time))


def _is_scaling(row: LedgerRow, scale: float) -> bool:
    return row.operation == "mul" and abs(row.gain / scale - 1) < 1e-6


def _divided(row: LedgerRow, scale: float) -> LedgerRow:
    return replace(
        row,
        grad_rms=row.grad_rms / scale,
        edges=tuple(replace(e, grad_rms=e.grad_rms / scale) for e in row.edges),
        branches=tuple(replace(b, grad_norm=b.grad_norm / scale) for b in row.branches),
        total_without=row.total_without - math.log10(scale),
    )


def _nothing(*_: Any) -> None:
    """What a flow tells after it has been read."""


class Tracing:
    """Lays out the graph of a loss, hooks it for one backward pass, and reads what came of it."""

    def __init__(
        self,
        loss: Tensor,
        log: CallLog,
        births: Births,
        guard: Callable[..., None],
        inputs: Sequence[Any] = (),
        *,
        may_wait: bool = False,
    ) -> None:
        """``inputs`` are nodes at which the input enters; see `Flow` for ``guard``.

        ``may_wait`` says that values may be read from an accelerator in the middle of the pass.
        """
        self.layout = Layout(loss, log, inputs)
        self._flow = Flow(self.layout, guard)
        self._plans = recurrence.plan(self.layout)
        for made in self._plans:
            self._flow.counted |= made.counted
            for state in made.states:
                for key, takers in state.items():
                    self._flow.tied.setdefault(key, set()).update(takers)
        self._births = births
        self._may_wait = may_wait
        self._halves: dict[Knot, tuple[Tensor, Sequence[Any], Tensor]] = {}
        """Of weights in a short format, whose gradient may overflow: the largest input, what entered, an overflow."""
        self._flow.on_fired, self._flow.on_altered = self._fired, self._altered
        self.install = self._flow.install
        self.remove = self._flow.remove

    def _fired(
        self, knot: Knot, leaving: tuple[Any, ...], entering: tuple[Any, ...], went: list[Any], came: list[Any]
    ) -> None:
        if self._births.born_backward or not (self._may_wait or all(isinstance(v, float) for v in (*went, *came))):
            return
        if all(math.isfinite(float(v)) for v in went):
            form = next((g.dtype for g in entering if g is not None and g.dtype in _HALF), None)
            if form is not None and knot.group is not None and any(True for _ in parameters_below(knot)):
                top = [max(map(largest, saved_tensors(knot.node)), default=0.0)]
                self._halves[knot] = (torch.tensor(top), entering, torch.tensor(math.inf, dtype=form))
        elif all(math.isfinite(float(v)) for v in came):
            call = self.layout.log.call_of(knot.number)
            seen = call.seen if call is not None and not call.composite else None
            saved = saved_tensors(knot.node)
            self._births.look_backward(knot, self._name(knot), saved, entering, leaving, seen)

    def _altered(self, knot: Knot, gradient: Any) -> None:
        """A hook of the user's, or a sum of finite gradients, gave what is not finite."""
        self._births.look_backward(knot, "hook", [], [], [gradient])

    @staticmethod
    def _name(knot: Knot) -> str:
        if knot.group is not None:
            return knot.group.operation.name
        return of_node(knot.node.name(), has_parameter=True).name

    def read(
        self,
        names: Mapping[Observation, str],
        parameters: Mapping[int, str],
        trained: set[int],
        bad: Container[int] = (),
    ) -> Traced:
        """The ledger, the recurrences and the birth of what is not finite.

        ``names`` are those of the sites, ``parameters`` maps ``id`` to a parameter's name, ``trained`` holds the
        ``id`` of those that should get a gradient, ``bad`` of those whose gradient is not finite.
        """
        self._look_at_parameters(bad)
        self._flow.settle()
        accounts = Accounts(self._flow, names, parameters)
        found = [through_time.read(made, self._flow, accounts, parameters) for made in self._plans]
        traced = Traced(
            ledger=accounts.ledger(starved(self.layout.log.cuts, self.layout, trained)),
            recurrences=tuple(r for r in found if r is not None),
            birth=self._births.found(names, partial(self._locate, accounts)),
        )
        self.release()
        return traced

    def release(self) -> None:
        """Lets go of everything now: what points at each other would wait for the garbage collector."""
        self._halves.clear()
        self._plans.clear()
        self._flow.on_fired = self._flow.on_altered = _nothing
        self.layout.release()

    def _look_at_parameters(self, bad: Container[int]) -> None:
        """A gradient may also become NaN or Inf on its last step, into a parameter, while the signal stays finite."""
        for knot in reversed(self.layout.knots) if bad and not self._births.born_backward else ():
            if knot.group is not None and any(id(p) in bad for p in parameters_below(knot)):
                saved, entering, overflow = self._halves.get(knot, (None, (), None))
                kept = [] if saved is None else [saved]
                leaving = [] if overflow is None else [overflow]
                self._births.look_backward(knot, knot.group.operation.name, kept, entering, leaving)
                return

    def _locate(self, accounts: Accounts, knot: Knot) -> tuple[str, str]:
        group = knot.group
        if group in accounts.names:
            return group.model, accounts.names[group]
        call = self.layout.log.call_of(knot.number)
        return (call.model, call.base) if call is not None else ("", self._name(knot))
