"""The gradient by depth: what the first layers get of what the last one gets, and which operations take it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from gradiometer.records import Reading, SiteReading
from gradiometer.rules.base import RECENT, Patient, is_repeated

SHALLOWEST = 4
"""Weight layers below which there is no depth to speak of."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Gradient norms of the weight layers of one model, from the input to the output.

    ``decades`` is ``log10`` of the first layer's norm over the last one's, without what pooling accounts for;
    ``least`` is that of the one among the first layers that is nearest to the last one: rules judge by it.
    ``by_cause`` splits it by the cause of the operations in between, where the network is a plain chain.
    """

    rows: tuple[SiteReading, ...]
    decades: float
    least: float
    by_cause: dict[str, float]


def profile(reading: Reading, model: str, *, vanishing: bool) -> Profile | None:
    """The profile of one model in one reading, ``None`` where there is none to speak of.

    Norms and not rms: a layer that passes signals on unharmed keeps the norm of the gradient whatever it does to width
    and resolution (forward gain of the rms = backward gain of the norm, for weights drawn independently).

    To be called vanishing, the gradient must be small in all of the first eighth of the layers, and for exploding
    large in all of them: a branch that starts at zero, or one odd layer, is no loss by depth.
    """
    repeated = is_repeated(reading)
    sites = [row for row in reading.sites if row.site.model == model and row.grad_norm is not None]
    layers = [row for row in sites if row.site.cause == "weights" and not repeated(row)]
    if len(layers) < SHALLOWEST or any(row.grad_nonfinite for row in layers):
        return None
    top = layers[-1].grad_norm or 0.0
    first = layers[: max(2, len(layers) // 8)]
    norms = [row.grad_norm or 0.0 for row in first]
    nearest = max(norms) if vanishing else min(norms)
    if top <= 0.0:
        return None
    reached = sites.index(first[-1])
    pooled = sum(_pooling(a, b) for a, b in pairwise(sites[reached:]))
    decades, least = (_log_ratio(norm, top) - pooled for norm in (norms[0], nearest))
    chain = not any(row.site.cause in ("connection", "attention") for row in sites)
    return Profile(tuple(layers), decades, least, _by_cause(sites) if chain else {})


def _log_ratio(a: float, b: float) -> float:
    return math.log10(a / b) if a > 0 else -math.inf


def _pooling(a: SiteReading, b: SiteReading) -> float:
    """Decades that averaging over N places takes from the norm, at most ``log10(1/sqrt(N))``; no disease."""
    if b.site.cause != "reshaping" or not a.grad_norm or not b.grad_norm:
        return 0.0
    places = math.prod(a.shape) / math.prod(b.shape)
    if places <= 1:
        return 0.0
    return max(min(math.log10(a.grad_norm / b.grad_norm), 0.0), -0.5 * math.log10(places))


def _by_cause(sites: Sequence[SiteReading]) -> dict[str, float]:
    out: dict[str, float] = {}
    for a, b in pairwise(sites):
        if a.grad_norm and b.grad_norm:
            out[b.site.cause] = out.get(b.site.cause, 0.0) + math.log10(a.grad_norm / b.grad_norm)
    return out


def profiles(patient: Patient, *, vanishing: bool) -> list[tuple[str, Profile]]:
    """For each model its profile, with the median of the decades over the newest readings."""
    out = []
    for model in dict.fromkeys(row.site.model for row in patient.last.sites):
        recent = [p for r in patient.recent[-RECENT:] if (p := profile(r, model, vanishing=vanishing)) is not None]
        if recent:
            newest = recent[-1]
            least = median(p.least for p in recent)
            out.append((model, replace(newest, decades=median(p.decades for p in recent), least=least)))
    return out


def speed_decades(reading: Reading) -> float | None:
    """``log10`` of the update-to-weight ratio of the first weights over that of the last, ``None`` if not known.

    An optimizer that divides by the size of the gradient (Adam) moves all layers alike, whatever
    their gradients.
    """
    ratios = [p.ratio for p in reading.parameters if len(p.parameter.shape) > 1 and p.parameter.trainable]
    known = [r for r in ratios if r is not None]
    if len(known) < SHALLOWEST:
        return None
    first, last = max(known[: max(2, len(known) // 8)]), max(known[-2:])
    if last <= 0:
        return None
    return _log_ratio(first, last)
