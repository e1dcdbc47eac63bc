"""Which operations take or add what is lost or gained between two ends of a network, read off the ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradiometer.records import LedgerRow, Reading, decades_by_cause
from gradiometer.rules.base import percent

MOST = 0.5
"""Share of the whole from which on one row is named alone."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """The rows of the main path between the last weight layer and the first, the one nearer to the loss first."""

    rows: tuple[LedgerRow, ...]

    @property
    def by_cause(self) -> dict[str, float]:
        """Decades of the gradient's norm by cause."""
        return {cause: d for cause, d in decades_by_cause(self.rows, norms=True).items() if d}

    def amounts(self, *, vanishing: bool) -> list[tuple[LedgerRow, float]]:
        """What each row loses (or adds), in decades, where its layer as a whole does so.

        A layer is a weight with the activation behind it: where the one makes up for the other (a ReLU takes half of
        the squares, and He's weights give them back) nothing is lost. What a layer loses is shared among those of
        its rows that lose. One layer does not make up for another.
        """
        sign = -1 if vanishing else 1
        out: list[tuple[LedgerRow, float]] = []
        layer: list[LedgerRow] = []
        for i, row in enumerate(self.rows):
            layer.append(row)
            if row.cause != "weights" and i + 1 < len(self.rows):
                continue
            net = sign * math.fsum(r.log10_norm_gain for r in layer)
            mine = [(r, sign * r.log10_norm_gain) for r in layer if sign * r.log10_norm_gain > 0]
            whole = math.fsum(amount for _, amount in mine)
            out += [(r, net * amount / whole) for r, amount in mine if net > 0]
            layer = []
        return out

    def shares(self, *, vanishing: bool) -> dict[str, float]:
        """What part of all that is lost (or gained) each cause has, the largest first."""
        amounts: dict[str, float] = {}
        for row, amount in self.amounts(vanishing=vanishing):
            amounts[row.cause] = amounts.get(row.cause, 0.0) + amount
        total = math.fsum(amounts.values())
        ordered = sorted(amounts.items(), key=lambda item: -item[1])
        return {cause: amount / total for cause, amount in ordered if total and math.isfinite(total)}

    def culprit(self, *, vanishing: bool) -> tuple[LedgerRow, float] | None:
        """The one row that has more than half of it, and its share; ``None`` if it goes on everywhere."""
        amounts = self.amounts(vanishing=vanishing)
        total = math.fsum(amount for _, amount in amounts)
        row, amount = max(amounts, key=lambda pair: pair[1], default=(None, 0.0))
        layers = sum(r.cause == "weights" for r in self.rows)
        return (row, amount / total) if row is not None and layers > 2 and amount > MOST * total else None

    def in_words(self, *, vanishing: bool) -> str:
        """Such as ``Of that 91% the derivative of the activations (sigmoid, rms 0.21) and 9% the weights (...)``."""
        alone = self.culprit(vanishing=vanishing)
        if alone is not None:
            row, share = alone
            scale = f", {row.scale:.2g} of the scale at which a layer has gain one" if row.scale is not None else ""
            return f"{percent(share)} of that is {row.site} alone ({row.operation}, {row.cause}{scale})"
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
