"""The ledger: what every operation between the loss and the input does to the gradient, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from gradiometer.records.site import Cause


@dataclass(frozen=True, slots=True)
class Edge:
    """One way on which the gradient leaves an operation: to which site, and how much of it.

    ``gain`` is the rms leaving on it over the rms entering the operation.
    """

    to: str
    gain: float
    grad_rms: float


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the gradients that are summed where a tensor was used more than once.

    ``site`` is the operation it comes from. ``share`` is its part of the sum, ``<branch, sum> / |sum|^2``: the shares
    of a fork add up to one, and one that works against the others is negative. ``cosine`` is that of the angle to the
    sum of the other branches.
    """

    site: str
    operation: str
    grad_norm: float
    share: float
    cosine: float


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What one operation does to the gradient on its way back.

    ``grad_rms`` is of the gradient entering the operation (with respect to its output), ``gain`` the rms leaving it
    over the rms entering it, along the edge on which the main path goes, or along its strongest edge; ``edges`` has all
    of them. ``elements`` and ``elements_out`` count the elements of the two. ``main`` says that the row lies on the
    path whose log gains add up to `Ledger.total`. ``total_without`` is what that total would be with
    this row at gain one (NaN where this row lets nothing pass, so that nobody can know); off the main path to first
    order: as if the gradient had the same direction below the fork.

    A row of operation ``fork`` stands where a tensor was used more than once: the gradients of its ``branches`` are
    summed there, and its gain is that of the sum over the branch on the main path.

    Of a weight layer, ``scale`` is the gain that its scale and shape alone explain (one at the critical scale) and
    ``alignment`` what remains, how the gradient lies to the singular directions of the weight: their product is
    the gain. Of an activation, ``derivative`` is the rms of ``f'`` over the batch and ``flat`` the share of
    its units that are saturated or dead. ``None`` where a factor does not apply or could not be had.
    """

    site: str
    operation: str
    cause: Cause
    gain: float
    log10_gain: float
    grad_rms: float
    main: bool = True
    elements: int = 1
    elements_out: int = 1
    edges: tuple[Edge, ...] = ()
    branches: tuple[Branch, ...] = ()
    parameter: str | None = None
    scale: float | None = None
    alignment: float | None = None
    derivative: float | None = None
    flat: float | None = None
    total_without: float = math.nan
    model: str = ""

    @property
    def log10_norm_gain(self) -> float:
        """The same of Euclidean norms, which a change of width or resolution leaves as they are."""
        return self.log10_gain + 0.5 * math.log10(self.elements_out / self.elements)

    @property
    def change(self) -> float:
        """Decades by which the row changes the gradient, seen kindly: of rms and norm whichever changes less.

        Where an operation changes the number of elements the two differ; a weight that keeps the one, the other,
        or something in between (Glorot) is as it should be.
        """
        low, high = sorted((self.log10_gain, self.log10_norm_gain))
        return 0.0 if low <= 0 <= high else min(abs(low), abs(high))


@dataclass(frozen=True, slots=True, repr=False)
class Ledger(Sequence[LedgerRow]):
    """The backward gains of one step, a sequence of `LedgerRow` from the loss to the input.

    ``end`` names where the main path ends and ``end_rms`` is the rms of the gradient that arrives there:
    ``log10(end_rms) = sum of log10_gain over the rows of the main path``, exactly.
    """

    rows: tuple[LedgerRow, ...] = ()
    end: str = ""
    end_rms: float = math.nan

    @property
    def main(self) -> tuple[LedgerRow, ...]:
        """The rows of the path that carries most of the gradient, from the loss to the input.

        At every fork, seen from the input, it follows the branch that brings the largest gradient.
        """
        return tuple(row for row in self.rows if row.main)

    @property
    def total(self) -> float:
        """Decades between the loss and the end of the main path: the sum of its log gains.

        Minus infinity where a row lets nothing pass; those behind it, which nothing enters, have a gain of NaN. So has
        one that NaN or Inf enters, even if it lets none of it pass: the total is then that of the two ends.
        """
        gains = [row.log10_gain for row in self.rows if row.main]
        if -math.inf in gains:
            return -math.inf
        broken = any(math.isnan(gain) for gain in gains)
        return math.log10(self.end_rms) if broken and self.end_rms > 0 else sum(gains)

    @property
    def by_cause(self) -> dict[str, float]:
        """Decades by cause along the main path; they add up to the total."""
        return decades_by_cause(self.main)

    @property
    def worst(self) -> LedgerRow | None:
        """The row that changes the gradient most and should not, ``None`` of an empty ledger; see `ranked`."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[LedgerRow]:
        """The rows of the network, the one that changes the gradient most first.

        On the main path the measure is `LedgerRow.change`; off it, where gains differ by what an operation is (the
        derivative of a softmax), it is the distance from the median of the same operations, or what the total would
        change by without the row, whichever is less. The loss, pooling, views
        and the lookup of an embedding are what they are and rank last, unless they let nothing pass. A normalization
        that takes back what the weights before it have done (they are scale-free together) ranks by what is left.
        """
        scores = self.scores()
        order = sorted(range(len(self.rows)), key=lambda i: -scores[i])
        return [self.rows[i] for i in order]

    def scores(self) -> list[float]:
        """Decades by which each row changes the gradient and should not, in the order of the rows; see `ranked`.

        Negative for what is not judged, infinite for what lets nothing pass.
        """
        return _scores(self.rows, self.total)

    @overload
    def __getitem__(self, index: int) -> LedgerRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LedgerRow]: ...
    def __getitem__(self, index: int | slice) -> LedgerRow | Sequence[LedgerRow]:
        """The row at this place, the loss first."""
        return self.rows[index]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[LedgerRow]:
        """The rows from the loss to the input."""
        return iter(self.rows)

    def __repr__(self) -> str:
        """In short: how many rows, and their sum."""
        return f"<Ledger of {len(self.rows)} rows to {self.end or 'nowhere'}: {self.total:+.2f} decades>"


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The gradient through time, where one weight is applied again and again to what it made before.

    ``parameter`` is that weight. ``gradients`` are the norms of the gradient at the state after each time step, the
    first step first, all that arrives there (of an LSTM: at the hidden state, and at the cell what does not come
    by way of it); ``gains`` (one less) what the recurrence passes on from each step to the
    one before it, norm over norm, without what a loss at that step adds. ``horizon`` is the number of steps
    after which the gradient has fallen to 1 %: measured, from the last step back, or, where the sequence is shorter,
    continued with the mean gain; infinite where it does not fall. ``by`` holds the mean
    ``log10`` gain of a step of each operation on the way (a matrix by its name, a gate by its), and ``bound`` what the
    derivatives of the activation allow at most over all steps: ``0.25 ** steps`` of a sigmoid.
    """

    site: str
    parameter: str
    steps: int
    gradients: tuple[float, ...]
    gains: tuple[float, ...]
    horizon: float
    by: Mapping[str, float] = field(default_factory=dict)
    bound: float | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Birth:
    """Where the first NaN or Inf of a step came from.

    ``direction`` is ``"forward"`` or ``"backward"``, ``reason`` says it in words, ``inputs`` holds what is known of the
    operation's finite inputs: the largest magnitude, how many zeros, the largest number of the format.
    """

    direction: str
    site: str
    operation: str
    reason: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""


def decades_by_cause(rows: Sequence[LedgerRow], *, norms: bool = False) -> dict[str, float]:
    """The log gains of some rows, summed up by cause."""
    out: dict[str, float] = {}
    for row in rows:
        change = row.log10_norm_gain if norms else row.log10_gain
        if not math.isnan(change):  # nothing entered there
            out[row.cause] = out.get(row.cause, 0.0) + change
    return out


def _scores(rows: Sequence[LedgerRow], total: float) -> list[float]:
    """How far each row is from passing the gradient on, see `Ledger.ranked`."""
    peers: dict[str, list[float]] = {}
    for row in rows:
        if not row.main and math.isfinite(row.log10_norm_gain):
            peers.setdefault(row.operation, []).append(row.log10_norm_gain)
    middle = {operation: sorted(values)[len(values) // 2] for operation, values in peers.items()}
    out = []
    above = 0.0  # what a normalization just nearer to the loss did
    for row in rows:
        change = row.log10_norm_gain
        cut = row.gain == 0 and math.isnan(row.grad_rms)  # it leaves parameters without a gradient
        if cut or (row.gain == 0 and row.main):
            out.append(math.inf)
        elif not math.isfinite(change) or row.cause in ("loss", "reshaping") or row.operation == "embedding":
            out.append(-1.0)
        elif not row.main:
            # What sets a row apart from its like matters only as far as anything comes of it.
            cost = abs(row.total_without - total)
            out.append(0.0 if math.isnan(cost) else min(abs(change - middle[row.operation]), cost))
        else:
            out.append(row.change)
        if row.main and row.cause == "normalization":
            above = change
        elif row.main and row.cause == "weights":
            if above * change < 0:  # the two are scale-free together
                last = max(i for i in range(len(out) - 1) if rows[i].main and rows[i].cause == "normalization")
                out[last] = abs(above + change)
            above = 0.0
        elif row.main and row.cause not in ("reshaping", "connection"):
            above = 0.0
    return out
