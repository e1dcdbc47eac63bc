"""Units of one layer that are copies of each other, and stay so."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from gradiometer.records import Finding, ParameterReading, Reading, Severity
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.cases import tasks as cases
from gradiometer.rules.depth import parameters_of
from gradiometer.rules.patience import PATIENCE, in_time, learning, severity

MOST = 0.5
"""Share of a layer's units above which it is a smaller layer than it looks.

Just half of them are alike where every unit is drawn twice with opposite signs behind it, so that the network begins
at zero (Chizat, Oyallon and Bach, 2019): those part at the first step.
"""

SAME = 1e-3
"""Difference of two gradient norms, relative to the largest, below which the units that get them move alike.

Sums in another order differ by 1e-6 or so in float32, by 1e-3 in the 16-bit formats; units drawn at random differ by
some tenths.
"""

CUT = 0.9
"""Of the copies, the share that gets no gradient at all where the copies are rows that were cut away."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """A hidden layer with copies: their share, how many units are different, and what gradients they get."""

    name: str
    share: float
    units: int
    distinct: int
    alike: bool
    silent: bool


def check(patient: Patient) -> list[Finding]:
    """One finding for the hidden layers most of whose units are copies and get the gradients of copies."""
    traced = [r for r in in_time(patient) if r.ledger and any(p.copies is not None for p in r.parameters)]
    if not traced:
        return []
    last = traced[-1]
    layers = [layer for layer in _layers(last) if layer.alike]
    lasts = last.step > traced[0].step
    if lasts:
        # Units that part are no longer copies; those that weight decay has taken to zero were none at first.
        before = {layer.name for layer in _layers(traced[0])}
        layers = [layer for layer in layers if layer.name in before]
    if not layers:
        return []
    # A gradient that is zero as well may come later, from above; where two layers are zero it never does.
    moving = any(not layer.silent for layer in layers)
    unknown: Severity = "critical" if moving or _stuck(layers, last) else "info"
    # Whatever the loss does: units that are equal after so many steps that moved them are equal for ever.
    strong = lasts and moving and len(patient.losses) >= PATIENCE
    severe = severity(patient, stalled="critical", unknown=unknown, learns="warning" if strong else "info")
    if severe == "info" and learning(patient) is None:
        return []
    return [_finding(layers, severe, traced[0].step, last)]


def _layers(reading: Reading) -> list[_Layer]:
    """Hidden layers with more copies than originals."""
    hidden = _hidden(reading)
    out = []
    for p in reading.parameters:
        if p.copies is None or not p.copies > MOST or p.name not in hidden or not p.parameter.trainable:
            continue
        units = p.parameter.shape[p.parameter.unit_dim]
        distinct = max(1, round(units * (1 - p.copies)))
        out.append(_Layer(p.name, p.copies, units, distinct, _move_alike(p, distinct), not p.grad_rms))
    return out


def _hidden(reading: Reading) -> set[str]:
    """Weights of all layers but tied embeddings, each model's last layer, often born zero, and ends of branches."""
    names = parameters_of((reading,))
    weights = [row for row in reading.sites if row.site.cause == "weights"]
    last = {row.site.model: row for row in weights}
    branches = {row.name for row, behind in pairwise(reading.sites) if behind.site.operation == "add"}
    columns = {p.name.removesuffix(".weight") for p in reading.parameters if p.parameter.unit_dim}
    rows = {row.name for row in weights if row.site.operation == "embedding"} - columns
    others = rows | {row.name for row in last.values()}
    # A functional layer adds its bias as a branch is added to a skip, but then its weight goes by another name.
    left_out = {names[n] for n in others if n in names} | {f"{n}.weight" for n in others | branches}
    return {p.name for p in reading.parameters if len(p.parameter.shape) > 1} - left_out


def _move_alike(p: ParameterReading, distinct: int) -> bool:
    """Whether there are no more different gradients than there are different units; quantiles tell as much."""
    norms = sorted(p.unit_gradients)
    still = norms.count(0.0) / len(norms) if norms else 0.0
    # Copies that stand still beside units that move were cut away (pruned) and are not missed.
    if not norms or (p.copies or 0.0) * CUT <= still < 1:
        return False
    steps = sum(b - a > SAME * norms[-1] for a, b in pairwise(norms))
    return 1 + steps <= distinct


def _stuck(layers: list[_Layer], reading: Reading) -> bool:
    """Whether a layer of copies gets no gradient because the next layer is all zero, and cannot move either."""
    weights = {row.name: i for i, row in enumerate(reading.sites) if row.site.cause == "weights"}
    zero = {p.name.removesuffix(".weight"): not p.weight_rms and not p.grad_rms for p in reading.parameters}
    names = list(weights)
    for layer in layers:
        name = layer.name.removesuffix(".weight")
        behind = names[names.index(name) + 1 :][:1] if name in weights else []
        if behind and zero.get(behind[0]) and zero.get(name):
            return True
    return False


def _finding(layers: list[_Layer], severe: Severity, onset: int, reading: Reading) -> Finding:
    worst = max(layers, key=lambda layer: layer.share)
    few = "all are the same" if worst.distinct == 1 else f"only {worst.distinct} differ"
    why = (
        "no gradient comes to any of them"
        if worst.silent
        else "copies get the same gradient, so that they stay what they are"
    )
    when = "at birth" if reading.step == onset else f"after {reading.step} steps"
    return Finding(
        kind="symmetric_units",
        severity=severe,
        sites=tuple(layer.name for layer in sorted(layers, key=lambda layer: -layer.share)),
        evidence={
            "step": reading.step,
            "onset": onset,
            "copies": {layer.name: layer.share for layer in layers},
            "different_units": {layer.name: layer.distinct for layer in layers},
        },
        cause="weights that were drawn alike, or not at all",
        explanation=(f"Of the {worst.units} units of {worst.name} {few} {when}: {why}."),
        remedies=("random weights (He initialization)", "a little noise on every copy, where a layer was widened"),
        wrong_if="the units are different after a few more steps",
    )


_ALIKE, _DIFFERENT = [0.5] * 64, [0.1 + 0.01 * k for k in range(64)]

RULE = Rule(
    kind="symmetric_units",
    check=check,
    sick=(
        Case("all units alike, and they stay so", cases.alike(63 / 64, _ALIKE, loss="stalled")),
        Case("the same at birth", cases.alike(63 / 64, _ALIKE, loss="unknown")),
        Case("two different units in a layer of 64", cases.alike(62 / 64, [0.3, 0.7] * 32, loss="stalled")),
        Case("the same, and it learns", cases.alike(62 / 64, [0.3, 0.7] * 32, loss="learning", steps=100)),
        Case("columns of an embedding", cases.alike(63 / 64, _ALIKE, loss="stalled", table=1)),
        Case("a layer without weights and without a gradient", cases.alike(63 / 64, [0.0] * 64, loss="stalled")),
    ),
    healthy=(
        Case("all different", cases.alike(0.0, _DIFFERENT, loss="stalled")),
        Case("alike at birth, with different gradients", cases.alike(63 / 64, _DIFFERENT, loss="unknown")),
        Case("an output layer born zero", cases.alike(63 / 64, _ALIKE, loss="unknown", layer=2)),
        Case("rows of an embedding that is tied", cases.alike(63 / 64, _ALIKE, loss="stalled", table=0)),
        Case("columns of an embedding, all different", cases.alike(0.0, _DIFFERENT, loss="stalled", table=1)),
        Case("the last layer of a residual branch", cases.alike(63 / 64, _ALIKE, loss="unknown", after="add")),
        Case("units that part", cases.alike(63 / 64, _ALIKE, loss="stalled", later=0.0)),
        Case("every unit twice, with opposite signs behind", cases.alike(0.5, _ALIKE, loss="unknown")),
        Case("most of a layer pruned", cases.alike(0.8, [0.0] * 52 + _DIFFERENT[:12], loss="learning", steps=100)),
        Case("the same, not learning", cases.alike(0.8, [0.0] * 52 + _DIFFERENT[:12], loss="stalled")),
        Case("units that weight decay took away", cases.alike(0.0, [0.0] * 64, loss="stalled", later=0.9)),
    ),
)
