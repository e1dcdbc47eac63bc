"""An activation at which the gradient of a whole network ends, in every reading."""

from __future__ import annotations

from gradiometer.records import Reading, SiteReading
from gradiometer.rules.base import Patient

ENOUGH = 3
"""Newest readings in which nothing passed: a batch may happen to move no unit, and a layer born zero passes nothing
in the first step only."""


def blocked(patient: Patient) -> SiteReading | None:
    """The activation that gets a gradient and below which none is left for any layer, ``None`` if there is none.

    Neither the loss nor the share of its units counts: what is exactly zero does not come back.
    """
    newest = patient.recent[-ENOUGH:]
    found = [_end(reading) for reading in newest]
    rows = [row for row in found if row is not None]
    if len(newest) < ENOUGH or len(rows) < len(newest) or len({row.name for row in rows}) > 1:
        return None
    return rows[-1]


def _end(reading: Reading) -> SiteReading | None:
    known = [row for row in reading.sites if row.grad_norm is not None]
    first = next((i for i, row in enumerate(known) if row.grad_norm), None)
    if first is None or known[first].site.cause != "activation" or len({row.site.model for row in known}) > 1:
        return None
    return known[first] if any(row.site.cause == "weights" for row in known[:first]) else None
