"""Attention that looks at one place only, or whose logits grow until it does."""

from __future__ import annotations

import math
from itertools import pairwise

from gradiometer.records import Finding, Reading, Severity, SiteReading
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.cases import signals
from gradiometer.rules.patience import unwell
from gradiometer.rules.progress import ENOUGH, TRAINED

ONE_PLACE = 0.05
"""Entropy, of that of even attention, below which nearly every query has decided.

A query that hesitates between two places has one bit of the log2(n) that even attention over n has: with 0.05 of that
it is 0.2 of the queries for 16 places and half of them for 1000. Tried on small language models whose query and key
weights were multiplied by 3, 5, 10 and 30: entropies at birth of 0.6, 0.17, 0.04 and 0.004. The first two learned
after a delay; of what the model learned in 700 steps the third had a fifth and the fourth nothing that takes attention.
"""

FAR = math.log(2**24)
"""Nats between the largest logit and the mean (16.6): the mean place then weighs less than float32 resolves beside one.

Sharp heads of networks that learn stay below it: what looks at one of a thousand places with 99 % needs 12 nats.
"""

GROWN = 4.0
"""Factor against birth from which on logits count as grown: twice the scale of both queries and keys."""

FADING = 0.5
"""Share of the entropy at birth that growing logits have left when it is time to speak, short of a collapse."""

FEW = 4
"""Places among which to choose one is no loss."""

_MIXING = ("attention", "connection")
_AHEAD = 6
"""Operations after a softmax among which its product with the values must be: masks, dropout, their projection."""

_PRODUCTS = frozenset("matmul bmm einsum baddbmm mm mul".split())  # or weighted one by one, and summed

UNDECIDED = 0.15
"""Entropy up to which logits of twice `FAR` count as a collapse as well: the few queries that are torn between two
places keep an average up, and have no more of a gradient than the others. Position biases leave more."""


def check(patient: Patient) -> list[Finding]:
    """One finding for all layers that look at one place each, or whose logits are on the way there."""
    readings = sorted({r.step: r for r in patient.traced if any(_attends(r))}.values(), key=lambda r: r.step)
    if not readings:
        return []
    newest = _attends(readings[-1])
    collapsed = [name for name, row in newest.items() if _one_place(row)]
    growing = [name for name in newest if name not in collapsed and _keeps_growing(readings, name)]
    found = sorted(collapsed or growing, key=lambda name: newest[name].entropy or 0.0)
    if not found:
        return []
    early = [_attends(r) for r in readings if r.step < ENOUGH]
    born = [name for name in found if any(name in at and _one_place(at[name]) for at in early)]
    most = 2 * len(found) >= len(newest)
    severity = _severity(patient, readings[0], most=most, whole=bool(collapsed), born=bool(born))
    return [_finding(severity, readings, found, bool(born), len(newest))] if severity is not None else []


def _severity(patient: Patient, first: Reading, *, most: bool, whole: bool, born: bool) -> Severity | None:
    learning = patient.progress.learning
    if learning is False:
        return "critical" if most and whole else "warning"
    if unwell(patient) and most and whole and born and not _trained(first):
        return "warning"
    if learning is None and most and whole and len(patient.losses) < ENOUGH and not _trained(first):
        return "warning"
    return "info" if most and whole else None


def _trained(reading: Reading) -> bool:
    """Whether the network had learned before it was watched: heads that attend sharply are what it has learned."""
    guesses = [task.guess for task in reading.tasks if task.direct and task.guess is not None]
    return reading.loss is not None and len(guesses) == 1 and reading.loss < TRAINED * guesses[0]


def _attends(reading: Reading) -> dict[str, SiteReading]:
    """The sites of attention; a softmax is one if its output is multiplied with values soon after."""
    out = {}
    for i, row in enumerate(reading.sites):
        if row.entropy is None or row.sharpness is None:
            continue
        if row.site.operation == "softmax":
            ahead = [r for r in reading.sites[i + 1 : i + 1 + _AHEAD] if r.site.model == row.site.model]
            multiplied = any(r.site.operation in _PRODUCTS and r.site.cause in _MIXING for r in ahead)
            places = row.shape[-1] if row.shape[-1] > 1 else row.shape[-2]
            if not multiplied or places < FEW:
                continue
        out[row.name] = row
    return out


def _one_place(row: SiteReading) -> bool:
    entropy, distance = _known(row.entropy, 1.0), _known(row.sharpness, 0.0)
    return (entropy <= ONE_PLACE and distance >= FAR) or (entropy <= UNDECIDED and distance >= 2 * FAR)


def _known(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or not math.isfinite(value) else value


def _keeps_growing(readings: list[Reading], name: str) -> bool:
    """Whether the logits have grown in every reading since birth, and beyond what leaves half of the entropy."""
    rows = [found[name] for r in readings if name in (found := _attends(r))]
    distances = [_known(row.sharpness, 0.0) for row in rows]
    first, last = rows[0], rows[-1]
    rising = len(rows) >= 3 and all(b > a for a, b in pairwise(distances))
    faded = _known(last.entropy, 1.0) <= FADING * _known(first.entropy, 0.0)
    return rising and faded and distances[-1] >= max(FAR, GROWN * distances[0])


def _finding(severity: Severity, readings: list[Reading], names: list[str], born: bool, layers: int) -> Finding:
    worst = names[0]
    first, last = _attends(readings[0]).get(worst), _attends(readings[-1])[worst]
    entropy, distance = last.entropy or 0.0, last.sharpness or 0.0
    early = first.sharpness if first is not None else None
    # Logits may grow within the very first steps, and are no matter of how weights were drawn for that.
    grown = first is not None and not _one_place(first) and early is not None and distance >= GROWN * early
    onset = next(
        (r.step for r in readings if any(_one_place(row) for n, row in _attends(r).items() if n in names)),
        readings[-1].step,
    )
    many = f", and so do {len(names) - 1} more of {layers} such layers" if len(names) > 1 else ""
    since = (
        f" At step {readings[0].step} it was {early:.2g}."
        if grown
        else " It was so from the beginning on."
        if born
        else ""
    )
    return Finding(
        kind="attention_collapse",
        severity=severity,
        sites=tuple(names),
        evidence={
            "entropy": {name: _attends(readings[-1])[name].entropy for name in names},
            "sharpness": {name: _attends(readings[-1])[name].sharpness for name in names},
            "sharpness_at_birth": early,
            "layers_collapsed": len(names),
            "layers": layers,
            "onset": onset,
            "step": readings[-1].step,
        },
        cause=(
            f"the logits of the attention have grown {distance / early:.0f}-fold since step {readings[0].step}"
            if grown and early
            else "queries and keys of too large a scale: weights, inputs, or logits not divided by sqrt(d)"
        ),
        explanation=(
            f"{worst} keeps {100 * entropy:.2g} % of the entropy of even attention{many}: its largest logit stands "
            f"{distance:.3g} nats above the mean.{since} A softmax that far out hardly changes with its logits, "
            "so that the gradient no longer tells queries and keys where else to look."
        ),
        remedies=(
            "normalized queries and keys (QK norm)",
            "a lower learning rate with warm-up" if grown else "logits divided by sqrt(d), Xavier initialization",
            "normalization before the attention",
            "weight decay on queries and keys",
        ),
        wrong_if="the task is a lookup of one place for which these weights were made, or the loss falls all the same",
    )


RULE = Rule(
    kind="attention_collapse",
    check=check,
    sick=(
        Case("one place each from birth, not learning", signals.attention((0.004, 440.0), loss="stalled")),
        Case("the same at the first step", signals.attention((0.004, 440.0), loss="unknown")),
        Case("ten times too large weights", signals.attention((0.04, 49.0), loss="stalled")),
        Case(
            "a softmax written by hand, then dropout and a product",
            signals.attention((0.004, 440.0), loss="stalled", operation="softmax"),
        ),
        Case("logits that grew and lost it", signals.attention((0.01, 90.0), birth=(0.97, 0.5), loss="stalled")),
        Case("logits on their way there", signals.attention((0.3, 25.0), birth=(0.97, 0.5), loss="stalled")),
        Case("one place each from birth, and half is learned", signals.attention((0.004, 440.0), loss="half")),
        Case(
            "collapsed in the first steps, and half is learned",
            signals.attention((0.004, 440.0), birth=(0.97, 0.5), since=ENOUGH - 1, loss="half"),
        ),
        Case("one layer of twelve", signals.attention((0.004, 440.0), loss="stalled", layers=12, collapsed=1)),
    ),
    healthy=(
        Case("even at birth", signals.attention((0.98, 0.5), loss="unknown")),
        Case("even, and it does not learn", signals.attention((0.98, 0.5), loss="stalled")),
        Case(
            "sharp heads of a network that learns", signals.attention((0.02, 30.0), birth=(0.97, 0.5), loss="learning")
        ),
        Case("one place each from birth, and most is learned", signals.attention((0.004, 440.0), loss="most")),
        Case(
            "collapsed when half was learned",
            signals.attention((0.004, 440.0), birth=(0.97, 0.5), since=ENOUGH, loss="half"),
        ),
        Case("a pretrained network at its first step", signals.attention((0.03, 20.0), loss="unknown", trained=True)),
        Case("sharp, not flat: five times the weights", signals.attention((0.17, 12.0), loss="stalled")),
        Case("far logits of a position bias, entropy left", signals.attention((0.25, 120.0), loss="stalled")),
        Case("one layer of twelve at birth", signals.attention((0.0, 440.0), loss="unknown", layers=12, collapsed=1)),
        Case(
            "a softmax that chooses between two",
            signals.attention((0.0, 60.0), loss="stalled", operation="softmax", keys=2),
        ),
        Case(
            "a softmax that is an output",
            signals.attention((0.001, 40.0), loss="stalled", operation="softmax", product=False),
        ),
    ),
)
