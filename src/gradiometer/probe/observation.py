"""One site in one pass: what is measured of an output when it is made, and of its gradient when it arrives."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradiometer.measures import (
    HALF,
    Moments,
    Scalar,
    can_die,
    can_saturate,
    correlation,
    lost,
    moments,
    offset,
    peaks,
    positions,
    resolve,
    saturated,
    zeros,
)
from gradiometer.probe.operations import Operation
from gradiometer.records import Site, SiteReading


class Observation:
    """The activation of one call of one operation, and the gradient that came back to it.

    ``wants_gradient`` is set while the output is part of a graph whose backward has not come by yet.
    """

    __slots__ = (
        "activation",
        "base",
        "domain",
        "extras",
        "gates",
        "gradient",
        "gradients",
        "model",
        "operation",
        "passing",
        "peak",
        "saturation",
        "shape",
        "unit_dim",
        "wants_gradient",
        "zeros",
    )

    def __init__(self, model: str, base: str, passing: int, operation: Operation, y: Tensor, unit_dim: int) -> None:
        """Measures ``y``; ``base`` is the name without the number of the call, ``passing`` the number of the pass."""
        self.model = model
        self.base = base
        self.passing = passing
        self.operation = operation
        self.shape = tuple(y.shape)
        self.unit_dim = unit_dim % y.dim() if y.dim() else 0
        self.activation = moments(y)
        self.zeros: Scalar = zeros(y)
        self.saturation = saturated(operation.name, y) if can_saturate(operation.name) else None
        self.peak = peaks(y, unit_dim) if can_die(operation.name) and y.dim() > 1 else None
        self.gradient: Moments | None = None
        self.gradients = 0
        self.gates = False
        self.domain: tuple[str, dict[str, Any]] | None = None
        """Of an operation that is not finite everywhere, what its inputs were like."""
        self.extras: dict[str, Scalar] = {}
        """What only some sites have, by the name of its field."""
        self.wants_gradient = False

    def look_at_examples(self, y: Tensor) -> None:
        """Measures what of the signal comes from the input: offset and correlation between examples."""
        found = (offset(y, self.unit_dim, self.activation.squares), correlation(y), positions(y))
        names = ("offset", "correlation", "positions")
        self.extras.update({n: v for n, v in zip(names, found, strict=True) if v is not None})

    def dead_share(self) -> Scalar | None:
        """Share of the units that were zero for every example, ``None`` of an operation that cannot die."""
        return None if self.peak is None else (self.peak == 0).float().mean()

    def arrived(self, gradient: Tensor) -> None:
        """Adds a gradient that arrives at this output (several backward passes over one graph add up)."""
        new = moments(gradient, total=False)
        old = self.gradient
        if old is not None:
            new = Moments(new.count, *(a + b for a, b in zip(old[1:], new[1:], strict=True)))
        self.gradient = new
        self.gradients += 1
        if gradient.dtype in HALF and (share := lost(gradient)) is not None:
            self.extras["lost"] = share


def read(observations: list[Observation], loss_scale: float = 1.0) -> tuple[SiteReading, ...]:
    """Turns the observations of one step into readings, one a site, in the order in which sites were first seen.

    Calls of one operation are numbered within a pass. A site seen in several passes (accumulation) is merged:
    squares and counts add up, a unit is dead if it was in all of them. Gradients are divided by the scale of the loss.
    """
    sites: dict[tuple[str, str], list[Observation]] = {}
    for seen, name in names(observations).items():
        sites.setdefault((seen.model, name), []).append(seen)
    values = iter(resolve(v for group in sites.values() for seen in group for v in _scalars(seen)))
    masks = iter(_dead_masks(list(sites.values())))
    return tuple(_merge(name, group, values, next(masks), loss_scale) for (_, name), group in sites.items())


def names(observations: list[Observation]) -> dict[Observation, str]:
    """The names of the sites, calls of one operation numbered within a pass."""
    out: dict[Observation, str] = {}
    calls: Counter[tuple[str, str, int]] = Counter()
    for seen in _without_unused(observations):
        call = calls[seen.model, seen.base, seen.passing]
        calls[seen.model, seen.base, seen.passing] += 1
        out[seen] = f"{seen.base}.{call}" if call else seen.base
    return out


def _without_unused(observations: list[Observation]) -> list[Observation]:
    """Leaves out calls to which no gradient came while it came to other calls of the same operation.

    Those are passes that were no part of the step: a validation that forgot ``no_grad``, a generator's
    output that was detached.
    """
    used = {(seen.model, seen.base) for seen in observations if seen.gradient is not None}
    return [
        seen
        for seen in observations
        if not (seen.wants_gradient and seen.gradient is None and (seen.model, seen.base) in used)
    ]


def _scalars(seen: Observation) -> list[Scalar]:
    gradient = seen.gradient or Moments(0, 0.0, 0.0, 0.0, 0.0)
    # Not `or 0.0`, which would ask a tensor on an accelerator for its value.
    saturation = 0.0 if seen.saturation is None else seen.saturation
    numbers = (seen.zeros, gradient.squares, gradient.nonfinite, saturation)
    return [*seen.activation[1:], *numbers, *seen.extras.values()]


def _dead_masks(groups: list[list[Observation]]) -> list[np.ndarray | None]:
    """For each site the units that were zero in all its passes, read with one transfer."""
    combined: list[Tensor | None] = []
    for group in groups:
        tops = [seen.peak for seen in group if seen.peak is not None]
        same = tops and all(p.shape == tops[0].shape for p in tops)
        combined.append((torch.stack(tops).amax(0) if len(tops) > 1 else tops[0]) if same else None)
    flat = [peak.float().reshape(-1) for peak in combined if peak is not None]
    if not flat:
        return [None] * len(groups)
    parts = iter(np.split(torch.cat(flat).cpu().numpy() == 0, np.cumsum([len(f) for f in flat])[:-1]))
    return [next(parts) if peak is not None else None for peak in combined]


def _merge(
    name: str, group: list[Observation], values: Iterator[float], dead: np.ndarray | None, loss_scale: float
) -> SiteReading:
    first = group[0]
    extras: dict[str, float] = {}
    squares = total = nonfinite = masked = zero = saturation = grad_squares = grad_nonfinite = 0.0
    count = arrivals = grad_count = 0
    for seen in group:
        row = [next(values) for _ in range(8)]  # as many as `_scalars` gives
        found = {name: next(values) for name in seen.extras}
        n = seen.activation.count
        squares, total, nonfinite, masked = squares + row[0], total + row[1], nonfinite + row[2], masked + row[3]
        zero, saturation = zero + row[4] * n, saturation + row[7] * n
        grad_squares, grad_nonfinite = grad_squares + row[5], grad_nonfinite + row[6]
        extras = found | extras
        count += n
        if seen.gradient is not None:
            arrivals += 1
            grad_count += seen.gradient.count
    finite = max(count - nonfinite, 1)
    units = first.shape[first.unit_dim] if first.shape else 1
    deaths = 0 if dead is None else int(dead.sum())
    return SiteReading(
        site=Site(name, first.operation.name, first.operation.cause, first.model),
        shape=first.shape,
        passes=len(group),
        rms=math.sqrt(squares / finite),
        mean=total / finite,
        nonfinite=int(nonfinite),
        masked=int(masked),
        zeros=zero / max(count, 1),
        saturation=saturation / max(count, 1) if first.saturation is not None else None,
        units=units,
        examples=count // max(units, 1),
        dead=None if dead is None else deaths,
        dead_mask=np.packbits(dead, bitorder="little").tobytes() if dead is not None and deaths else b"",
        grad_rms=math.sqrt(grad_squares / max(grad_count - grad_nonfinite, 1)) / loss_scale if arrivals else None,
        grad_nonfinite=int(grad_nonfinite),
        gates=first.gates,
        **extras,
    )
