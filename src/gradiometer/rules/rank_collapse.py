"""Different inputs, or the tokens of a sequence, become the same on their way through the layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from gradiometer.records import Finding, Reading, Severity, SiteReading
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.cases import signals
from gradiometer.rules.collapsed_embeddings import collapsed_embeddings
from gradiometer.rules.depth import takes_part
from gradiometer.rules.progress import ENOUGH
from gradiometer.rules.vanishing_gradient import ALONE, PATIENCE

SAME = 1e-4
"""One minus the cosine between inputs below which a training that does not learn has its reason.

What all inputs share has a share c of the squares that a layer sees, what tells them apart 1 - c: the Hessian of the
layer above has eigenvalues that differ by 1 / (1 - c), and with a step as long as the shared direction allows that
many steps are needed for the rest (LeCun et al., Efficient BackProp, 1998): ten thousand here. Tried on tanh and ReLU
networks of 5 to 30 layers: with SGD those at 2e-4 learned late, those at 7e-5 and below did not in 300 steps. He's
initialization stands at 1e-1 at depth 30 and 2e-3 at depth 60, and learns.
"""

BLENDED = 1e-2
"""The same between the tokens of a sequence, where attention without skips has mixed them and each has to be answered.

Causal language models of 8 such layers stand at 5e-4 to 1e-2 and do not learn; with skips it is 0.9.
"""

ROUNDING = 1e-6
"""What float32 resolves: 1 - c is accurate to a few 1e-7. Inputs nearer than that cannot be told apart at all."""

LOST = 2.0
"""Decades of 1 - c that must be gone since the first layers: inputs that come alike are no loss by depth."""

_FLOOR = 1e-7
_LAYERS = ("weights", "attention")  # a product with an adjacency matrix has no weights, and averages all the same

Between = Literal["examples", "tokens"]


@dataclass(frozen=True, slots=True)
class Collapse:
    """Where inputs have become alike for good: ``layers`` from there on, ``before`` and ``after`` are 1 - c."""

    between: Between
    layers: tuple[str, ...]
    first: str
    before: float
    after: float
    offset: float | None


def check(patient: Patient) -> list[Finding]:
    """One finding for each model whose last layers see the same whatever comes in."""
    readings = sorted({r.step: r for r in patient.traced}.values(), key=lambda r: r.step)
    out: list[Finding] = []
    for model in dict.fromkeys(row.site.model for row in readings[-1].sites) if readings else ():
        for between in ("examples", "tokens"):
            found, birth = (collapse(r, model, between) for r in (readings[-1], readings[0]))
            progress = patient.progress
            if progress.learning is False and not progress.little and len(patient.losses) >= PATIENCE:
                found = found or birth  # it has parted them since, and learned nothing from it
            if found is not None:
                born = birth is not None
                severity = _severity(patient, found, born)
                if severity is not None:
                    out.append(_finding(found, severity, readings, model, born))
                    break
    embeddings = collapsed_embeddings(patient) if not out else None
    return [embeddings] if embeddings is not None else out


def collapse(reading: Reading, model: str, between: Between) -> Collapse | None:
    """The last stretch of a model in which nothing tells inputs apart any more, up to its last layer.

    Everything in the stretch must be alike, sums included: a branch that starts at zero or a bias that is the same for
    all does no harm where a skip carries the inputs past it.
    """
    rows = [row for row in reading.sites if row.site.model == model and row.site.cause != "loss"]
    last = max((i for i, row in enumerate(rows) if row.site.cause == "weights"), default=None)
    if last is None:
        return None
    if between == "tokens":
        # Only where each token is answered: what is averaged over tokens may be the same for all of them.
        if rows[last].positions is None or all(row.site.cause != "attention" for row in rows):
            return None
        last += 1  # of examples only what enters the last layer counts: it may well put out a constant at first
    seen = [(i, row, _apart(row, between)) for i, row in enumerate(rows[:last]) if row.units > 1]
    known = [(i, row, apart) for i, row, apart in seen if apart is not None]
    start = len(known)
    while start and known[start - 1][2] <= (SAME if between == "examples" else BLENDED):
        start -= 1
    stretch, earlier = known[start:], known[:start]
    layers = [(row, apart) for _, row, apart in stretch if row.site.cause in _LAYERS]
    origin = [(row, apart) for _, row, apart in earlier if row.site.cause in _LAYERS]
    if len(layers) < (1 if between == "tokens" else 2) or not origin:
        return None  # depth is more than one layer
    top = max(range(len(origin)), key=lambda k: origin[k][1])
    before, after = origin[top][1], max(layers[-1][1], _FLOOR)
    if math.log10(before / after) < LOST or any(_all_dead(row) for row in rows[earlier[-1][0] : last]):
        return None
    path = [max(apart, _FLOOR) for _, apart in (*origin[top:], *layers)]
    steepest = max(math.log10(a / b) for a, b in pairwise(path))
    if between == "examples" and steepest > ALONE * math.log10(before / after):
        return None  # one layer that does not look at its inputs, not depth
    offset = layers[-1][0].offset if between == "examples" else None
    return Collapse(between, tuple(row.name for row, _ in reversed(layers)), origin[top][0].name, before, after, offset)


def _apart(row: SiteReading, between: Between) -> float | None:
    cosine = row.correlation if between == "examples" else row.positions
    return None if cosine is None or not math.isfinite(cosine) else 1 - cosine


def _all_dead(row: SiteReading) -> bool:
    return row.dead is not None and row.dead == row.units


def _severity(patient: Patient, found: Collapse, born: bool) -> Severity | None:
    learning = patient.progress.learning
    if learning is True:
        return None
    # Adam finds its way out of ten layers that are alike to rounding, not so where attention has made all tokens one.
    exact, tokens = found.after <= ROUNDING, found.between == "tokens"
    adapts = takes_part(patient) and not (tokens and exact)
    if learning is None:
        surely = born and exact and not adapts and len(found.layers) >= (3 if tokens else 2)
        return "warning" if surely and len(patient.losses) < ENOUGH else None
    if not born or (adapts and len(patient.losses) < PATIENCE):
        return "info"  # what came of the training, or what it may yet undo
    return "critical" if found.after <= SAME else "warning"


def _finding(found: Collapse, severity: Severity, readings: list[Reading], model: str, born: bool) -> Finding:
    onset = next((r.step for r in readings if collapse(r, model, found.between) is not None), readings[-1].step)
    tokens = found.between == "tokens"
    what = "tokens of a sequence" if tokens else "inputs"
    exact = found.after <= ROUNDING
    end = f"less than {_degrees(ROUNDING):.1g}" if exact else f"{_degrees(found.after):.2g}"
    reason = (
        "Attention averages over tokens, and nothing carries them past it."
        if tokens
        else "What the layers add to every input alike (biases, the mean of activations) outweighs what differs."
    )
    return Finding(
        kind="rank_collapse",
        severity=severity,
        sites=found.layers,
        evidence={
            "between": found.between,
            "mixing": any(r.site.cause == "attention" and r.site.model == model for r in readings[-1].sites),
            "apart_before": found.before,
            "apart_after": found.after,
            "decades": math.log10(found.before / found.after),
            "layers_alike": len(found.layers),
            "offset": found.offset,
            "born": born,
            "onset": onset,
            "step": readings[-1].step,
        },
        cause=(
            "attention without skip connections"
            if tokens
            else "layers that bring inputs nearer to each other, each a bit"
        ),
        explanation=(
            f"Different {what} leave {found.first} {_degrees(found.before):.0f} degrees apart and {found.layers[0]} "
            f"{end}: the last {len(found.layers)} layers see the same whatever comes in, and cannot learn to answer "
            f"differently. {reason}"
        ),
        remedies=(
            ("skip connections around attention", "an MLP with a skip behind it", "fewer attention layers")
            if tokens
            else (
                "weights at the edge of chaos: He for ReLU, Xavier for tanh, biases zero",
                "residual connections",
                "batch normalization",
                "fewer layers",
            )
        ),
        wrong_if=(
            "all tokens of a sequence shall get the same answer"
            if tokens
            else "the batch holds one input many times over"
        ),
    )


def _degrees(apart: float) -> float:
    return math.degrees(math.acos(max(-1.0, 1 - apart)))


_ORDERED = (0.2, 4e-2, 1e-2, 2e-3, 4e-4, 8e-5, 2e-5, 3e-6, 7e-7, 1e-7, 1e-7, 1e-7)
_TORCH = (0.5, 0.3, 0.16, 5e-2, 1e-2, 2e-3, 4e-4, 8e-5, 1e-5, 2e-6, 4e-7)
_HE = (0.57, 0.4, 0.33, 0.18, 0.1, 9e-2, 8e-2, 7e-2, 9e-2)
_MIXED = (1.0, 1e-2, 1e-5, 1e-7, 1e-7, 1e-7)

RULE = Rule(
    kind="rank_collapse",
    check=check,
    sick=(
        Case("tanh in the ordered phase, not learning", signals.likeness(_ORDERED, loss="stalled")),
        Case("the same at the first step", signals.likeness(_ORDERED, loss="unknown")),
        Case("ten ReLU layers as torch draws them, SGD", signals.likeness(_TORCH, loss="stalled")),
        Case("ordered, and Adam does not help", signals.likeness(_ORDERED, loss="stalled", speed=1e-3)),
        Case("attention without skips", signals.likeness(_MIXED, loss="stalled", tokens=True, speed=1e-3)),
        Case("the same at the first step", signals.likeness(_MIXED, loss="unknown", tokens=True, speed=1e-3)),
        Case(
            "causal attention without skips",
            signals.likeness((0.6, 0.2, 9e-2, 5e-2, 2e-2, 8e-3, 2e-3), loss="stalled", tokens=True, speed=1e-3),
        ),
        Case("two layers alike, one after the other", signals.likeness((0.9, 2e-2, 9e-5, 9e-6, 0.5), loss="stalled")),
        Case("embeddings compared with each other only", signals.compared((0.3, 1e-2, 5e-4))),
        Case("the same, just as near as they never come back from", signals.compared((0.3, 1e-2, 2.9e-3))),
        Case("targets of the network's own that shrink", signals.shrinking((1.0, 1.0, 0.9, 0.09, 0.08, 0.07))),
    ),
    healthy=(
        Case("embeddings on their way that part again", signals.compared((0.3, 4e-3, 1e-2))),
        Case("embeddings that are a little further apart", signals.compared((0.9, 1e-2, 3.1e-3))),
        Case("embeddings that come alike", signals.compared((8e-3, 2e-3, 5e-4))),
        Case("embeddings that are 80 times nearer than at birth", signals.compared((0.2, 1e-2, 2.5e-3))),
        Case("targets that vary by half as much", signals.shrinking((1.0, 1.0, 0.9, 0.5, 0.5, 0.5))),
        Case("targets that vary nine times less", signals.shrinking((1.0, 1.0, 1.0, 0.11, 0.11, 0.11))),
        Case("an outlier among the first targets", signals.shrinking((50.0, 3.0, 2.5, 3.0, 2.0, 3.0))),
        Case("targets that do not vary in the newest batch", signals.shrinking((1.0, 1.0, 1.0, 1.0, 1.0, 0.05))),
        Case("data of less variance than the answers", signals.shrinking((1.0,) * 3 + (0.05,) * 3, (1.0,) * 6)),
        Case("a regression whose answers are nearly the same", signals.compared((0.3, 1e-2, 5e-4), targets=True)),
        Case("He initialization at depth 30", signals.likeness(_HE, loss="unknown")),
        Case("the same, not learning for other reasons", signals.likeness(_HE, loss="stalled")),
        Case("depth 60", signals.likeness((0.5, 0.3, 0.1, 3e-2, 1e-2, 4e-3, 2e-3), loss="stalled")),
        Case("ten ReLU layers as torch draws them, and Adam", signals.likeness(_TORCH, loss="unknown", speed=1e-3)),
        Case("the same before it has had time", signals.likeness(_TORCH, loss="stalled", speed=1e-3, losses=60)),
        Case("alike, and it learns", signals.likeness(_ORDERED, loss="learning")),
        Case("a batch of one input", signals.likeness((1e-7,) * 8, loss="stalled")),
        Case("inputs that come alike", signals.likeness((1e-3, 8e-4, 4e-4, 2e-4, 9e-5, 7e-5), loss="stalled")),
        Case("an output that is constant at birth", signals.likeness((0.6, 0.5, 0.4, 1e-7), loss="unknown")),
        Case("one layer alone is no depth", signals.likeness((0.9, 2e-2, 9e-5, 0.5), loss="stalled")),
        Case("one layer that starts at zero, with a bias", signals.likeness((0.6, 0.5, 1e-7, 1e-7), loss="stalled")),
        Case("branches that start at zero, beside skips", signals.likeness(_ORDERED, loss="stalled", skips=True)),
        Case(
            "below a layer that is dead", signals.likeness((0.6, 0.5, 0.3, 1e-3, 1e-5, 1e-7), loss="stalled", dead=True)
        ),
        Case("what came of a training gone astray", signals.likeness(_ORDERED, loss="stalled", birth=_HE)),
        Case("tokens alike, and averaged", signals.likeness(_MIXED, loss="stalled", tokens=True, pooled=True)),
        Case("tokens of a transformer", signals.likeness((0.98, 0.95, 0.9, 0.9), loss="stalled", tokens=True)),
    ),
)
