"""Cross-entropy and binary cross-entropy of what are no logits, or no probabilities."""

from __future__ import annotations

import math

from gradiometer.records import Reading, Task
from gradiometer.records.task import BOUNDED
from gradiometer.rules.mismatch import ENTROPIES, LARGE, SCORES, SMALL, Mismatch, first, nearest

_TWICE = ("softmax", "sigmoid")
"""What the loss does once more itself: never meant."""

_NARROW = ("tanh", "hardtanh", "hardsigmoid")
"""Bounded on both sides, so that no logit leaves the interval whatever the weights are."""


def single_class(task: Task, reading: Reading) -> Mismatch | None:
    """A softmax over one class is one, whatever the network says."""
    operation = first(task)
    if task.width != 1 or operation not in ("softmax", "log_softmax"):
        return None
    only = len(reading.tasks) == 1
    return Mismatch(
        cause=f"a {operation} over a single output",
        operation=operation,
        explanation=(
            f"The {operation} before the loss runs over a dimension of size 1, where it gives "
            f"{'0' if operation == 'log_softmax' else '1'} whatever the network says: no gradient comes back from it."
        ),
        remedies=(
            "binary_cross_entropy_with_logits for a yes or no",
            "an output for every class",
            "the dimension of the classes (dim=1), if the softmax runs over another",
        ),
        wrong_if="another loss of the same step is the one that matters",
        unknown="critical" if only else "warning",
        learning="critical" if only else "warning",
        evidence={"width": 1, "loss": reading.loss},
    )


def bounded_logits(task: Task) -> Mismatch | None:
    """Cross-entropy of logits that are held in an interval: it cannot come near zero."""
    classes = task.loss in ENTROPIES and task.before[:1] == ("log_softmax",)
    operation = nearest(task)
    if task.loss == "cross_entropy" and operation not in _TWICE:
        return None  # soft labels may ask for no more than a bounded logit gives
    if not (classes or task.loss == "binary_cross_entropy_with_logits") or operation not in BOUNDED:
        return None
    low, high = BOUNDED[operation]
    if classes:
        if task.width is None or task.width < 2:
            return None
        number, guess = task.width, math.log(task.width)
        floor = math.log1p((number - 1) * math.exp(low - high))
        of = f"over {number} classes"
    else:
        guess, of = math.log(2), "with as many ones as zeros"
        floor = (math.log1p(math.exp(-high)) + math.log1p(math.exp(low))) / 2
    share, twice = floor / guess, operation in _TWICE
    own = ("softmax" if classes else "sigmoid") + " of its own"
    what = "cross-entropy" if classes else "binary cross-entropy with logits"
    limits = f"between {low:g} and {high:g}" if math.isfinite(high) else "never below zero"
    least = f"{of} the loss cannot fall below {floor:.2f} (a constant guess has {guess:.2f})" if share > SMALL else ""
    return Mismatch(
        cause=f"a {operation} before {what}, which has a {own}",
        operation=operation,
        explanation=(
            f"The last layer's output goes through a {operation} and then into {what}, which has a {own}: "
            f"the logits lie {limits}{', and ' if least else ''}{least}."
        ),
        remedies=(
            f"leave out the {operation}: the loss takes the raw output",
            *(("nll_loss of log_softmax",) if operation == "softmax" and classes else ()),
        ),
        wrong_if="what goes into the loss is multiplied to a wider range between the two",
        stalled="critical" if twice or share >= LARGE else "warning",
        unknown="warning" if twice or (share >= LARGE and operation in _NARROW) else "info",
        learning="warning" if twice else "info",
        poor="warning" if share >= LARGE else "info",
        evidence={"floor": floor, "constant_guess": guess, "logits": (low, high), "classes": task.width},
    )


def log_softmax_twice(task: Task) -> Mismatch | None:
    """Once more changes nothing, since the first has normalized already."""
    if task.loss != "nll_loss" or task.before[:2] != ("log_softmax", "log_softmax"):
        return None
    return Mismatch(
        cause="log_softmax before cross-entropy, which has one of its own",
        operation="log_softmax",
        explanation="log_softmax is taken twice before the loss: the second one changes nothing but costs time.",
        remedies=("leave out the log_softmax, or use nll_loss",),
        wrong_if="never: it is harmless",
        stalled="info",
        unknown="info",
        learning="info",
    )


def raw_scores(task: Task, reading: Reading) -> Mismatch | None:
    """The negative log-likelihood of numbers that are no log-probabilities: it falls without end."""
    operation = first(task)
    if task.loss != "nll_loss" or operation not in SCORES:
        return None
    if task.outputs is not None and task.outputs[1] <= 0:
        return None
    probabilities = operation == "softmax"
    what = "probabilities" if probabilities else "raw scores"
    negative = reading.loss is not None and reading.loss < 0
    return Mismatch(
        cause=f"nll_loss of {what} ({operation}) instead of log-probabilities",
        operation=operation,
        explanation=(
            f"nll_loss gets the output of {operation}: {what}, where it expects the log of probabilities. "
            + (
                "What it then minimizes is minus the probability, with hardly a gradient where the network is wrong."
                if probabilities
                else "It falls without end as the scores grow, and no class has to give way to another."
            )
        ),
        remedies=("cross_entropy of the raw scores", "log_softmax before nll_loss"),
        wrong_if="the network gives log-probabilities already (none of its outputs is above zero)",
        learning="critical" if negative and not probabilities else "warning",
        evidence={"loss": reading.loss, "largest_output": task.outputs[1] if task.outputs else None},
    )
