"""One backward pass, traced: from the loss and the calls that led to it to the ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gradiometer.probe.births import Births, in_loss, saved_tensors
from gradiometer.probe.ledger import recurrence
from gradiometer.probe.ledger.accounts import Accounts
from gradiometer.probe.ledger.calls import CallLog
from gradiometer.probe.ledger.cuts import starved
from gradiometer.probe.ledger.flow import Flow
from gradiometer.probe.ledger.knots import Knot, Layout, parameters_below
from gradiometer.probe.nodes import of_node
from gradiometer.probe.observation import Observation
from gradiometer.records import Birth, Ledger, Recurrence


@dataclass(frozen=True)
class Traced:
    """What a traced pass comes to."""

    ledger: Ledger
    recurrences: tuple[Recurrence, ...]
    birth: Birth | None


class Tracing:
    """Lays out the graph of a loss, hooks it for one backward pass, and reads what came of it."""

    def __init__(
        self,
        loss: Tensor,
        log: CallLog,
        births: Births,
        inputs: Sequence[Any] = (),
        guard: Callable[..., None] | None = None,
    ) -> None:
        """``inputs`` are nodes at which the input enters; see `Flow` for ``guard``."""
        self.layout = Layout(loss, log, inputs)
        self._flow = Flow(self.layout, guard)
        self._plans = recurrence.plan(self.layout)
        for made in self._plans:
            for state in made.states:
                for key, takers in state.items():
                    self._flow.tied.setdefault(key, set()).update(takers)
        self._births = births
        self._flow.on_fired = self._fired
        self._known_bad = not math.isfinite(float(loss.detach())) if loss.device.type == "cpu" else None
        self._born_in_loss = self._look_into_loss(loss) if self._known_bad and not births.forward else None
        self.install = self._flow.install
        self.remove = self._flow.remove

    def _look_into_loss(self, loss: Tensor) -> Birth | None:
        network = {k.node for k in self.layout.knots if k.group is None or k.group.operation.cause != "loss"}
        return in_loss(loss, network)

    def _fired(self, knot: Knot, entering: tuple[Any, ...], went: list[Any], came: list[Any]) -> None:
        if self._births.backward is not None or all(math.isfinite(float(v)) for v in went):
            return
        if all(math.isfinite(float(v)) for v in came):
            group = knot.group
            name = group.operation.name if group is not None else of_node(knot.node.name(), True).name
            self._births.look_backward(knot, name, saved_tensors(knot.node), entering)

    def read(
        self,
        names: Mapping[Observation, str],
        parameters: Mapping[int, str],
        trained: set[int],
        bad: set[int] = frozenset(),  # type: ignore[assignment]
    ) -> Traced:
        """The ledger, the recurrences and the birth of what is not finite.

        ``names`` are those of the sites, ``parameters`` maps ``id`` to a parameter's name, ``trained`` holds the
        ``id`` of those that should get a gradient, ``bad`` of those whose gradient is not finite.
        """
        self._look_at_parameters(bad)
        self._flow.settle()
        accounts = Accounts(self._flow, names, parameters)
        found = [recurrence.read(made, self._flow, accounts, parameters) for made in self._plans]
        return Traced(
            ledger=accounts.ledger(starved(self.layout.log.cuts, self.layout, trained)),
            recurrences=tuple(r for r in found if r is not None),
            birth=self._birth(accounts, names),
        )

    def _look_at_parameters(self, bad: set[int]) -> None:
        """A gradient may also become NaN or Inf on its last step, into a parameter, while the signal stays finite."""
        for knot in reversed(self.layout.knots) if bad and self._births.backward is None else ():
            if knot.group is not None and any(id(p) in bad for p in parameters_below(knot)):
                self._births.look_backward(knot, knot.group.operation.name, [], [])
                return

    def _birth(self, accounts: Accounts, names: Mapping[Observation, str]) -> Birth | None:
        births = self._births
        if self._known_bad is not False and births.forward:
            return births.first(names)
        if self._known_bad:
            return self._born_in_loss
        if births.backward is None:
            return None
        knot, birth = births.backward
        if knot.group in accounts.names:
            return replace(birth, site=accounts.names[knot.group], model=knot.group.model)
        call = self.layout.log.call_of(knot.number)
        scope = self.layout.log.scope_of(knot.number)
        return replace(
            birth, site=call.base if call else f"{scope.path}:{birth.operation}" if scope else birth.operation
        )
