"""What surrounds the passes of one sampled step: the batch, the losses, and what happens to gradients on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradiometer.measures import Features, Scalar, features, norm, resolve
from gradiometer.probe import tasks
from gradiometer.records import Inputs

_SAMPLED, _ELEMENTS = 4, 256  # parameters and elements of each, enough to see a gradient being clipped


class StepNotes:
    """Collects in the course of a step what a reading says beside sites and parameters."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.renew()

    def renew(self) -> None:
        """Begins the next step."""
        self._drafts: list[Any] = []
        self._output: Tensor | None = None
        self._features: Features | None = None
        self._parameters: list[Tensor] = []
        self._carried: dict[int, Scalar] = {}
        self._copies: dict[int, Tensor] = {}
        self._ratio: tuple[Scalar, Scalar] | None = None
        self._began = False
        self._fused: Scalar = 1.0

    def batch(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        """Looks at the first floating-point tensor that a model is called with."""
        if self._features is None:
            given = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.is_floating_point())
            first = next(given, None)
            if first is not None and first.layout is torch.strided and not first.is_nested:
                self._features = features(first)

    def gave(self, output: Any) -> None:
        """Keeps what a model gave until the backward pass begins."""
        self._output = output if isinstance(output, Tensor) and output.requires_grad else None

    def pass_begins(self) -> None:
        """Forgets the losses of the pass before: those of the last one are kept."""
        self._drafts = []

    def backward_begins(self, root: Tensor, parameters: Iterable[Tensor]) -> None:
        """Notes the losses, and before the first pass of a step the gradients that are there already."""
        if root.layout is torch.strided:
            self._drafts += tasks.find(root, self._output)
        self._output = None
        if not self._began:
            self._parameters = list(parameters)
            self._carried = {id(p): norm(p.grad) for p in self._parameters if p.grad is not None}
        self._began = True

    def backward_ends(self) -> None:
        """Keeps a few elements of what the backward pass left."""
        having = [
            p for p in self._parameters if p.grad is not None and p.grad.layout is torch.strided and p.grad.numel()
        ]
        few = having[:: max(1, len(having) // _SAMPLED)]
        self._copies = {id(p): _sample(p).clone() for p in few}

    def stepping(self, held: Iterable[Tensor], scale: Scalar, *, fused: bool = False) -> None:
        """Compares with what an optimizer is about to use, ``scale`` being that of the loss.

        A ``fused`` optimizer divides it out itself; else that has been done in between.
        """
        self._fused = scale if fused else 1.0
        scale = 1.0 if fused else scale
        kept = [(self._copies[id(p)], _sample(p)) for p in held if id(p) in self._copies and p.grad is not None]
        if kept and all(a.shape == b.shape for a, b in kept):
            before, after = (norm(torch.cat([_real(pair[i]) for pair in kept])) for i in (0, 1))
            self._ratio = before, after * scale

    def read(self, held: Mapping[int, float]) -> dict[str, Any]:
        """The fields of a reading; ``held`` maps ``id(parameter)`` of the optimizer's to its gradient's norm."""
        looked = [] if self._features is None else list(self._features[:4])
        carried = [value / self._fused for key, value in self._carried.items() if key in held]
        compared = [] if self._ratio is None else list(self._ratio)
        values = resolve([*looked, *compared, *carried])
        out: dict[str, Any] = {"tasks": tasks.read(self._drafts)}
        if self._features is not None:
            rms, offset, spread, feature = values[:4]
            if math.isfinite(rms):
                out["inputs"] = Inputs(rms, offset, spread, int(feature), self._features.number)
            values = values[4:]
        if self._ratio is not None:
            before, after, *values = values
            out["clipped"] = after / before if before > 0 and math.isfinite(after) and math.isfinite(before) else None
        whole = math.hypot(*held.values())
        left = math.hypot(*values)
        if self._began and whole > 0 and math.isfinite(whole) and math.isfinite(left):
            out["carried"] = left / whole
        return out


def _real(x: Tensor) -> Tensor:
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).float().reshape(-1)


def _sample(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad.detach().reshape(-1)[:_ELEMENTS]
