"""Names the operations of a forward pass while it runs, measures their outputs, and hooks their gradients."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode_temporarily

from gradiometer.measures import resolve
from gradiometer.probe.observation import Observation
from gradiometer.probe.operations import Operation, is_leaf, is_opaque, of_function, of_module
from gradiometer.probe.outputs import measurable, tensors

Call = Callable[..., Any]
_SHOWN_FROZEN = ("weights", "activation", "attention")


class SiteTracker:
    """Everything that happens between the first call of a module and the optimizer's step, on a sampled step.

    A *pass* ends with a backward: calls of one operation are numbered within a pass, and the passes
    of one step (gradient accumulation) are measured under the same names.
    """

    MAX_PASSES = 8
    """Passes measured in one step; L-BFGS may evaluate its closure many more times."""

    def __init__(
        self,
        paths: dict[int, tuple[str, str]],
        fault: Callable[[str, Exception], None],
    ) -> None:
        """``paths`` maps ``id(module)`` to its model's name and its path; ``fault`` is told of errors of ours."""
        self.observations: list[Observation] = []
        self.passes = 0
        self.inside = 0.0  # seconds spent here
        self.backward = 0  # depth: a reentrant checkpoint calls backward inside backward
        self.foreign = 0  # depth of torch.autograd.grad, whose gradients are not those of the training
        self.on = True
        self._paths = paths
        self._fault = fault
        self._nodes: set[object] = set()
        self._mode = _Functions(self)
        self._stack: list[tuple[str, str]] = []
        self._leaf = 0
        self._counts: dict[str, int] = {}
        self._channels: dict[tuple[int, ...], bool] = {}
        self._handles: list[Any] = []

    @property
    def running(self) -> bool:
        """Whether a module under watch is running just now."""
        return bool(self._stack)

    @property
    def nodes(self) -> set[object]:
        """The nodes of autograd's graph whose outputs were measured in this pass."""
        return self._nodes

    # -- forward ------------------------------------------------------------------------------------------------

    def call(self, original: Call, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Calls a module in place of ``nn.Module.__call__``, with a look at what comes out."""
        place = self._paths.get(id(module))
        if not self.on or self.foreign or self._leaf or (place is None and not self._stack):
            return original(module, *args, **kwargs)
        if is_opaque(module):
            return self._opaque(original, module, args, kwargs, place)
        if not self._stack:
            if not torch.is_grad_enabled():
                return original(module, *args, **kwargs)  # an evaluation is no reading
            with self._mode:
                return self._inner(original, module, args, kwargs, place)
        return self._inner(original, module, args, kwargs, place)

    def _inner(self, original: Call, module: nn.Module, args: Any, kwargs: Any, place: tuple[str, str] | None) -> Any:
        place = place or self._stack[-1]
        leaf = is_leaf(module)
        before = len(self.observations)
        version = (
            args[0]._version if leaf and args and isinstance(args[0], Tensor) and not args[0].is_inference() else 0
        )
        self._stack.append(place)
        self._leaf += leaf
        try:
            output = original(module, *args, **kwargs)
        finally:
            self._leaf -= leaf
            self._stack.pop()
        if self.on and not self._leaf:
            self._guarded("module", self._returned, module, args, output, place, leaf, before, version)
        return output

    def _opaque(self, original: Call, module: nn.Module, args: Any, kwargs: Any, place: tuple[str, str] | None) -> Any:
        """Calls a module with the instrument out of sight: no mode, no patch, nothing measured inside."""
        recording = torch.is_grad_enabled() and place is not None
        self._leaf += 1
        try:
            if _get_current_function_mode() is self._mode:
                with _pop_mode_temporarily():
                    output = _unpatched(original, module, args, kwargs)
            else:
                output = _unpatched(original, module, args, kwargs)
        finally:
            self._leaf -= 1
        if recording and self.on and place is not None:
            self._guarded("module", self._returned, module, args, output, place, True, len(self.observations), 0)
        return output

    def _returned(
        self, module: nn.Module, args: Any, output: Any, place: tuple[str, str], leaf: bool, before: int, version: int
    ) -> None:
        """Measures what a module returned, unless its last operation has been measured already."""
        if not leaf and len(self.observations) > before:
            return
        operation = of_module(module)
        # A module that is in no model under watch (one made on the fly) goes by the place that called it.
        base = place[1] if id(module) in self._paths else f"{place[1]}:{operation.name}"
        for suffix, y in tensors(output):
            passed_on = any(y is a for a in args) and not (leaf and y is args[0] and y._version != version)
            if measurable(y) and not passed_on:
                self._observe(place, base + suffix, operation, y)

    def called(self, function: Call, args: Any, output: Any) -> None:
        """Measures the output of a functional operation."""
        if self._leaf or not self.on or not self._stack:
            return
        operation = of_function(function, args)
        if operation is None:
            return
        model, path = self._stack[-1]
        for suffix, y in tensors(output):
            # Without a gradient only what belongs to the network is of interest, and not the making of a mask; but
            # the first pass of a reentrant checkpoint has no gradients, and its operations are asked for later.
            shown = y.requires_grad or not torch.is_grad_enabled() or operation.cause in _SHOWN_FROZEN
            if shown and measurable(y):
                self._observe((model, path), f"{path}:{operation.name}{suffix}", operation, y)

    def _observe(self, place: tuple[str, str], base: str, operation: Operation, y: Tensor) -> None:
        if self.backward:
            self._recomputed(base, y)
            return
        if self.passes >= self.MAX_PASSES:
            return
        count = self._counts.get(place[0] + "/" + base, 0)
        self._counts[place[0] + "/" + base] = count + 1
        name = f"{base}.{count}" if count else base
        seen = Observation(place[0], base, name or operation.name, operation, y, self._unit_dim(operation, y))
        self.observations.append(seen)
        if y.requires_grad and y.grad_fn is not None:
            self._hook(seen, y)

    def _unit_dim(self, operation: Operation, y: Tensor) -> int:
        """Channels of a convolution lie along dimension 1, features along the last; what follows has the same shape."""
        shape = tuple(y.shape)
        if operation.channels_first is not None:
            self._channels[shape] = operation.channels_first
        first = self._channels.get(shape, y.dim() >= 4)
        return 1 if first and y.dim() > 1 else -1

    # -- backward -----------------------------------------------------------------------------------------------

    def _hook(self, seen: Observation, y: Tensor) -> None:
        seen.wants_gradient = True
        self._nodes.add(y.grad_fn)

        # A hook on the tensor sits at its node of the graph, and stays there when the tensor is changed in place.
        def arrived(gradient: Tensor) -> None:
            if self.on and not self.foreign:
                self._guarded("gradient", seen.arrived, gradient)

        self._handles.append(y.register_hook(arrived))

    def _recomputed(self, base: str, y: Tensor) -> None:
        """Hooks what a reentrant checkpoint computes again: its first pass had no graph to hook.

        Segments come back last first, so the call is told by its value, which is the same to the bit.
        """
        if not y.requires_grad:
            return
        waiting = [
            s for s in self.observations if s.base == base and not s.wants_gradient and s.shape == tuple(y.shape)
        ]
        if len(waiting) > 1:
            again = Observation("", base, "", waiting[0].operation, y, waiting[0].unit_dim)
            squares = resolve([again.activation.squares, *(s.activation.squares for s in waiting)])
            waiting = [s for s, v in zip(waiting, squares[1:], strict=True) if v == squares[0]] or waiting[-1:]
        if waiting:
            self._hook(waiting[0], y)

    def backward_ended(self) -> None:
        """Ends the pass: what is called from here on is numbered anew."""
        self._counts.clear()
        self._nodes.clear()
        self.passes += 1

    def close(self) -> None:
        """Removes every hook, and lets go of everything measured."""
        self.on = False
        self._nodes.clear()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.observations = []

    def _guarded(self, where: str, act: Callable[..., None], *args: Any) -> None:
        start = perf_counter()
        try:
            # Our own operations are not to be seen by the mode, nor by anybody else's.
            with torch._C.DisableTorchFunction():
                act(*args)
        except Exception as error:
            self.on = False
            self._fault(where, error)
        self.inside += perf_counter() - start

    def function(self, function: Call, args: Any, kwargs: Any) -> Any:
        """Calls a functional operation, with a look at what comes out."""
        output = function(*args, **(kwargs or {}))
        if self.on and not self._leaf:
            self._guarded("operation", self.called, function, args, output)
        return output


class _Functions(TorchFunctionMode):
    """Sees every call of torch's functions and of tensors' methods while a module under watch runs."""

    def __init__(self, tracker: SiteTracker) -> None:
        super().__init__()
        self._tracker = tracker

    def __torch_function__(self, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._tracker.function(func, args, kwargs)


def _unpatched(original: Call, module: nn.Module, args: Any, kwargs: Any) -> Any:
    patched = nn.Module.__call__
    nn.Module.__call__ = original
    try:
        return original(module, *args, **kwargs)
    finally:
        nn.Module.__call__ = patched
