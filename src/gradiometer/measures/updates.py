"""How far one optimizer step moves each parameter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar, resolve
from gradiometer.measures.sampling import spread

SAMPLE = 8192
"""Weight and update of a parameter with more elements are measured on this many, see `spread`.

Exact up to here. Beyond it the standard error of an rms over roughly normal values is 1/sqrt(2 * 8192) = 0.8 %,
and keeping a copy of the weights over the step costs a fixed amount however large the layer is.
"""


class UpdateMeter:
    """Copies (samples of) parameters before a step and measures the difference after it.

    Made once for a set of parameters, so that a step costs four calls however many parameters there are.

    Example:
        >>> p = torch.ones(4)
        >>> meter = UpdateMeter([p])
        >>> meter.before()
        >>> p.mul_(0.5)
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
        >>> weights, updates = meter.norms()
        >>> weights[0] / meter.measured[0] ** 0.5, updates[0] / meter.measured[0] ** 0.5
        (1.0, 0.5)
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        """Makes room for the copies; ``measured`` counts the elements that are looked at of each parameter."""
        self._views = [spread(p.detach(), SAMPLE) for p in parameters]
        # Half precision is widened: norms are rounded to the type of what they are taken of.
        self._copies = [
            torch.empty(v.shape, dtype=torch.float32 if v.dtype in _HALF else v.dtype, device=v.device)
            for v in self._views
        ]
        self._weight_norms: list[Scalar] = []
        self.measured = [v.numel() for v in self._views]

    def before(self) -> None:
        """Takes the copies."""
        if self._views:
            torch._foreach_copy_(self._copies, self._views)
            self._weight_norms = _norms(self._copies)

    def norms(self) -> tuple[list[Scalar], list[Scalar]]:
        """Norms of the weights before the step, and of ``after - before``, over the same elements."""
        if self._views:
            torch._foreach_sub_(self._copies, self._views)
        return self._weight_norms, _norms(self._copies)

    def moved(self, i: int) -> Scalar:
        """Share of the elements of one parameter that the step changed, after `norms`."""
        share = (self._copies[i] != 0).float().mean()
        return share.item() if share.device.type == "cpu" else share


_HALF = (torch.float16, torch.bfloat16)


def _norms(tensors: list[Tensor]) -> list[Scalar]:
    if not tensors:
        return []
    # Squares of what is below 1e-19 fall under float32, of what is above 1e19 overflow it. float64 costs nothing on
    # an accelerator; on the CPU it takes three times as long, and is kept for those that need it.
    kinds = {t.device.type for t in tensors}
    norms: list[Scalar] = list(
        torch._foreach_norm(
            [t.abs() if t.is_complex() else t for t in tensors], 2, None if kinds & {"cpu", "mps"} else torch.float64
        )
    )
    if kinds == {"cpu"}:
        norms = [
            value if 1e-12 < value < 1e15 else torch.linalg.vector_norm(t.abs(), dtype=torch.float64).item()
            for t, value in zip(tensors, resolve(norms), strict=True)
        ]
    return norms
