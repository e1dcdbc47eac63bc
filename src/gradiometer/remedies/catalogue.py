"""All remedies: the rows of the tables of their groups."""

from __future__ import annotations

from collections.abc import Mapping

from gradiometer.remedies import (
    activation,
    connection,
    data,
    initialization,
    normalization,
    optimization,
    output,
)
from gradiometer.remedies.base import Remedy

REMEDIES: tuple[Remedy, ...] = (
    *data.REMEDIES,
    *activation.REMEDIES,
    *connection.REMEDIES,
    *normalization.REMEDIES,
    *initialization.REMEDIES,
    *output.REMEDIES,
    *optimization.REMEDIES,
)


def by_name() -> Mapping[str, Remedy]:
    """All remedies by their names."""
    return {remedy.name: remedy for remedy in REMEDIES}


def find(name: str) -> Remedy:
    """The remedy of this name.

    Example:
        >>> find("he").title
        'He initialization'
    """
    return by_name()[name]
