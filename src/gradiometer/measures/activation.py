"""What can be read off the output of an activation: zeros, saturation, dead units."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar
from gradiometer.measures.sampling import spread

SAMPLE = 8192
"""Fractions over tensors with more elements are taken from this many, see `spread`.

The standard error of a fraction is then below 0.4 % where elements are independent, and up to 12 % where they are
all alike within a block (a channel of an image that is dead, say).
"""

# |f'| below 1 % of its maximum, told from the output y = f(z).
# sigmoid: f' = y(1-y), max 1/4: |y - 1/2| > sqrt(1/4 - 1/400).   tanh: f' = 1 - y^2, max 1: |y| > sqrt(0.99).
# softsign: f' = (1-|y|)^2, max 1: |y| > 0.9.   The piecewise linear ones are flat exactly at their bounds.
_SIGMOID = math.sqrt(0.25 - 0.0025)
_TANH = math.sqrt(0.99)
_SATURATED: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda y: (y - 0.5).abs() > _SIGMOID,
    "tanh": lambda y: y.abs() > _TANH,
    "softsign": lambda y: y.abs() > 0.9,
    "hardsigmoid": lambda y: (y <= 0) | (y >= 1),
    "hardtanh": lambda y: _at_bound(y, y.amin()) | _at_bound(y, y.amax()),
    # A recurrent layer gives its tanh as it is; what leaves its range is a ReLU, which does not saturate.
    "rnn": lambda y: (y.abs() > _TANH) & (y.abs().amax() <= 1),
    "rnn_cell": lambda y: (y.abs() > _TANH) & (y.abs().amax() <= 1),
}
_SOFTMAX = 0.5 + _SIGMOID  # one entry of a row takes all: the Jacobian diag(y) - yy' is then zero
_DYING = frozenset({"relu", "relu6", "threshold", "hardswish", "gelu"})


def can_saturate(operation: str) -> bool:
    """Whether this operation has flat parts on which a unit can sit."""
    return operation in _SATURATED or operation == "softmax"


def can_die(operation: str) -> bool:
    """Whether this operation is exactly zero on a half-line, so that a unit can be zero for every example."""
    return operation in _DYING


def _at_bound(y: Tensor, extreme: Tensor) -> Tensor:
    # The output does not tell where a hardtanh was told to clip. A bound is an extreme that several elements share;
    # zero is none: it is what a ReLU or an empty input hands over, right in the middle.
    hits = (y == extreme) & (y != 0)
    return hits & (hits.sum() > 1)


def _fraction(hits: Tensor) -> Scalar:
    # Adding floats is vectorized on the CPU, adding booleans is not.
    fraction = hits.float().mean()
    return fraction.item() if fraction.device.type == "cpu" else fraction


def zeros(x: Tensor) -> Scalar:
    """Fraction of the elements that are exactly zero, over at most about `SAMPLE` of them.

    Args:
        x: any tensor that is not empty.

    Returns:
        A fraction in [0, 1].

    Example:
        >>> zeros(torch.tensor([0.0, 1.0, 0.0, -2.0]))
        0.5
    """
    x = spread(x.detach(), SAMPLE)
    if x.is_complex() or x.element_size() == 1:  # comparing 8 bit floats is not implemented
        return _fraction((x if x.is_complex() else x.float()) == 0)
    # `eq` into a float tensor keeps comparison and sum vectorized: three times as fast as counting booleans.
    hits = torch.eq(x, 0, out=torch.empty_like(x, dtype=torch.float32))
    fraction = hits.mean()
    return fraction.item() if fraction.device.type == "cpu" else fraction


def saturated(operation: str, y: Tensor) -> Scalar:
    """Fraction of the elements of an activation's output that lie where ``|f'| < 0.01 max |f'|``.

    Args:
        operation: the operation's name; `can_saturate` must hold.
        y: its output, before any dropout. For ``softmax`` a row counts when one entry takes all.

    Returns:
        A fraction in [0, 1], over at most about `SAMPLE` elements (of a softmax: of the rows, over all of them).

    Raises:
        KeyError: for an operation that cannot saturate.

    Example:
        >>> saturated("tanh", torch.tanh(torch.tensor([0.0, 1.0, 4.0, -4.0])))
        0.5
    """
    y = y.detach()
    if operation == "softmax":
        return _saturated_rows(y)
    return _fraction(_SATURATED[operation](spread(y, SAMPLE)))


def _saturated_rows(y: Tensor) -> Scalar:
    """Along whichever dimension the softmax ran: a row has at most one hit and sums to one, so the sum is their number.

    Rows of NaN (everything was masked) are left out.
    """
    cpu = y.device.type == "cpu"
    if cpu and y.amax().item() <= _SOFTMAX:  # the usual case, at a fifth of the time
        return 0.0
    hits = torch.gt(y, _SOFTMAX, out=torch.empty_like(y, dtype=torch.float32)).sum()
    fraction = hits / y.nansum(dtype=torch.float32).clamp(min=1)
    return fraction.item() if cpu else fraction


def peaks(y: Tensor, unit_dim: int) -> Tensor:
    """Largest absolute value of each unit over the whole batch; a unit whose peak is zero is dead in it.

    Args:
        y: an activation's output, with the units along ``unit_dim`` (channels of images, features otherwise).
        unit_dim: which dimension.

    Returns:
        A vector with one value a unit, on the device of ``y``.

    Example:
        >>> peaks(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), 1)
        tensor([0., 2.])
    """
    y = y.detach()
    dim = unit_dim % y.dim()
    if dim == y.dim() - 1:
        flat = y.reshape(-1, y.shape[-1])
        return torch.maximum(flat.amax(0), flat.amin(0).neg())
    rest = tuple(d for d in range(y.dim()) if d != dim)
    return torch.maximum(y.amax(rest), y.amin(rest).neg())
