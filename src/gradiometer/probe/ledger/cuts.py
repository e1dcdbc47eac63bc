"""Which of the calls that let no gradient pass have left parameters without one."""

from __future__ import annotations

from collections.abc import Container, Sequence

from gradiometer.probe.graph import leaves
from gradiometer.probe.ledger.calls import Cut
from gradiometer.probe.ledger.knots import Layout


def starved(cuts: Sequence[Cut], layout: Layout, trained: Container[int]) -> list[Cut]:
    """The cuts behind which there are parameters that the loss does not reach, the nearest to the loss first.

    ``trained`` holds the ``id`` of the parameters that should get a gradient.
    A detach that is part of a method (a straight-through estimator, a stopped gradient on one of two paths) is none.
    """
    reached = {id(knot.parameter) for knot in layout.knots if knot.parameter is not None}
    found = []
    for cut in reversed(cuts):
        behind = {id(p) for x in cut.inputs for p in leaves(x)}
        missing = {i for i in behind if i not in reached and i in trained}
        if missing:
            reached |= missing
            found.append(cut)
    return found
