"""Gains of activations, by integration over a normal distribution: what He's and mean-field initialization ask for."""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from gradiometer.remedies.anatomy import ACTIVATIONS

_NODES = 24
_END = 12
"""Half the integrals' range; the normal density is 2e-32 there."""

SIGMA_B = 0.05**0.5
"""Standard deviation of the biases at criticality where the activation leaves a choice: the one of Schoenholz et al."""


@lru_cache(maxsize=1)
def _panels() -> tuple[Tensor, Tensor]:
    """Gauss and Legendre's nodes in each interval between integers, where activations have their kinks, and weights."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    x = np.concatenate([k + 0.5 + nodes / 2 for k in range(-_END, _END)])
    return torch.from_numpy(x), torch.from_numpy(np.tile(weights / 2, 2 * _END))


def _values(module: nn.Module, q: float) -> tuple[Tensor, Tensor, Tensor]:
    """Density times weights, the activation and its slope at ``sqrt(q) z``."""
    z, weights = _panels()
    measure = weights * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    y = (z * math.sqrt(q)).requires_grad_()
    with torch.enable_grad():
        value = module(y)
        slope = torch.autograd.grad(value.sum(), y)[0]
    return measure, value.detach(), slope


def plain(activation: nn.Module | str) -> nn.Module:
    """An activation as a module of its own in float64; of a PReLU with many slopes, one with their mean."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]().double()
    if isinstance(activation, nn.PReLU):
        return nn.LeakyReLU(float(activation.weight.detach().double().mean()))
    own = copy.deepcopy(activation).cpu().double()
    if hasattr(own, "inplace"):
        own.inplace = False  # type: ignore[assignment]
    return own


def moments(activation: nn.Module | str, q: float = 1.0) -> tuple[float, float]:
    """Mean square of an activation and of its slope, of a normal preactivation of variance ``q``.

    Formula: ``E phi(sqrt(q) z)^2`` and ``E phi'(sqrt(q) z)^2`` with ``z ~ N(0, 1)``, by Gauss and Legendre's rule
    between integers.

    Args:
        activation: a module, or a name as in ``torch.nn.functional``.
        q: variance of the preactivation.

    Returns:
        Two numbers.

    Raises:
        KeyError: for a name that is not known.

    Example:
        >>> [round(x, 6) for x in moments("relu", 4.0)]
        [2.0, 0.5]

    Source:
        Poole et al., Exponential expressivity in deep neural networks through transient chaos (2016), equations 3, 6.
    """
    measure, value, slope = _values(plain(activation), q)
    return float(measure @ value.square()), float(measure @ slope.square())


def average(activation: nn.Module | str) -> float:
    """Mean of an activation of a standard normal preactivation, ``E phi(z)``.

    Example:
        >>> round(average("relu") * (2 * math.pi) ** 0.5, 6)
        1.0
    """
    measure, value, _ = _values(plain(activation), 1.0)
    return float(measure @ value)


def gain(activation: nn.Module | str) -> float:
    """Factor on ``1 / sqrt(fan_in)`` with which the mean square of a layer's preactivations stays one.

    Formula: ``1 / sqrt(E phi(z)^2)`` with ``z ~ N(0, 1)``; one for ``"linear"``.

    Args:
        activation: a module, or a name as in ``torch.nn.functional``.

    Returns:
        A positive number.

    Raises:
        KeyError: for a name that is not known.

    Example:
        >>> [round(gain(name), 4) for name in ("relu", "tanh", "sigmoid", "linear")]
        [1.4142, 1.5925, 1.8462, 1.0]

    Source:
        He et al., Delving deep into rectifiers (2015), equation 10, for any activation; Klambauer et al.,
        Self-normalizing neural networks (2017), for the same condition as a fixed point.
    """
    if activation == "linear":
        return 1.0
    mean_square, _ = moments(activation)
    return 1 / math.sqrt(mean_square)


def critical(activation: nn.Module | str, sigma_b: float = SIGMA_B) -> tuple[float, float] | None:
    """Scales of weights and biases at the edge of chaos.

    Formula: ``q = sw^2 E phi(sqrt(q) z)^2 + sb^2`` and ``chi_1 = sw^2 E phi'(sqrt(q) z)^2 = 1``, solved for ``q`` and
    ``sw`` at the given ``sb``; with ``sb = 0`` where there is no other solution.

    Args:
        activation: a module, or a name as in ``torch.nn.functional``.
        sigma_b: standard deviation of the biases.

    Returns:
        ``(sw, sb)``: weights are drawn at ``sw / sqrt(fan_in)``. ``None`` where no edge is found.

    Raises:
        KeyError: for a name that is not known.

    Example:
        >>> sw, sb = critical("tanh")
        >>> round(sw**2, 4), round(sb**2, 4)
        (1.761, 0.05)
        >>> round(critical("relu")[0] ** 2, 6)
        2.0

    Source:
        Schoenholz et al., Deep information propagation (2017), equations 3 and 5; Poole et al. (2016), equation 6.
    """
    if activation == "linear":
        return 1.0, 0.0
    module = plain(activation)
    key = (repr(module), sigma_b)
    if key not in _EDGES:  # every layer of a network asks for the same
        _EDGES[key] = _edge(module, sigma_b)
    return _EDGES[key]


_EDGES: dict[tuple[str, float], tuple[float, float] | None] = {}


def _edge(module: nn.Module, sigma_b: float) -> tuple[float, float] | None:
    """Along the edge, as a function of ``q``, the variance of the biases is sought."""

    def bias_variance(log_q: float) -> float:
        square, slope = moments(module, math.exp(log_q))
        return math.exp(log_q) - square / slope

    grid = np.linspace(math.log(1e-4), math.log(1e2), 121)
    at = [bias_variance(x) for x in grid]
    wanted = sigma_b**2
    homogeneous = max(abs(v) / math.exp(x) for v, x in zip(at, grid, strict=True)) < 1e-6
    if homogeneous:
        return 1 / math.sqrt(moments(module)[1]), 0.0
    for low, high, a, b in zip(grid, grid[1:], at, at[1:], strict=False):
        if (a - wanted) * (b - wanted) <= 0:
            log_q: Any = brentq(lambda x: bias_variance(x) - wanted, low, high, xtol=1e-10)
            return 1 / math.sqrt(moments(module, math.exp(log_q))[1]), sigma_b
    return None
