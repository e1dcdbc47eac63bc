"""Looks, while a model runs, at what is not finite and at what may become so, when the inputs are still at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gradiometer.probe.births import Births
from gradiometer.probe.explanation import RISKY, explain
from gradiometer.probe.observation import Observation
from gradiometer.probe.operations import is_in_place, is_reversed, of_function
from gradiometer.probe.outputs import measurable

Domain = tuple[str, dict[str, Any]]


class Lookout:
    """Asks on the CPU, where a value costs nothing to read; on an accelerator only where a pass may wait for it."""

    def __init__(self, *, may_wait: bool = False, network_inputs: frozenset[int] = frozenset()) -> None:
        """``network_inputs`` holds the ``id`` of the tensors that go into the network."""
        self.births = Births()
        self.may_wait = may_wait
        self._network_inputs = network_inputs

    def before(self, function: Callable[..., Any], args: Any) -> Domain | None:
        """What the inputs are like of a risky operation that is about to overwrite them; ``None`` of all others."""
        operation = of_function(function, args) if is_in_place(function) else None
        if operation is None or operation.name not in RISKY or not self._may_ask(args[0]):
            return None
        return explain(operation.name, args, backward=True)

    @staticmethod
    def operands(function: Callable[..., Any], args: Any) -> Any:
        """The arguments in the order of the operation: those of ``__rdiv__`` have changed places."""
        return args[1::-1] if is_reversed(function) else args

    def site(
        self,
        seen: Observation | None,
        y: Tensor,
        inputs: Sequence[Any],
        module: nn.Module | None = None,
        domain: Domain | None = None,
    ) -> None:
        """Looks at an operation that was just measured; ``domain`` is what `before` had found."""
        if seen is None or not self._may_ask(y):
            return
        if seen.operation.name in RISKY:
            seen.domain = domain or explain(seen.operation.name, inputs, backward=True)
        if float(seen.activation.nonfinite):
            self.births.look_forward(seen, y, inputs, module, self._network_inputs)

    def unseen(self, model: str, path: str, operation: str, y: Any, inputs: Sequence[Any]) -> None:
        """Looks at what is no site, such as the making of a mask; too many of them to do so in a training."""
        if self.may_wait and measurable(y):
            self.births.look_at_unseen(model, f"{path}:{operation}", operation, y, inputs)

    def restart(self) -> None:
        """Begins the next step."""
        self.births = Births()

    def _may_ask(self, y: Any) -> bool:
        return self.may_wait or (isinstance(y, Tensor) and y.device.type == "cpu")
