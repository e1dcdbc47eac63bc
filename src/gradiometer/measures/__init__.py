"""Pure functions on tensors. A result is a float on the CPU, where reading it costs nothing, and a 0-dim
tensor on an accelerator, where reading it would stop the queue; `resolve` reads all of them at once.
"""

from gradiometer.measures.activation import can_die, can_saturate, peaks, saturated, zeros
from gradiometer.measures.attention import sharpness
from gradiometer.measures.copies import copies
from gradiometer.measures.examples import Features, features
from gradiometer.measures.magnitude import Moments, Scalar, moments, resolve
from gradiometer.measures.norms import norm
from gradiometer.measures.precision import HALF, lost
from gradiometer.measures.propagation import correlation, offset, positions
from gradiometer.measures.sampling import spread
from gradiometer.measures.targets import FEW, around_center, binary_entropy, class_entropy, soft_entropy
from gradiometer.measures.units import UNITS_LIMIT, unit_norms
from gradiometer.measures.updates import UpdateMeter

__all__ = [
    "FEW",
    "HALF",
    "UNITS_LIMIT",
    "Features",
    "Moments",
    "Scalar",
    "UpdateMeter",
    "around_center",
    "binary_entropy",
    "can_die",
    "can_saturate",
    "class_entropy",
    "copies",
    "correlation",
    "features",
    "lost",
    "moments",
    "norm",
    "offset",
    "peaks",
    "positions",
    "resolve",
    "saturated",
    "sharpness",
    "soft_entropy",
    "spread",
    "unit_norms",
    "zeros",
]
