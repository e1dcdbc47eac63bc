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
from gradiometer.remedies.rates import learning_rate

REMEDIES: tuple[Remedy, ...] = (
    *data.REMEDIES,
    *activation.REMEDIES,
    *connection.REMEDIES,
    *normalization.REMEDIES,
    *initialization.REMEDIES,
    *output.REMEDIES,
    *optimization.REMEDIES,
)


RATES = tuple(learning_rate(factor) for factor in (1 / 10, 1 / 3, 3, 10))
"""The learning rate by a factor, to go with another remedy."""


def by_name() -> Mapping[str, Remedy]:
    """All remedies by their names."""
    return {remedy.name: remedy for remedy in (*REMEDIES, *RATES)}


def find(name: str) -> Remedy:
    """The remedy of this name.

    Example:
        >>> find("he").title
        'He initialization'
    """
    return by_name()[name]
