"""Targets that the output cannot meet: out of its range, or of another shape."""

from __future__ import annotations

import math

from gradiometer.records import Reading, Severity, Task
from gradiometer.records.task import BOUNDED
from gradiometer.rules.mismatch import BINARY, DIFFERENCES, LARGE, SMALL, Mismatch, nearest

ALIKE = 1e-5
"""Of the targets' range: what rounding makes of a spread of zero in float32, a hundred times over."""

BEYOND = 2.0
"""Spread of the targets over half the range of outputs that stand at their bounds: most of it is out of reach."""

FLAT = 0.5
"""Share of the outputs that stand at a bound."""

EDGE = 0.95
"""Largest output of a recurrent cell, a product of a gate and a tanh, that counts as its bound of one."""

_CELLS = ("gru", "lstm", "rnn", "gru_cell", "lstm_cell", "rnn_cell")

_NAMES = {"nll_loss": "cross-entropy", "mse_loss": "a mean squared error"}


def targets_beyond(task: Task) -> Mismatch | None:
    """An output whose activation cannot give what the targets ask for."""
    operation = nearest(task)
    if task.loss not in DIFFERENCES or operation not in BOUNDED or not task.beyond or task.targets is None:
        return None
    spread = task.spread[1] if task.spread is not None else math.nan
    if math.isnan(spread):
        return None
    share = (task.beyond / spread) ** 2 if spread > 0 else math.inf
    if share < SMALL:
        return None
    (low, high), (least, most) = BOUNDED[operation], task.targets
    severe: Severity = "critical" if share >= LARGE else "warning"
    values = "from 0 on" if math.isinf(high) else f"{low:g} to {high:g}"
    said = f"{share:.0%} of their variance" if share < 1 else "more than all of their variance"
    return Mismatch(
        cause=f"a {operation} as the output, and targets outside its range",
        operation=operation,
        explanation=(
            f"The output is a {operation}, which gives values {values}, and the targets lie between {least:.3g} and "
            f"{most:.3g}: {said} cannot be reached."
        ),
        remedies=("no activation at the output", "targets scaled to the range of the output"),
        wrong_if="the targets outside the range are meant to be cut off",
        stalled=severe,
        unknown="warning" if share >= LARGE else "info",
        learning="warning" if share >= LARGE else "info",
        evidence={"unreachable_share_of_variance": share, "range": (low, high), "targets": (least, most)},
    )


def held_in(task: Task, reading: Reading) -> Mismatch | None:
    """An output that stands at the bounds of what it can give, times a constant or out of a recurrent cell."""
    if task.loss not in DIFFERENCES or None in (task.outputs, task.spread) or nearest(task) in BOUNDED:
        return None
    low, high = task.outputs or (0.0, 0.0)
    half, spread = (high - low) / 2, (task.spread or (0.0, 0.0))[1]
    last = max((i for i, row in enumerate(reading.sites) if row.site.cause == "weights"), default=None)
    if last is None or not spread > BEYOND * max(half, max(abs(low), abs(high)) / 2):
        return None
    behind = [row for row in reading.sites[last:] if row.site.operation in BOUNDED and (row.saturation or 0) >= FLAT]
    cell = reading.sites[last]
    if cell.site.operation in _CELLS and high <= 1 and low >= -1 and max(high, -low) >= EDGE:
        behind.append(cell)
    if not behind:
        return None
    operation = behind[-1].site.operation
    return Mismatch(
        cause=f"a {operation} as the output, and targets outside its range",
        operation=operation,
        explanation=(
            f"The outputs come from a {operation} and stand at its bounds, {low:.3g} and {high:.3g}; the targets vary "
            f"by {spread:.3g}, and cannot be reached."
        ),
        remedies=("a linear layer as the output", "targets scaled to the range of the output"),
        wrong_if="the targets outside the range are meant to be cut off",
        unknown="info",
        learning="info",
        evidence={"outputs": (low, high), "spread_of_targets": spread},
    )


def binary_targets(task: Task, reading: Reading) -> Mismatch | None:
    """Binary cross-entropy with targets that are no probabilities: it can fall without end."""
    if task.loss not in BINARY or task.targets is None:
        return None
    low, high = task.targets
    if low >= -ALIKE and high <= 1 + ALIKE:
        return None
    return Mismatch(
        cause="targets outside 0 to 1 in binary cross-entropy",
        operation=task.loss,
        explanation=(
            f"Binary cross-entropy takes targets from 0 to 1 and gets {low:.3g} to {high:.3g}: "
            "for those outside it falls without end as the output grows."
        ),
        remedies=("targets of 0 and 1 ((t + 1) / 2 for -1 and 1)", "mse_loss, if they are no probabilities"),
        wrong_if="never: such a target is the log-likelihood of nothing",
        evidence={"targets": (low, high), "loss": reading.loss},
    )


def stretched(task: Task, reading: Reading) -> Mismatch | None:
    """Shapes that were broadcast: N outputs against N targets become N times N pairs."""
    if not task.broadcast:
        return None
    if task.targets is None or task.spread is None or task.outputs is None:
        return _pairs(task)  # by hand: known from the shapes alone
    ranges = [pair[1] - pair[0] for pair in (task.outputs, task.targets)]
    if not ranges[1] > 0:
        return None  # one constant, as the labels of a discriminator: it fits every shape
    own = [math.prod(row.shape) for row in reading.sites if row.site.cause == "weights"]
    one_each = task.examples > 1 and task.examples in own
    flat = [s <= ALIKE * r for s, r in zip(task.spread, ranges, strict=True)]
    pairs = one_each and any(flat)
    if not pairs and not (one_each and not any(flat)):
        # Targets along a dimension of the outputs that is not the examples': an ensemble, several steps. Mostly meant.
        return None
    return _pairs(task) if pairs else _stretched(task)


def _pairs(task: Task) -> Mismatch:
    n = task.examples
    return Mismatch(
        cause=_SHAPES,
        operation=task.loss,
        explanation=(
            f"The network gives one number for each of {n} examples, and the loss compares every one with the targets "
            f"of all {n}: the shapes ({n}, 1) and ({n},) were broadcast to ({n}, {n}). The best answer is then the "
            "mean target for all."
        ),
        remedies=_SAME_SHAPE,
        wrong_if=_MEANT,
        evidence={"examples": n, "spread_of_outputs_and_targets": task.spread},
    )


def _stretched(task: Task) -> Mismatch:
    n = task.examples
    return Mismatch(
        cause=_SHAPES,
        operation=task.loss,
        explanation=f"The network gives one number for each of {n} examples, stretched to several targets each.",
        remedies=_SAME_SHAPE,
        wrong_if=_MEANT,
        stalled="warning",
        unknown="info",
        learning="info",
        evidence={"examples": n, "spread_of_outputs_and_targets": task.spread},
    )


_SHAPES = "output and targets have different shapes, and the loss broadcasts them"
_SAME_SHAPE = ("targets of the shape of the output (targets.view_as(outputs))", "an output for every target")
_MEANT = "the shapes of size 1 are meant"
