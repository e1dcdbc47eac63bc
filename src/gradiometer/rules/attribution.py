"""Which operations take or add what is lost or gained between two ends of a network, read off the ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradiometer.records import LedgerRow, Reading, decades_by_cause
from gradiometer.rules.base import percent


@dataclass(frozen=True, slots=True)
class Attribution:
    """The rows of the main path between the last weight layer and the first, the one nearer to the loss first."""

    rows: tuple[LedgerRow, ...]

    @property
    def by_cause(self) -> dict[str, float]:
        """Decades of the gradient's norm by cause."""
        return {cause: d for cause, d in decades_by_cause(self.rows, norms=True).items() if d}

    def shares(self, *, vanishing: bool) -> dict[str, float]:
        """What part of all that is lost (or gained) each cause has, the largest first; gains are no comfort."""
        sign = -1 if vanishing else 1
        amounts = {cause: sign * d for cause, d in self.by_cause.items() if sign * d > 0}
        total = math.fsum(amounts.values())
        ordered = sorted(amounts.items(), key=lambda item: -item[1])
        return {cause: amount / total for cause, amount in ordered if math.isfinite(total)}

    def worst(self, *, vanishing: bool) -> LedgerRow | None:
        """The row that loses (or adds) most."""
        sign = -1 if vanishing else 1
        return max(self.rows, key=lambda row: sign * row.log10_norm_gain, default=None)

    def in_words(self, *, vanishing: bool) -> str:
        """Such as ``91 % of that is the derivative of the activations (sigmoid, rms 0.21), 9 % the weights (...)``."""
        shares = {cause: share for cause, share in self.shares(vanishing=vanishing).items() if share >= 0.01}
        said = [f"{percent(share)} {self._cause(cause)}" for cause, share in list(shares.items())[:3]]
        if len(shares) == 1:
            return f"All of that is {self._cause(next(iter(shares)))}"
        return f"Of that {', '.join(said[:-1])} and {said[-1]}" if said else ""

    def _cause(self, cause: str) -> str:
        rows = [row for row in self.rows if row.cause == cause]
        names = ", ".join(sorted({row.operation for row in rows}))
        if cause == "activation":
            rms = _mean([row.derivative for row in rows])
            return f"the derivative of the activations ({names}{f', rms {rms:.2g}' if rms else ''})"
        if cause == "weights":
            scale = _mean([row.scale for row in rows])
            return f"the weights{f' ({scale:.2g} of the scale at which a layer has gain one)' if scale else ''}"
        if cause == "connection":
            return "where branches are summed or gated"
        return f"{cause} ({names})"

    def evidence(self) -> dict[str, Any]:
        """The numbers of this, for a finding."""
        return {
            "decades_by_cause": self.by_cause,
            "activation_derivative": _mean([row.derivative for row in self.rows if row.cause == "activation"]),
            "weight_scale": _mean([row.scale for row in self.rows if row.cause == "weights"]),
        }


NOTHING = Attribution(())


def attribute(readings: Sequence[Reading], model: str, step: int) -> Attribution:
    """From the ledger nearest to a step; empty where none was kept, or where it does not lead through the model."""
    found = [(abs(r.step - step), r) for r in readings if any(row.model == model for row in r.ledger.main)]
    if not found:
        return NOTHING
    _, reading = min(found, key=lambda item: item[0])
    rows = [row for row in reading.ledger.main if row.model == model]
    weights = [i for i, row in enumerate(rows) if row.cause == "weights"]
    if not weights:
        return NOTHING
    # Down to what enters the first layer. Its own row is the last, if what leaves it is known: it goes to the input.
    first = weights[-1] if reading.ledger.end == "input" or rows[weights[-1]].operation == "embedding" else len(rows)
    return Attribution(tuple(row for row in rows[weights[0] : first] if math.isfinite(row.log10_gain)))


def _mean(values: Sequence[float | None]) -> float | None:
    """The geometric mean of those that are known, since they multiply."""
    known = [math.log(v) for v in values if v]
    return math.exp(math.fsum(known) / len(known)) if known else None
