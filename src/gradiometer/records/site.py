"""A place where the signal is measured, and what was measured there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Cause = Literal["weights", "activation", "normalization", "connection", "attention", "reshaping", "loss", "unknown"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place where the signal is measured: the output of one operation.

    ``name`` is the module path, with ``:operation`` behind it for a functional operation and ``.k`` for the
    k-th further call (``blocks.3.mlp.act``, ``blocks.3.mlp:relu``, ``blocks.3.mlp:relu.1``).
    """

    name: str
    operation: str
    cause: Cause
    model: str = ""


@dataclass(frozen=True, slots=True)
class SiteReading:
    """What was measured at one site in one step, over all passes of that step (accumulation sums up).

    ``rms`` and ``mean`` are over the finite elements of the activation; ``nonfinite`` counts NaN and both
    infinities, ``masked`` those of them that are minus infinity (the usual mask before a softmax). ``zeros``
    is the fraction of elements that are exactly zero; ``saturation`` the fraction whose ``|f'(z)|`` is below
    1 % of its maximum, ``None`` where the operation cannot saturate. ``units`` is the number of units
    (channels), ``examples`` the number of values each of them had in this step; ``dead`` the number of units
    that were zero for all of them, ``None`` where the operation cannot die, and ``dead_mask`` one bit a unit.
    ``grad_rms`` and ``grad_nonfinite`` are of the gradient that arrives; ``None`` if none did. ``gates`` says
    that the output was multiplied with another signal, as that of a gate is. ``offset`` is the squared mean over the
    variance, averaged over units, ``correlation`` the mean cosine between the outputs for different examples, of
    the first pass; ``positions`` is that cosine between the positions of one sequence. ``entropy`` of attention weights
    is over that of uniform ones, ``sharpness`` the distance in nats of the largest logit from the mean. ``lost`` is
    the share of a float16 gradient that is too small for the format. ``None`` where they were not measured.
    """

    site: Site
    shape: tuple[int, ...]
    passes: int
    rms: float
    mean: float
    nonfinite: int
    masked: int
    zeros: float
    saturation: float | None
    units: int
    examples: int
    dead: int | None
    dead_mask: bytes
    grad_rms: float | None
    grad_nonfinite: int
    gates: bool = False
    offset: float | None = None
    correlation: float | None = None
    positions: float | None = None
    entropy: float | None = None
    sharpness: float | None = None
    lost: float | None = None

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.name

    @property
    def grad_norm(self) -> float | None:
        """Euclidean norm of the gradient that arrives: ``grad_rms * sqrt(number of elements)``.

        The norm, unlike the rms, stays the same across a layer that changes width or resolution and passes
        the gradient on unharmed.
        """
        return None if self.grad_rms is None else self.grad_rms * math.sqrt(math.prod(self.shape))

    def dead_units(self) -> frozenset[int]:
        """Indices of the units that were zero for every example."""
        return frozenset(i for i in range(self.units) if self.dead_mask and self.dead_mask[i // 8] >> (i % 8) & 1)
