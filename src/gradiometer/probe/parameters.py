"""Weight, gradient and update of every parameter, around one step of one optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradiometer.measures import UNITS_LIMIT, Scalar, UpdateMeter, moments, resolve, unit_norms
from gradiometer.records import UNIT_QUANTILES, Parameter, ParameterReading

# A gradient's sum of squares follows from its units' norms, which saves a second pass over it, unless these are
# so small or large (or not finite) that float32 is not to be trusted with their squares; see `magnitude`.
_TRUSTED = (1e-18, 1e30)


class _Gradient(NamedTuple):
    squares: float
    nonfinite: float
    elements: int
    units: bytes
    quantiles: bool


class ParameterMeter:
    """Measures a set of parameters around a step: `before`, then the step, then `read`.

    Gradients are read before the step, as the optimizer is going to see them; with a closure (L-BFGS), which
    computes them inside the step, after it. A fused optimizer under a gradient scaler is handed gradients that are
    still scaled, and divides by ``grad_scale`` itself; so do we.
    """

    def __init__(self, held: Sequence[tuple[Parameter, Tensor]]) -> None:
        """``held`` pairs the description of each parameter with the parameter itself."""
        self._held = [(info, p) for info, p in held if p.numel() and p.layout is torch.strided]
        self._updates = UpdateMeter([p for _, p in self._held])
        self._waiting: list[tuple[int, Tensor, Scalar, Scalar]] = []
        self._gradients: list[_Gradient | None] | None = None

    def before(self, gradients_later: bool, grad_scale: Scalar = 1.0) -> None:
        """Copies the weights and measures the gradients."""
        self._updates.before()
        self._scale = resolve([grad_scale])[0]
        self._gradients = None if gradients_later else self._measure_gradients()

    def read(self) -> tuple[ParameterReading, ...]:
        """The readings, in the order in which the parameters were given."""
        gradients = self._gradients or self._measure_gradients()
        weights, updates = self._updates.norms()
        values = resolve([*weights, *updates])
        out = []
        for i, ((info, _), n, gradient) in enumerate(zip(self._held, self._updates.measured, gradients, strict=True)):
            weight, update, root = values[i], values[i + len(weights)], math.sqrt(n)
            grad_rms = None
            if gradient is not None:
                finite = max(gradient.elements - gradient.nonfinite, 1)
                grad_rms = math.sqrt(gradient.squares / finite) / self._scale
            out.append(
                ParameterReading(
                    parameter=info,
                    weight_rms=weight / root,
                    weight_nonfinite=not math.isfinite(weight),
                    grad_rms=grad_rms,
                    grad_nonfinite=int(gradient.nonfinite) if gradient is not None else 0,
                    update_rms=update / root if info.optimizer >= 0 else None,
                    measured=n,
                    unit_data=gradient.units if gradient is not None else b"",
                    unit_quantiles=gradient.quantiles if gradient is not None else False,
                )
            )
        return tuple(out)

    def _measure_gradients(self) -> list[_Gradient | None]:
        """All gradients, with one transfer for the units of all, and one for the rest.

        Reading these back is the one place where the host waits for an accelerator inside a sampled step;
        it comes after backward, where an optimizer with a gradient scaler waits as well.
        """
        plain: list[tuple[int, Tensor]] = []
        out: list[_Gradient | None] = [None] * len(self._held)
        for i, (_, p) in enumerate(self._held):
            gradient = p.grad
            if gradient is None:
                continue
            if gradient.layout is not torch.strided or gradient.is_complex() or not gradient.dim():
                out[i] = _other(gradient)
            else:
                plain.append((i, gradient.detach()))
        if not plain:
            return out
        # A bias is its own vector of units, whose sign goes after the transfer.
        vectors = [g if g.dim() == 1 else unit_norms(g) for _, g in plain]
        host = torch.cat([v.float() for v in vectors]).cpu().numpy()
        np.abs(host, out=host)
        starts = np.cumsum([0, *(len(v) for v in vectors)])
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.add.reduceat(np.square(host, dtype=np.float64), starts[:-1])
        host /= np.float32(self._scale)
        for (i, gradient), total, start, end in zip(plain, squares.tolist(), starts[:-1], starts[1:], strict=True):
            nonfinite = 0.0
            if not _TRUSTED[0] < total < _TRUSTED[1]:
                careful = moments(gradient, total=False)
                total, nonfinite = resolve([careful.squares, careful.nonfinite])
            units = host[start:end]
            many = len(units) > UNITS_LIMIT
            if many:
                units = np.quantile(units, UNIT_QUANTILES).astype(np.float32)
            out[i] = _Gradient(total, nonfinite, gradient.numel(), units.tobytes(), many)
        return out


def _other(gradient: Tensor) -> _Gradient:
    """A sparse gradient (the rows that were used; the others are zero), a complex one, or a single number."""
    values = gradient.detach()
    if values.layout is not torch.strided:
        values = values.coalesce().values()  # a new tensor
    squares, nonfinite = resolve(moments(values, total=False)[1:4:2])
    return _Gradient(squares, nonfinite, gradient.numel(), b"", False)
