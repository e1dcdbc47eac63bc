"""Names the operations of a forward pass while it runs, measures their outputs, and hooks their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode_temporarily

from gradiometer.probe import attention
from gradiometer.probe.ledger.calls import CallLog, is_composite, number_of_next_node
from gradiometer.probe.lookout import Domain, Lookout
from gradiometer.probe.observation import Observation
from gradiometer.probe.operations import (
    Operation,
    is_in_place,
    is_leaf,
    is_opaque,
    of_function,
    of_module,
    of_view,
)
from gradiometer.probe.outputs import measurable, tensors
from gradiometer.probe.recompute import checkpointing, first_of
from gradiometer.probe.replays import Replays

Call = Callable[..., Any]
_GATING = frozenset(("mul", "lerp", "addcmul", "where"))
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
        self.log: CallLog | None = None  # set where a ledger is kept
        self.replays: Replays | None = None  # and in a watch
        self.lookout = Lookout()
        self.propagation = False  # whether offset and correlation are measured
        self._paths = paths
        self._fault = fault
        self._nodes: dict[object, Observation] = {}
        self._mode = _Functions(self)
        self._stack: list[tuple[str, str]] = []
        self._leaf = 0
        self._in_loss = False
        self._earlier = 0  # observations of the passes that have ended
        self._channels: dict[tuple[int, ...], bool] = {}
        self._handles: list[tuple[Observation, Any]] = []

    @property
    def running(self) -> bool:
        """Whether a module under watch is running just now."""
        return bool(self._stack)

    @property
    def nodes(self) -> Mapping[object, Observation]:
        """The nodes of autograd's graph whose outputs were measured in this pass."""
        return self._nodes

    def looking(self) -> AbstractContextManager[object]:
        """While it lasts, functional operations are seen."""
        return nullcontext() if _get_current_function_mode() is self._mode else self._mode

    # -- forward ------------------------------------------------------------------------------------------------

    def call(self, original: Call, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Calls a module in place of ``nn.Module.__call__``, with a look at what comes out."""
        place = self._paths.get(id(module))
        if not self.on or self.foreign or self._leaf or (place is None and not self._stack):
            return original(module, *args, **kwargs)
        if is_opaque(module):
            return self._opaque(original, module, args, kwargs, place)
        if not self._stack:
            if not torch.is_grad_enabled() and not checkpointing():
                return original(module, *args, **kwargs)  # an evaluation is no reading
            with self.looking():
                return self._inner(original, module, args, kwargs, place)
        return self._inner(original, module, args, kwargs, place)

    def _inner(self, original: Call, module: nn.Module, args: Any, kwargs: Any, place: tuple[str, str] | None) -> Any:
        place = place or self._stack[-1]
        leaf = is_leaf(module)
        before = len(self.observations)
        outermost = not self._stack
        version = _version(args) if leaf else None
        start = number_of_next_node()
        self._stack.append(place)
        self._leaf += leaf
        try:
            output = original(module, *args, **kwargs)
        except BaseException:
            if outermost:  # a forward that failed is no part of the step, if the training goes on
                del self.observations[before:]
            raise
        finally:
            self._leaf -= leaf
            self._stack.pop()
        if self.on and not self._leaf:
            given, args = args, (*args, *kwargs.values()) if kwargs else args
            self.guarded("module", self._returned, module, args, output, place, leaf, before, version)
            if self.log is not None and not self.backward:
                self.guarded("ledger", self._note_module, self.log, start, module, args, output, place, leaf, before)
            if self.replays is not None and not self.backward and isinstance(module, nn.RNNBase):
                operation, base = self._named(module, place)
                site = (place[0], base or operation.name)
                self.guarded("recurrence", self.replays.called, module, given, kwargs, output, *site)
            # In a softmax with a forward of its own the call of a function is seen.
            attends = isinstance(module, nn.MultiheadAttention) or (leaf and isinstance(module, nn.Softmax))
            if self.propagation and attends:
                self.guarded("attention", self._attended, before, attention.of_module, module, given, kwargs)
        return output

    def _opaque(self, original: Call, module: nn.Module, args: Any, kwargs: Any, place: tuple[str, str] | None) -> Any:
        """Calls a module with the instrument out of sight: no mode, and nothing measured inside."""
        recording = torch.is_grad_enabled() and place is not None
        start = number_of_next_node()
        self._leaf += 1
        try:
            if _get_current_function_mode() is self._mode:
                with _pop_mode_temporarily():
                    output = original(module, *args, **kwargs)
            else:
                output = original(module, *args, **kwargs)
        finally:
            self._leaf -= 1
        if self.log is not None and place is not None and not self.backward:
            self.log.ran(start, place)
        if recording and self.on and place is not None:
            self.guarded("module", self._returned, module, args, output, place, True, len(self.observations), None)
        return output

    def _returned(
        self,
        module: nn.Module,
        args: Any,
        output: Any,
        place: tuple[str, str],
        leaf: bool,
        before: int,
        version: int | None,
    ) -> None:
        """Measures what a module returned, unless its last operation has been measured already."""
        if not leaf and len(self.observations) > before:
            return
        operation, base = self._named(module, place)
        for suffix, y in tensors(output):
            in_place = version is not None and y is args[0] and _version(args) != version
            passed_on = any(y is a for a in args) and not in_place
            if measurable(y) and not passed_on:
                seen = self._observe(place, base + suffix, operation, y)
                self.lookout.site(seen, y, args, module)

    def _note_module(
        self,
        log: CallLog,
        start: int,
        module: nn.Module,
        args: Any,
        output: Any,
        place: tuple[str, str],
        leaf: bool,
        before: int,
    ) -> None:
        """Notes which nodes of the graph a module has made."""
        if not leaf:
            log.ran(start, place)
            return
        operation, base = self._named(module, place)
        seen = self.observations[before] if len(self.observations) > before else None
        weights = module.parameters() if module._modules else module._parameters.values()
        inputs = (*args, *weights)
        log.called(start, place, base, operation, seen, inputs, output, composite=is_composite(module))

    def _named(self, module: nn.Module, place: tuple[str, str]) -> tuple[Operation, str]:
        """The operation a module stands for, and the name of its site without the number of the call.

        A module that is in no model under watch (one made on the fly) goes by the place that called it.
        """
        operation = self._judged(of_module(module))
        return operation, place[1] if id(module) in self._paths else f"{place[1]}:{operation.name}"

    def _judged(self, operation: Operation) -> Operation:
        """Whatever runs in the loss function is the loss."""
        return operation._replace(cause="loss") if self._in_loss else operation

    @contextmanager
    def loss_scope(self) -> Iterator[None]:
        """While it lasts, operations belong to the loss function."""
        start, place = number_of_next_node(), ("loss", "loss")
        self._in_loss = True
        self._stack.append(place)
        try:
            with self.looking():
                yield
        finally:
            self._stack.pop()
            self._in_loss = False
            if self.log is not None:
                self.log.ran(start, place)

    def called(self, function: Call, args: Any, output: Any, start: int, domain: Domain | None) -> None:
        """Measures the output of a functional operation; ``domain`` is known of one that has overwritten its input."""
        if self._leaf or not self.on or not (self._stack or self.backward):
            return
        operation = of_function(function, args)
        before = len(self.observations)
        inputs = self.lookout.operands(function, args)
        if operation is not None:
            operation = self._judged(operation)
            self._look(operation, inputs, output, domain)
        if not self._stack or self.backward:
            return
        known = operation or self._judged(of_view(function))
        (model, path), name = self._stack[-1], known.name
        seen = self.observations[before] if len(self.observations) > before else None
        if seen is None:
            self.lookout.unseen(model, path, name, output, inputs)
        if self.log is not None:
            composite = name == "multi_head_attention_forward"
            self.log.called(start, (model, path), f"{path}:{name}", known, seen, args, output, composite=composite)

    def _look(self, operation: Operation, inputs: Any, output: Any, domain: Domain | None) -> None:
        if not self._stack:  # what a checkpoint computes again between its modules
            for _, y in tensors(output):
                if measurable(y):
                    self._recomputed(None, operation, y)
            return
        if operation.name in _GATING:
            self._note_gates(inputs)
        model, path = self._stack[-1]
        for suffix, y in tensors(output):
            # Without a gradient only what belongs to the network is of interest, and not the making of a mask; but
            # the first pass of a reentrant checkpoint has no gradients, and its operations are asked for later.
            shown = y.requires_grad or not torch.is_grad_enabled() or operation.cause in _SHOWN_FROZEN
            if shown and measurable(y):
                seen = self._observe((model, path), f"{path}:{operation.name}{suffix}", operation, y)
                self.lookout.site(seen, y, inputs, domain=domain)

    def _note_gates(self, args: Any) -> None:
        """Marks what is multiplied with another signal; a number or a parameter is none."""
        signals = [a for a in args if isinstance(a, Tensor) and a.grad_fn is not None and a.dim()]
        for signal in signals if len(signals) > 1 else ():
            node = signal.grad_fn
            for _ in range(3):  # through views: a gate for channels is reshaped before it multiplies
                if node is None or node in self._nodes:
                    break
                node = node.next_functions[0][0] if node.next_functions else None
            if node in self._nodes:
                self._nodes[node].gates = True

    def _observe(self, place: tuple[str, str], base: str, operation: Operation, y: Tensor) -> Observation | None:
        base = base or operation.name  # a model that is one operation
        if self.backward:
            self._recomputed(base, operation, y)
            return None
        if self.passes >= self.MAX_PASSES:
            return None
        seen = Observation(place[0], base, self.passes, operation, y, self._unit_dim(operation, y))
        self.observations.append(seen)
        if self.propagation:
            seen.look_at_examples(y)
        if y.requires_grad and y.grad_fn is not None:
            self._hook(seen, y)
        return seen

    def _unit_dim(self, operation: Operation, y: Tensor) -> int:
        """Channels of a convolution lie along dimension 1, features along the last; what follows has the same shape."""
        shape = tuple(y.shape)
        if operation.channels_first is not None:
            self._channels[shape] = operation.channels_first
        first = self._channels.get(shape, y.dim() >= 4)
        return 1 if first and y.dim() > 1 else -1

    def _attended(self, before: int, look: Callable[..., dict[str, Any]], what: Any, args: Any, kwargs: Any) -> None:
        """Adds to what was just observed, if anything, how sharply it attends."""
        if len(self.observations) > before:
            self.observations[before].extras.update(look(what, args, kwargs))

    # -- backward -----------------------------------------------------------------------------------------------

    def _hook(self, seen: Observation, y: Tensor) -> None:
        seen.wants_gradient = True
        self._nodes[y.grad_fn] = seen

        # A hook on the tensor sits at its node of the graph, and stays there when the tensor is changed in place.
        def arrived(gradient: Tensor | None) -> None:
            if gradient is not None and self.on and not self.foreign:
                self.guarded("gradient", self._arrived, seen, gradient)

        self._handles.append((seen, y.register_hook(arrived)))

    def _arrived(self, seen: Observation, gradient: Tensor) -> None:
        seen.arrived(gradient)
        bad = seen.gradient.nonfinite if seen.gradient is not None else 0.0
        if isinstance(bad, float) and bad:
            self.lookout.births.look_at_arrival(seen, self._nodes)

    def _recomputed(self, base: str | None, operation: Operation, y: Tensor) -> None:
        """Hooks what a reentrant checkpoint computes again: its first pass had no graph to hook."""
        if y.requires_grad and y.grad_fn is not None:
            seen = first_of(self.observations, base, operation, y)
            if seen is not None:
                self._hook(seen, y)

    def backward_ended(self, failed: bool = False) -> None:
        """Ends the pass, or drops one that failed: what is called from here on is numbered anew."""
        self._nodes.clear()
        self.lookout.births.backward_ended()
        if failed:
            del self.observations[self._earlier :]
        else:
            self.passes += 1
        self._earlier = len(self.observations)

    def restart(self) -> None:
        """Begins the next step, with what still waits for its gradient.

        A generator's output is made before the step of the critic, and its gradient comes after.
        """
        self.observations = [s for s in self.observations if s.wants_gradient and s.gradient is None]
        self.lookout.restart()
        self._remove([(s, handle) for s, handle in self._handles if s.gradient is not None])
        self._handles = [(s, handle) for s, handle in self._handles if s.gradient is None]
        self.passes, self._earlier, self.inside = 0, len(self.observations), 0.0

    def close(self) -> None:
        """Removes every hook, and lets go of everything measured."""
        self.on = False
        self._nodes.clear()
        self._remove(self._handles)
        self._handles = []
        self.observations = []
        self.log = None  # it knows tensors and nodes of the graph
        if self.replays is not None:
            self.replays.drop()
        self.replays = None
        self.lookout.restart()

    @staticmethod
    def _remove(handles: list[tuple[Observation, Any]]) -> None:
        for _, handle in handles:
            handle.remove()

    def guarded(self, where: str, act: Callable[..., Any], *args: Any) -> Any:
        """Does something of ours beside the training; a fault in it switches the instrument off and goes no further."""
        start, result = perf_counter(), None
        try:
            # Our own operations are not to be seen by the mode, nor by anybody else's.
            with torch._C.DisableTorchFunction():
                result = act(*args)
        except Exception as error:
            self.on = False
            self._fault(where, error)
        self.inside += perf_counter() - start
        return result

    def function(self, function: Call, args: Any, kwargs: Any) -> Any:
        """Calls a functional operation, with a look at what comes out."""
        start, domain = number_of_next_node(), None
        given = (*args, *kwargs.values()) if kwargs else args
        if self.on and not self._leaf and given and is_in_place(function):
            domain = self.guarded("operation", self.lookout.before, function, given)
        output = function(*args, **(kwargs or {}))
        if self.on and not self._leaf:
            before = len(self.observations)
            self.guarded("operation", self.called, function, given, output, start, domain)
            if self.propagation:
                self.guarded("attention", self._attended, before, attention.of_function, function, args, kwargs or {})
        return output


class _Functions(TorchFunctionMode):
    """Sees every call of torch's functions and of tensors' methods while a module under watch runs."""

    def __init__(self, tracker: SiteTracker) -> None:
        super().__init__()
        self._tracker = tracker

    def __torch_function__(self, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_compiling():  # a compiled function among ours would have the instrument in its graph
            return func(*args, **(kwargs or {}))
        return self._tracker.function(func, args, kwargs)


def _version(args: Any) -> int | None:
    """How often the first argument was changed in place; inference tensors do not count it."""
    counts = args and isinstance(args[0], Tensor) and not args[0].is_inference()
    return args[0]._version if counts else None
