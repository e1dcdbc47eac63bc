"""Weight, gradient and update of every parameter, around one step of one optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradiometer.measures import HALF, Scalar, UpdateMeter, copies, resolve
from gradiometer.probe.gradients import Gradients
from gradiometer.records import Parameter, ParameterReading


class ParameterMeter:
    """Measures a set of parameters around a step: `before`, then the step, then `read`.

    Gradients are measured before the step, as the optimizer is going to see them; with a closure (L-BFGS), which
    computes them inside the step, after it. A fused optimizer under a gradient scaler is handed gradients that are
    still scaled, and divides by ``grad_scale`` itself; so do we.
    """

    def __init__(self, held: Sequence[tuple[Parameter, Tensor]]) -> None:
        """``held`` pairs the description of each parameter with the parameter itself."""
        held = [(info, p) for info, p in held if p.numel() and p.layout is torch.strided]
        self._infos = [info for info, _ in held]
        self.tensors = [p for _, p in held]
        self._unit_dims = [info.unit_dim for info, _ in held]
        self._updates = UpdateMeter(self.tensors)
        self._gradients: Gradients | None = None
        self._scale: Scalar = 1.0
        self._copies: dict[int, Scalar] = {}

    def before(self, gradients_later: bool, grad_scale: Scalar = 1.0, *, copies: bool = False) -> None:
        """Copies the weights and measures the gradients; with ``copies`` looks for units that are alike."""
        self._updates.before()
        self._copies = self._alike() if copies else {}
        self._scale = grad_scale.clone() if isinstance(grad_scale, Tensor) else grad_scale
        self._gradients = None if gradients_later else Gradients(self.tensors, self._unit_dims)

    def _alike(self) -> dict[int, Scalar]:
        found = ((i, copies(p, dim)) for i, (p, dim) in enumerate(zip(self.tensors, self._unit_dims, strict=True)))
        return {i: share for i, share in found if share is not None}

    def gradient_norms(self, readings: Sequence[ParameterReading], number: int) -> dict[int, float]:
        """Norm of the gradient of each parameter that this optimizer holds, by ``id``."""
        return {
            id(p): row.grad_rms * math.sqrt(p.numel())
            for p, row in zip(self.tensors, readings, strict=True)
            if row.grad_rms is not None and row.parameter.optimizer == number
        }

    def read(self) -> tuple[ParameterReading, ...]:
        """The readings, in the order in which the parameters were given."""
        weights, updates = self._updates.norms()
        halves = {i: self._updates.moved(i) for i, p in enumerate(self.tensors) if p.dtype in HALF}
        numbers = resolve([self._scale, *weights, *updates, *self._copies.values(), *halves.values()])
        scale, norms = numbers[0], numbers[1:]
        extra = norms[len(weights) + len(updates) :]
        alike = dict(zip(self._copies, extra, strict=False))
        moved = dict(zip(halves, extra[len(alike) :], strict=True))
        gradients = (self._gradients or Gradients(self.tensors, self._unit_dims)).read(scale)
        out = []
        for i, (info, n, gradient) in enumerate(zip(self._infos, self._updates.measured, gradients, strict=True)):
            weight, update, root = norms[i], norms[i + len(weights)], math.sqrt(n)
            finite = max(gradient.elements - gradient.nonfinite, 1) if gradient is not None else 1
            out.append(
                ParameterReading(
                    parameter=info,
                    weight_rms=weight / root,
                    weight_nonfinite=not math.isfinite(weight),
                    grad_rms=math.sqrt(gradient.squares / finite) if gradient is not None else None,
                    grad_nonfinite=int(gradient.nonfinite) if gradient is not None else 0,
                    update_rms=update / root if info.optimizer >= 0 else None,
                    measured=n,
                    unit_data=gradient.units if gradient is not None else b"",
                    unit_quantiles=gradient.quantiles if gradient is not None else False,
                    copies=alike.get(i),
                    moved=moved.get(i) if info.optimizer >= 0 else None,
                )
            )
        return tuple(out)
