"""Pure functions on tensors. A result is a float on the CPU, where reading it costs nothing, and a 0-dim
tensor on an accelerator, where reading it would stop the queue; `resolve` reads all of them at once.
"""

from gradiometer.measures.activation import can_die, can_saturate, peaks, saturated, zeros
from gradiometer.measures.magnitude import Moments, Scalar, moments, resolve
from gradiometer.measures.norms import norm
from gradiometer.measures.propagation import correlation, offset
from gradiometer.measures.sampling import spread
from gradiometer.measures.units import UNITS_LIMIT, unit_norms
from gradiometer.measures.updates import UpdateMeter

__all__ = [
    "UNITS_LIMIT",
    "Moments",
    "Scalar",
    "UpdateMeter",
    "can_die",
    "can_saturate",
    "correlation",
    "moments",
    "norm",
    "offset",
    "peaks",
    "resolve",
    "saturated",
    "spread",
    "unit_norms",
    "zeros",
]
