"""The gradients of a set of parameters: their sizes, what in them is not finite, and the norm of each unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradiometer.measures import UNITS_LIMIT, Moments, moments, resolve, unit_norms
from gradiometer.records import UNIT_QUANTILES

# A gradient's sum of squares follows from its units' norms, which saves a second pass over it, unless these are
# so small or large (or not finite) that float32 is not to be trusted with their squares; see `magnitude`.
_TRUSTED = (1e-18, 1e30)


class GradientReading(NamedTuple):
    """Of one gradient: sum of squares over its finite elements, counts, and the norms of its units (or quantiles)."""

    squares: float
    nonfinite: float
    elements: int
    units: bytes
    quantiles: bool


class Gradients:
    """Measures when it is made; what lies on an accelerator is read back only by `read`, after the step."""

    def __init__(self, parameters: Sequence[Tensor], unit_dims: Sequence[int]) -> None:
        """``parameters`` are those whose ``grad`` is measured; one without has no reading.

        ``unit_dims`` are the dimensions that count output units.
        """
        self._unit_dims = unit_dims
        self._elements = [None if p.grad is None else p.grad.numel() for p in parameters]
        self._moments: dict[int, Moments] = {}  # of those whose sum of squares does not follow from the units
        self._dense: list[int] = []
        vectors: list[Tensor] = []
        for i, p in enumerate(parameters):
            gradient = p.grad
            if gradient is None:
                continue
            gradient = gradient.detach()
            if gradient.layout is not torch.strided:
                # A sparse gradient holds the rows that were used; the others are zero. Coalescing makes a new tensor.
                self._moments[i] = moments(gradient.coalesce().values(), total=False)
            elif gradient.is_complex() or not gradient.dim():
                self._moments[i] = moments(gradient, total=False)
            else:
                self._dense.append(i)
                # A bias is its own vector of units, whose sign goes when it is read.
                vectors.append(gradient if gradient.dim() == 1 else unit_norms(gradient, unit_dims[i]))
        self._ends = np.cumsum([0, *(len(v) for v in vectors)])
        self._units = torch.cat([v.float().to(vectors[0].device) for v in vectors]) if vectors else torch.empty(0)
        self._measure_again(parameters)

    def _measure_again(self, parameters: Sequence[Tensor]) -> None:
        """Measures with care whatever float32 may have got wrong: on an accelerator, where nobody can tell, all."""
        on_host = self._units.device.type == "cpu"
        squares = self._squares(self._units.numpy()) if on_host else [0.0] * len(self._dense)
        for place, i in enumerate(self._dense):
            gradient = parameters[i].grad
            if gradient is None or _TRUSTED[0] < squares[place] < _TRUSTED[1]:
                continue
            self._moments[i] = moments(gradient, total=False)
            if on_host and gradient.dim() > 1 and squares[place] < 1:
                self._units[self._unit_slice(place)] = unit_norms(gradient.double(), self._unit_dims[i]).float()

    def _unit_slice(self, place: int) -> slice:
        return slice(int(self._ends[place]), int(self._ends[place + 1]))

    def _squares(self, units: np.ndarray) -> list[float]:
        if not len(units):
            return [0.0] * len(self._dense)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.add.reduceat(np.square(units, dtype=np.float64), self._ends[:-1]).tolist()

    def read(self, scale: float) -> list[GradientReading | None]:
        """One reading a parameter, in their order, with everything divided by ``scale``."""
        units = np.abs(self._units.cpu().numpy())
        squares = dict(zip(self._dense, self._squares(units), strict=True))
        nonfinite = dict.fromkeys(squares, 0.0)
        measured = resolve(v for m in self._moments.values() for v in (m.squares, m.nonfinite))
        for i, total, count in zip(self._moments, measured[::2], measured[1::2], strict=True):
            squares[i], nonfinite[i] = total, count
        places = {i: place for place, i in enumerate(self._dense)}
        out: list[GradientReading | None] = []
        for i, elements in enumerate(self._elements):
            if elements is None:
                out.append(None)
                continue
            norms = units[self._unit_slice(places[i])] / np.float32(scale) if i in places else units[:0]
            many = len(norms) > UNITS_LIMIT
            if many:
                norms = np.quantile(norms, UNIT_QUANTILES).astype(np.float32)
            out.append(GradientReading(squares[i] / scale**2, nonfinite[i], elements, norms.tobytes(), many))
        return out
