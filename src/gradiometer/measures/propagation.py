"""How the signal fares on its way forward: its offset, and whether different inputs still look different."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar
from gradiometer.measures.norms import norm

_CANCELLED = 1e-3


def offset(y: Tensor, unit_dim: int, squares: Scalar | None = None) -> Scalar | None:
    """Squared mean over variance, averaged over units: large where units hardly depend on the input.

    Formula: ``mean_c(mu_c^2) / mean_c(var_c)`` with mean and variance of each unit over batch and places.

    Args:
        y: an operation's output, examples first, units along ``unit_dim``.
        unit_dim: which dimension.
        squares: the sum of squares of ``y``, if it is known already.

    Returns:
        A number from zero on, infinite for units that are constant; ``None`` of fewer than two dimensions.

    Example:
        >>> round(offset(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), 1), 6)
        4.0

    Source:
        Brock, De and Smith, Characterizing signal propagation to close the performance gap in unnormalized ResNets
        (2021), section 3: average channel squared mean and average channel variance.
    """
    if y.dim() < 2 or y.shape[0] < 2:
        return None
    y = _wide(y)
    rest = [d for d in range(y.dim()) if d != unit_dim % y.dim()]
    mean = y.mean(rest, keepdim=True)
    square = mean.square().mean()
    if y.device.type != "cpu":
        return square / (torch.linalg.vector_norm(y).square() / y.numel() - square)
    total = float(norm(y)) ** 2 if squares is None else float(squares)
    variance = total / y.numel() - square.item()
    if variance < _CANCELLED * square.item():  # the difference has no digits left
        variance = float(norm(y - mean)) ** 2 / y.numel()
    return square.item() / variance if variance else (math.inf if square.item() else 0.0)


def correlation(y: Tensor) -> Scalar | None:
    """Mean cosine between the representations of different examples: one where they have become the same.

    Formula: ``(|sum_i u_i|^2 - B) / (B (B - 1))`` with ``u_i = y_i / |y_i|``, which is the mean of ``u_i . u_j`` over
    pairs ``i != j``; examples that are all zero are left out.

    Args:
        y: an operation's output, the ``B`` examples first.

    Returns:
        A number in [-1, 1]; ``None`` of fewer than two examples.

    Example:
        >>> round(correlation(torch.tensor([[1.0, 0.0], [1.0, 1.0]])), 4)
        0.7071

    Source:
        Poole et al., Exponential expressivity in deep neural networks through transient chaos (2016), equation 5.
    """
    if y.dim() < 2 or y.shape[0] < 2:
        return None
    flat = _wide(y).flatten(1)
    norms = torch.linalg.vector_norm(flat, dim=1)
    if y.device.type == "cpu" and norms.min().item() > 0:  # the usual case, in half the time
        mean = norms.reciprocal() @ flat
        return (torch.dot(mean, mean).item() - len(flat)) / (len(flat) * (len(flat) - 1))
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    count = (norms > 0).sum()
    value = ((inverse @ flat).square().sum() - count) / (count * (count - 1)).clamp_min(1)
    if y.device.type != "cpu":
        return value
    return value.item() if count > 1 else None


def positions(y: Tensor) -> Scalar | None:
    """Mean cosine between the positions of one sequence: one where all its tokens have become the same.

    Formula: that of `correlation`, over the positions of each example, then averaged over examples.

    Args:
        y: ``(examples, positions, features)``.

    Returns:
        A number in [-1, 1]; ``None`` of other than three dimensions, and of fewer than two positions.

    Example:
        >>> round(positions(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])), 4)
        0.7071

    Source:
        Dong, Cordonnier and Loukas, Attention is not all you need (2021), section 2: the rank of the tokens.
    """
    if y.dim() != 3 or y.shape[1] < 2 or not y.numel():
        return None
    y = _wide(y)
    size = y.abs().amax(2, keepdim=True)  # first to one, since squares of small and of large numbers do not fit
    y = y / torch.where(size > 0, size, 1.0)
    unit = y / torch.linalg.vector_norm(y, dim=2, keepdim=True).clamp_min(0.5)
    n = (size[..., 0] > 0).sum(1)  # those that are all zero are padding
    value = (unit.sum(1).square().sum(1) - n) / (n * (n - 1)).clamp_min(1)
    value = torch.where(n > 1, value, 0.0).sum() / (n > 1).sum().clamp_min(1)
    return value.item() if value.device.type == "cpu" else value


def _wide(y: Tensor) -> Tensor:
    y = y.detach()
    if y.is_complex():
        y = torch.view_as_real(y.resolve_conj()).flatten(-2)
    return y if y.dtype in (torch.float32, torch.float64) else y.float()
