"""A parameter, and what one optimizer step did to it."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

UNIT_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The quantiles kept of the gradient norms of the units of a layer too wide to keep them all."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter tensor: its name in the model, shape, and the optimizer that holds it (-1 for none).

    ``unit_dim`` is the dimension that counts output units: the first, but in transposed convolutions and embeddings the
    second. ``dtype`` is its number format, such as ``bfloat16``.
    """

    name: str
    shape: tuple[int, ...]
    optimizer: int
    trainable: bool
    model: str = ""
    unit_dim: int = 0
    dtype: str = "float32"

    @property
    def fan_in(self) -> int:
        """Inputs of one output unit, 0 of a vector."""
        sizes = [n for d, n in enumerate(self.shape) if d != self.unit_dim]
        return math.prod(sizes) if sizes else 0


@dataclass(frozen=True, slots=True)
class ParameterReading:
    """What was measured of one parameter in one optimizer step.

    ``weight_rms`` is taken before the step, ``grad_rms`` just before it as well (accumulated, unscaled,
    clipped as the optimizer sees it), ``update_rms`` is that of the difference the step made. ``weight_rms`` and
    ``update_rms`` are over ``measured`` elements: all of them, or evenly spread blocks of a large tensor.
    ``None`` means there was nothing to measure: no gradient, or no optimizer that holds the parameter.
    ``unit_gradients`` are gradient norms by output unit, or, where there are more than
    ``units_limit`` units, their quantiles; ``unit_quantiles`` tells which. ``copies`` is the share of units that are
    copies of another one, ``moved`` the share of elements that the step changed at all, of 16-bit formats; ``None``
    where they were not measured.
    """

    parameter: Parameter
    weight_rms: float
    weight_nonfinite: bool
    grad_rms: float | None
    grad_nonfinite: int
    update_rms: float | None
    measured: int
    unit_data: bytes = b""
    unit_quantiles: bool = False
    copies: float | None = None
    moved: float | None = None

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.parameter.name

    @property
    def ratio(self) -> float | None:
        """Update-to-weight ratio ``rms(update) / rms(weight)``; ``None`` while the weight is all zero."""
        if self.update_rms is None or not self.weight_rms > 0:
            return None
        return self.update_rms / self.weight_rms

    @property
    def unit_gradients(self) -> tuple[float, ...]:
        """Gradient norm of each output unit, or the quantiles `UNIT_QUANTILES` of these norms."""
        return tuple(array("f", self.unit_data))
