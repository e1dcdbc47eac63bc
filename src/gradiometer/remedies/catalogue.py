"""All remedies: the rows of the tables of their groups."""

from __future__ import annotations

from gradiometer.remedies.base import Remedy

REMEDIES: tuple[Remedy, ...] = ()
