"""Remedies that change how a network is stepped: clipping, rates, momentum, the optimizer, its wiring, the format."""

from __future__ import annotations

from gradiometer.remedies import clipping, frozen, momentum, optimizers, precision, rates, schedules
from gradiometer.remedies.base import Remedy

REMEDIES: tuple[Remedy, ...] = (
    *frozen.REMEDIES,
    *rates.REMEDIES,
    *schedules.REMEDIES,
    *optimizers.REMEDIES,
    *momentum.REMEDIES,
    *clipping.REMEDIES,
    *precision.REMEDIES,
)
