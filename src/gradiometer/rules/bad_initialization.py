"""Weights drawn at a scale far from what their layer asks for, or zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from gradiometer.records import Finding, ParameterReading, Reading, Severity, SiteReading
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.cases import tasks as cases
from gradiometer.rules.cases import unguessed
from gradiometer.rules.depth import MOVING, parameters_of, takes_part
from gradiometer.rules.loud_outputs import loud_outputs
from gradiometer.rules.patience import severity
from gradiometer.rules.saturated_units import SQUASHING

FAR = 1.0
"""Decades by which one layer is off: by itself it makes signal or gradient ten times larger or smaller.

What people use on purpose is nearer: torch draws at 0.41 of what ReLU asks for, Glorot at 0.71, GPT-2 (0.02 at a
width of 768) at 0.55 of Glorot.
"""

OFF = 0.3
"""Decades (a factor of two) from which on a layer adds to what all of them do together; three make out `TOGETHER`."""

TOGETHER = 2.0
"""Decades by which layers one after the other change the signal: from there on a vanishing gradient is told as well."""

_RECTIFIERS = frozenset("relu relu6 leaky_relu prelu rrelu elu celu gelu silu mish softplus hardswish".split())
_ODD = frozenset("embedding embedding_bag bilinear lstm gru rnn rnn_tanh rnn_relu".split())  # have scales of their own
_PASSING = ("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout")


@dataclass(frozen=True, slots=True)
class _Layer:
    """A weight layer at birth, and how far its scale is from what it asks for, in decades; minus infinity of zero."""

    name: str
    parameter: ParameterReading
    asked: float
    activation: str
    decades: float


def check(patient: Patient) -> list[Finding]:
    """One finding for the layers whose scale at birth is far off, where nothing behind them makes up for it.

    Where no single layer is, the outputs may be too large all the same.
    """
    birth = patient.early[0] if patient.early else patient.last
    if birth.step != 0:
        return []
    found = []
    for sign in (-1, 1):
        off = [layer for layer in _layers(birth) if sign * layer.decades >= OFF]
        far = [layer for layer in off if sign * layer.decades >= FAR]
        adding = [
            layer for layer in off if sign < 0 or layer.activation not in SQUASHING
        ]  # nothing grows beyond one behind them
        whole = math.fsum(sign * layer.decades for layer in adding)
        if not far and (len(adding) < 3 or whole < TOGETHER):
            continue
        hopeless = bool(far) and whole >= TOGETHER and (sign > 0 or _still(far))
        adapted = patient.progress.little and takes_part(patient)
        severe = severity(patient, stalled="info" if adapted else "critical", unknown="warning" if hopeless else "info")
        if severe != "info":
            found.append(_finding(far or off, off, whole, severe))
    loud = loud_outputs(patient) if not found else None
    return [loud] if loud is not None else found


def _layers(reading: Reading) -> list[_Layer]:
    """The weight layers whose scale matters: no normalization follows, and no sum takes them for a small branch."""
    weights = {p.name: p for p in reading.parameters if len(p.parameter.shape) > 1 and p.parameter.trainable}
    names = parameters_of((reading,))
    places = [i for i, row in enumerate(reading.sites) if row.site.cause == "weights"]
    main = {row.parameter for row in reading.ledger.main if row.parameter is not None}
    out = []
    for place, following in zip_longest(places, places[1:]):
        row = reading.sites[place]
        p = weights.pop(names.get(row.name, f"{row.name}.weight"), None)
        behind = [r for r in reading.sites[place + 1 : following] if r.site.operation not in _PASSING]
        if p is not None and row.site.operation == "embedding" and p.weight_rms >= 10**FAR:
            out.append(_Layer(row.name, p, 1.0, "", math.log10(p.weight_rms)))
        if p is None or row.site.operation in _ODD or any(r.site.cause == "normalization" for r in behind):
            continue
        act = next((r for r in behind if r.site.cause == "activation"), None)
        joins = bool(behind) and behind[0].site.cause == "connection"
        asked = math.sqrt(2) if act is not None and act.site.operation in _RECTIFIERS else 1.0
        decades = _decades(p, asked, reading.sites[place - 1] if place else None)
        # Small is how outputs, branches and gates are meant to start; a chain they would break goes through them.
        known = bool(main) and place != places[0]  # the row of the first layer, which leads to the input, is not kept
        in_chain = p.name in main if known else act is not None
        meant = following is None or joins or (act is not None and act.gates) or not in_chain
        if decades > 0 or not meant:
            out.append(_Layer(row.name, p, asked, act.site.operation if act is not None else "", decades))
    return out


def _decades(p: ParameterReading, asked: float, before: SiteReading | None) -> float:
    """``log10`` of the scale over what is asked for, by what comes in or by what goes out, whichever is nearer.

    Between the two nothing is wrong: the one keeps the signal, the other the gradient (Glorot and Bengio, 2010).
    """
    shape, unit_dim = p.parameter.shape, p.parameter.unit_dim
    channels, units = shape[1 - unit_dim], shape[unit_dim]
    groups = max(1, before.units // channels) if before is not None and len(shape) > 2 and unit_dim == 0 else 1
    fan_out = math.prod(shape) / channels / groups if units % groups == 0 else math.prod(shape) / channels
    scales = [p.weight_rms * math.sqrt(fan) / asked for fan in (p.parameter.fan_in, fan_out)]
    if not all(scales):
        return -math.inf
    low, high = sorted(map(math.log10, scales))
    return 0.0 if low <= 0 <= high else min(low, high, key=abs)


def _still(layers: Sequence[_Layer]) -> bool:
    """Whether the first step does not move them either; Adam draws small weights up to where they belong."""
    ratios = [layer.parameter.ratio for layer in layers]
    return all(ratio is not None and ratio < MOVING for ratio in ratios)


def _finding(worst: Sequence[_Layer], off: Sequence[_Layer], whole: float, severe: Severity) -> Finding:
    ranked = sorted(worst, key=lambda layer: -abs(layer.decades))
    first = ranked[0]
    p, rms = first.parameter, first.parameter.weight_rms
    for_what = f"{first.activation} asks for" if first.activation else "keeps the signal"
    right = rms / 10**first.decades if math.isfinite(first.decades) else first.asked / math.sqrt(p.parameter.fan_in)
    small = first.decades < 0
    if rms:
        said = f"have rms {rms:.2g}, {rms / right:.3g} times the {right:.2g} that {for_what}"
    else:
        said = f"are all zero, where rms {right:.2g} is what {for_what}"
    many = f"; {len(off)} layers are off like that" if len(off) > 1 else ""
    if many and whole >= FAR:
        size = "smaller" if small else "larger"
        many += (
            f", and make the signal {10**whole:.0e} times {size}" if math.isfinite(whole) else ", and nothing passes"
        )
    suits = "He initialization" if first.asked > 1 else "Xavier initialization"
    return Finding(
        kind="bad_initialization",
        severity=severe,
        sites=tuple(layer.name for layer in ranked),
        evidence={
            "onset": 0,
            "scales": {layer.name: 10**layer.decades for layer in off},
            "decades_together": -whole if small else whole,
            "weight_rms": rms,
            "asked_rms": right,
        },
        cause=f"weights of too {'small' if small else 'large'} a scale at birth",
        explanation=f"The weights of {first.name} ({' x '.join(map(str, p.parameter.shape))}) {said}{many}.",
        remedies=(suits, "batch or layer normalization"),
        wrong_if=f"with {suits} it goes no better",
    )


_GPT_2 = 0.55

RULE = Rule(
    kind="bad_initialization",
    check=check,
    sick=(
        Case("weights of 0.001 in three layers", cases.drawn([0.008] * 4, loss="stalled")),
        Case("the same at birth", cases.drawn([0.008] * 4, loss="unknown")),
        Case("one layer a hundred times too large", cases.drawn([1.4, 141.0, 1.4], loss="stalled")),
        Case("unit normal weights before tanh, 128 wide", cases.drawn([11.3] * 3, loss="stalled", between=["tanh"])),
        Case("a hidden layer of zeros", cases.drawn([1.4, 0.0, 1.4], loss="stalled")),
        Case("a third of He's scale, nine times", cases.drawn([0.47] * 10, loss="stalled")),
        Case("weights of 0.001, and no guess is known", unguessed(cases.drawn([0.008] * 4, loss="stalled", ratio=1.0))),
        Case("logits of ten at birth", cases.loud(6.0, 10.0, loss="worse")),
    ),
    healthy=(
        Case("He's", cases.drawn([1.41] * 10, loss="stalled")),
        Case("torch's own, four layers", cases.drawn([0.577] * 5, loss="stalled")),
        Case("Glorot's, forty layers", cases.drawn([1.0] * 40, loss="stalled")),
        Case("GPT-2's", cases.drawn([_GPT_2] * 12, loss="stalled", between=["tanh", "add"])),
        Case("small weights, and it learns", cases.drawn([0.008] * 4, loss="learning")),
        Case("small weights that Adam moves", cases.drawn([0.008] * 4, loss="unknown", ratio=1.0)),
        Case(
            "a constant of the loss, below which it falls",
            unguessed(cases.drawn([0.008] * 4, loss="steady", ratio=1.0)),
        ),
        Case(
            "large weights before normalization",
            cases.drawn([50.0] * 3 + [1.0], loss="stalled", between=["layer_norm", "relu"]),
        ),
        Case("an output layer of zeros", cases.drawn([1.41, 1.41, 0.0], loss="stalled")),
        Case("residual branches of zeros", cases.drawn([1.41, 0.0, 1.41], loss="stalled", between=["add", "relu"])),
        Case("logits of two at birth", cases.loud(1.6, 2.0, loss="worse")),
        Case("logits of ten at birth, that cost less", cases.loud(4.0, 10.0, loss="worse")),
        Case("a large first loss of usual logits", cases.loud(6.0, 1.0, loss="worse")),
        Case("logits of ten at birth, and it learns", cases.loud(6.0, 10.0, loss="learning")),
        Case("logits of ten, of inputs of a hundred", cases.loud(6.0, 10.0, loss="worse", inputs=100.0)),
        Case("not from birth on", cases.drawn([0.008] * 4, loss="stalled", step=500)),
    ),
)
