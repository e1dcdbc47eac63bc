"""The gradient by depth: what the first layers get of what the last one gets, and which operations take it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

from gradiometer.records import Reading, Recurrence, SiteReading
from gradiometer.rules.attribution import NOTHING, Attribution, attribute
from gradiometer.rules.base import RECENT, Patient

SHALLOWEST = 4
"""Weight layers below which there is no depth to speak of."""

SHALLOW = 8
"""Weight layers below which the first one alone is the bottom: of five sigmoid layers the second is a fifth of the way
up already."""

SHORTEST = 8
"""Calls of one operation, one after the other, below which there is no time to speak of."""

MOVING = 1e-5
"""Update-to-weight ratio of a step from which on a layer takes part.

A hundredth of the usual 1e-3 (Karpathy, CS231n): its own size in 100,000 steps, a training of some length.
"""


_UNKNOWN: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Layer:
    """The gradient norm at one weight layer, or at one time step of a layer that is called again and again."""

    name: str
    norm: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Gradient norms of one model from the input to the output, or from the first time step to the last.

    ``decades`` is ``log10`` of the first norm over the last one, without what pooling accounts for; ``least`` is that
    of the one among the first layers that is nearest to the last ones: rules judge by it. ``attribution`` splits it by
    the cause of the operations in between, ``through_time`` by what a time step is made of, where a ledger was kept.
    ``steepest`` is the share of it that is lost between two neighbouring layers.
    """

    axis: str
    layers: tuple[Layer, ...]
    decades: float
    least: float
    attribution: Attribution
    steepest: float
    step: int
    through_time: Recurrence | None = None

    @property
    def sites(self) -> tuple[str, ...]:
        """The first layers: where the gradient arrives too small or too large."""
        return tuple(layer.name for layer in self.layers[: max(2, len(self.layers) // 8)])

    @property
    def gated(self) -> bool:
        """Whether it is a recurrence with gates."""
        return self.through_time is not None and any("gate" in name for name in self.through_time.by)

    def a_step(self) -> str:
        """In words, what one time step does to the gradient, and which matrix or gate does it."""
        found = self.through_time
        gains = [g for g in found.gains if g > 0] if found is not None else []
        if found is None or not gains:
            return ""
        mean = math.exp(math.fsum(map(math.log, gains)) / len(gains))
        by = ", ".join(f"{name} {10**d:.2g}" for name, d in found.by.items() if abs(d) >= 0.01)
        left = f"; after {math.ceil(found.horizon)} steps 1 % is left" if math.isfinite(found.horizon) else ""
        return f" A step passes on {mean:.2g} of it{f' ({by})' if by else ''}{left}."

    def evidence(self) -> dict[str, Any]:
        """The numbers a finding rests on."""
        return {
            "step": self.step,
            "decades": self.decades,
            "layers": len(self.layers),
            "decades_per_layer": self.decades / (len(self.layers) - 1),
            "first_gradient_norm": self.layers[0].norm,
            "last_gradient_norm": self.layers[-1].norm,
        } | self.attribution.evidence()


def parameters_of(readings: Sequence[Reading]) -> dict[str, str]:
    """The parameter of each weight layer, by the name of its site, as far as ledgers tell."""
    return {row.site: row.parameter for r in readings for row in r.ledger if row.parameter is not None}


def profile(
    reading: Reading, model: str, *, vanishing: bool, parameters: Mapping[str, str] = _UNKNOWN
) -> Profile | None:
    """The profile of one model in one reading, ``None`` where there is none to speak of.

    Norms and not rms: a layer that passes signals on unharmed keeps the norm of the gradient whatever it does to width
    and resolution (forward gain of the rms = backward gain of the norm, for weights drawn independently).

    To be called vanishing, the gradient must be small in all of the first eighth of the layers, and for exploding large
    in all of them, against each of the last eighth: a branch that starts at zero, a second head of little weight or
    one odd layer is no loss by depth.
    """
    sites = [row for row in reading.sites if row.site.model == model and row.grad_norm is not None]
    weights = [row for row in sites if row.site.cause == "weights"]
    if any(row.grad_nonfinite for row in weights):
        return None
    axis, layers = _layers(weights, parameters or parameters_of((reading,)))
    through_time = max((r for r in reading.recurrences if r.model == model), key=lambda r: r.steps, default=None)
    if through_time is not None and through_time.steps >= SHORTEST:
        over_time = [
            Layer(f"{through_time.parameter} at time step {t}", g) for t, g in enumerate(through_time.gradients, 1)
        ]
        # A network that is deep and recurrent is judged by what is worse, if that is not a matter of course.
        growth = _log_ratio(over_time[0].norm, over_time[-1].norm)
        grows = not vanishing and math.isfinite(growth) and growth > max(0.0, _growth(layers))
        if len(layers) < SHALLOWEST or grows:
            axis, layers = "time step", tuple(over_time)
    few = 1 if axis == "layer" and len(layers) < SHALLOW else max(2, len(layers) // 8)
    first, last = [layer.norm for layer in layers[:few]], [layer.norm for layer in layers[-few:] if layer.norm > 0]
    if len(layers) < SHALLOWEST or not last:
        return None
    bottom, top = (max(first), last[-1]) if vanishing else (min(first), max(last))
    pooled = sum(_pooling(a, b) for a, b in pairwise(sites)) if axis == "layer" else 0.0
    drops = [abs(_log_ratio(a.norm, b.norm)) for a, b in pairwise(layers)]
    decades = _log_ratio(layers[0].norm, top) - pooled
    return Profile(
        axis=axis,
        layers=layers,
        decades=decades,
        least=_log_ratio(bottom, top) - pooled,
        attribution=attribute((reading,), model, reading.step) if axis == "layer" else NOTHING,
        steepest=max(drops) / abs(decades) if math.isfinite(max(drops)) and decades else 1.0,
        step=reading.step,
        through_time=through_time if axis == "time step" else None,
    )


def _growth(layers: Sequence[Layer]) -> float:
    """Decades by which the gradient grows from the last of some layers to the first."""
    return _log_ratio(layers[0].norm, layers[-1].norm) if layers else 0.0


def _layers(weights: Sequence[SiteReading], parameters: Mapping[str, str]) -> tuple[str, tuple[Layer, ...]]:
    """The layers in order; the calls of one that is called several times are one layer, or are the steps of time.

    Functional calls of one place with other parameters are other layers.
    """
    names = {row.name for row in weights}
    bases = {row.name: _base(row.name, names) for row in weights}
    held: dict[str, set[str]] = {}
    for name, base in bases.items():
        held.setdefault(base, set()).update({parameters[name]} if name in parameters else ())
    calls: dict[str, list[SiteReading]] = {}
    for row in weights:
        base = bases[row.name]
        calls.setdefault(base if len(held[base]) <= 1 else row.name, []).append(row)
    longest = max(calls.values(), key=len, default=[])
    if len(calls) < SHALLOWEST and len(longest) >= SHORTEST:
        return "time step", tuple(Layer(row.name, row.grad_norm or 0.0) for row in longest)
    layers = (Layer(name, math.hypot(*(row.grad_norm or 0.0 for row in rows))) for name, rows in calls.items())
    return "layer", tuple(layers)


def _base(name: str, names: set[str]) -> str:
    """The name without the number of the call, where it has one."""
    base, _, number = name.rpartition(".")
    return base if number.isdigit() and base in names else name


def _log_ratio(a: float, b: float) -> float:
    return math.log10(a / b) if a > 0 and b > 0 else -math.inf


def _pooling(a: SiteReading, b: SiteReading) -> float:
    """Decades that averaging over N places takes from the norm, at most ``log10(1/sqrt(N))``; no disease."""
    if b.site.cause != "reshaping" or not a.grad_norm or not b.grad_norm:
        return 0.0
    places = math.prod(a.shape) / math.prod(b.shape)
    if places <= 1:
        return 0.0
    return max(min(math.log10(a.grad_norm / b.grad_norm), 0.0), -0.5 * math.log10(places))


def profiles(patient: Patient, *, vanishing: bool) -> list[Profile]:
    """For each model its profile: the newest, with the median of the decades over the newest readings.

    Of a training that has never learned the one at birth counts as well, if it is worse: what kept it from learning
    then may be hidden by what came of it.
    """
    out = []
    known = parameters_of(patient.traced)
    for model in dict.fromkeys(row.site.model for row in patient.last.sites):
        of = partial(profile, model=model, vanishing=vanishing, parameters=known)
        recent = [p for r in patient.recent[-RECENT:] if (p := of(r)) is not None]
        if not recent:  # a fused recurrent layer, of which only ledgers show the steps
            traced = sorted(patient.traced, key=lambda r: r.step)
            recent = [p for r in traced[-1:] if (p := of(r)) is not None]
        if not recent:
            continue
        # Only a reading with a ledger tells of time: those without one are not to be mixed with it.
        recent = [p for p in recent if p.axis == "time step"] or recent
        middle = {name: median(getattr(p, name) for p in recent) for name in ("decades", "least")}
        chosen = replace(recent[-1], **middle)
        first = of(patient.early[0]) if patient.early else None
        stillborn = patient.progress.learning is False and not patient.progress.ever
        if first is not None and stillborn and math.isfinite(first.least):
            worse = first.least < chosen.least if vanishing else first.least > chosen.least
            chosen = first if worse else chosen
        if chosen.axis == "layer":
            chosen = replace(chosen, attribution=attribute(patient.traced, model, chosen.step))
        out.append(chosen)
    return out


def onset(patient: Patient, limit: float, *, vanishing: bool) -> int:
    """The first step at which the decades are beyond a limit."""
    known = parameters_of(patient.traced)
    for reading in patient.readings:
        for model in dict.fromkeys(row.site.model for row in reading.sites):
            found = profile(reading, model, vanishing=vanishing, parameters=known)
            if found is not None and (found.least <= limit if vanishing else found.least >= limit):
                return reading.step
    return patient.last.step


def speeds(reading: Reading) -> tuple[float, float] | None:
    """Update-to-weight ratio of the first weights and of the last, ``None`` if not known.

    An optimizer that divides by the size of the gradient (Adam) moves all layers alike, whatever their gradients.
    """
    ratios = [p.ratio for p in reading.parameters if len(p.parameter.shape) > 1 and p.parameter.trainable]
    known = [r for r in ratios if r is not None]
    if len(known) < SHALLOWEST:
        return None
    return max(known[: max(2, len(known) // 8)]), max(known[-2:])


def takes_part(patient: Patient) -> bool:
    """Whether the first layers move, by themselves and against the last ones, however small their gradients are."""
    known = speeds(patient.last)
    return known is not None and known[0] >= MOVING and known[0] >= 0.1 * known[1]
