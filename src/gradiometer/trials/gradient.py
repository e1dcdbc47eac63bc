"""The gradient of the first weight layer over that of the last one, in the step in which it is asked for."""

from __future__ import annotations

import math
from typing import Any, Self

from torch import Tensor, nn

from gradiometer.probe.outputs import measurable, tensors
from gradiometer.remedies.anatomy import role_of


class FirstGradient:
    """Hooks the outputs of the weight layers for one step, and notes the norms of the gradients that arrive there.

    ``decades`` is ``log10`` of the norm at the first call over that at the last one, as `remedies.prediction.gradient`
    reads it off a reading; ``None`` where there were not two.
    """

    def __init__(self, model: nn.Module) -> None:
        """Nothing is hooked before the block is entered."""
        self._model = model
        self._squares: dict[int, Tensor] = {}
        self._calls = 0
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        """Installs the hooks."""
        layers = [module for module in self._model.modules() if role_of(module) == "weights"]
        self._handles = [layer.register_forward_hook(self._called) for layer in layers]
        return self

    def __exit__(self, *_: object) -> None:
        """Takes them away."""
        for handle in self._handles:
            handle.remove()

    @property
    def decades(self) -> float | None:
        """The ratio."""
        if self._calls < 2 or not {0, self._calls - 1} <= self._squares.keys():
            return None
        first, last = (math.sqrt(float(self._squares[i])) for i in (0, self._calls - 1))
        if not math.isfinite(first) or not math.isfinite(last) or not last:
            return None
        return math.log10(first / last) if first else -math.inf

    def _called(self, _: nn.Module, __: Any, output: Any) -> None:
        number, self._calls = self._calls, self._calls + 1
        made = next((x for _, x in tensors(output)), None)
        if measurable(made) and made is not None and made.requires_grad:
            made.register_hook(lambda g: self._note(number, g))

    def _note(self, number: int, gradient: Tensor) -> None:
        self._squares[number] = gradient.detach().double().square().sum()
