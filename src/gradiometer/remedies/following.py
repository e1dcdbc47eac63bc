"""Follows the tensors of one forward pass: every call of a leaf module or an activation, and what becomes of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradiometer.probe.outputs import tensors
from gradiometer.remedies.anatomy import _LEAVES, ACTIVATIONS, NAMES, Role, _line, role_of

_MULTIPLY = frozenset("mul mul_ multiply multiply_ imul __mul__ __rmul__ __imul__ addcmul lerp".split())
_ADD = frozenset("add add_ iadd __add__ __radd__ __iadd__ sub sub_ isub __sub__ __rsub__ rsub".split())
_PRODUCT = frozenset("matmul mm bmm __matmul__ __rmatmul__ addmm baddbmm einsum mv addmv dot".split())
_LAYERS = frozenset(
    """linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d bilinear
    multi_head_attention_forward rnn_tanh_cell rnn_relu_cell lstm_cell gru_cell""".split()
)
_FACTORS = frozenset(("sigmoid", "hardsigmoid", "softplus"))
"""Activations that are positive, as factors are meant to be."""

_SET = frozenset(("__setitem__", "copy_", "index_copy_", "masked_fill_"))

_WEIGHTY: tuple[Role, ...] = ("weights", "recurrent", "attention")


@dataclass(eq=False)
class Step:
    """One call of a leaf module, of an activation as a function, or a product with a parameter, and what came of it.

    ``module`` is the leaf, ``None`` of a function; ``caller`` is the path of the module in whose ``forward`` it was
    called, ``line`` where and ``function`` what. ``fans`` are those of a ``parameter`` that was used as weights without
    a module. ``behind`` are the steps whose outputs it reads, with nothing but arithmetic and reshaping between,
    ``uses`` what its own output went into first. ``follows`` says that some weights lie before it, ``reached`` that it
    went on into further ones, ``again`` that its input was made with the same weights: a recurrence.
    """

    operation: str
    role: Role
    path: str
    caller: str
    module: nn.Module | None = None
    line: str = ""
    function: str = ""
    parameter: str = ""
    fans: tuple[int, int] = (0, 0)
    behind: tuple[Step, ...] = ()
    uses: set[str] = field(default_factory=set)
    follows: bool = False
    reached: bool = False
    again: bool = False

    @property
    def weights(self) -> Any:
        """What tells its weights from others."""
        return id(self.module) if self.module is not None else self.parameter

    @property
    def gates(self) -> bool:
        """Whether its output does nothing but multiply other signals."""
        return bool(self.uses) and self.uses <= {"multiply", "product"}

    @property
    def place(self) -> tuple[Any, ...]:
        """What tells calls from others that are written elsewhere."""
        return (self.caller, self.operation, id(self.module), self.line)


@dataclass(frozen=True)
class _Signal:
    """What a tensor is made of: the steps it came from with arithmetic only, all those since the last weights, and all
    the weights before."""

    near: frozenset[Step] = frozenset()
    far: frozenset[Step] = frozenset()
    past: frozenset[Any] = frozenset()


def _union(signals: Iterable[_Signal]) -> _Signal:
    signals = list(signals)
    if len(signals) == 1:
        return signals[0]
    return _Signal(
        frozenset(step for signal in signals for step in signal.near),
        frozenset(step for signal in signals for step in signal.far),
        frozenset(weights for signal in signals for weights in signal.past),
    )


class Recorder(TorchFunctionMode):
    """Follows tensors by their identity through functions, and by hooks through leaf modules."""

    def __init__(self, model: nn.Module) -> None:
        """For one pass of a model."""
        super().__init__()
        self.steps: list[Step] = []
        self._model = model
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._parameters = {p.untyped_storage().data_ptr(): (name, p) for name, p in model.named_parameters()}
        self._signals: dict[int, tuple[Tensor, _Signal]] = {}
        self._stack: list[str] = []
        self._inside_leaf = 0
        self._handles: list[Any] = []

    def __enter__(self) -> Recorder:
        """Hooks come and go with it."""
        inside: set[int] = set()
        for module in self._model.modules():
            if id(module) in inside:
                continue
            leaf = _is_leaf(module)
            if leaf:
                inside |= {id(m) for m in module.modules()}
            self._handles += [
                module.register_forward_pre_hook(self._before(leaf), with_kwargs=True),
                module.register_forward_hook(self._after(leaf), with_kwargs=True),
            ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """No tensor is kept."""
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()
        self._signals.clear()

    def given(self, inputs: Any) -> None:
        """The network's inputs are signals too, of no step."""
        self._keep(inputs, _Signal())

    def _before(self, leaf: bool) -> Callable[..., None]:
        def hook(module: nn.Module, *_: Any) -> None:
            self._stack.append(self._paths[id(module)])
            self._inside_leaf += leaf

        return hook

    def _after(self, leaf: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            path = self._stack.pop()
            self._inside_leaf -= leaf
            if leaf and not self._inside_leaf:
                role = role_of(module)
                operation = NAMES.get(type(module), type(module).__name__.lower())
                caller = self._stack[-1] if self._stack else ""
                self._step(Step(operation, role, path, caller, module), (args, kwargs), output)

        return hook

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls, and notes the call."""
        output = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if not self._inside_leaf and self._stack:
            self._called(name, (args, kwargs or {}), output)
        return output

    def _called(self, name: str, given: Any, output: Any) -> None:
        activation = activation_named(name, given[0])
        used = [(x, self._parameter(x)) for x in _all_tensors(given)]
        signals = [x for x, parameter in used if parameter is None and id(x) in self._signals]
        weights = next(((x, p) for x, p in used if p is not None and x.ndim > 1), None)
        caller = self._stack[-1]
        if activation:
            line = _line(sys._getframe(2))
            function = name.removesuffix("_")
            self._step(Step(activation, "activation", caller, caller, line=line, function=function), given, output)
        elif name == "embedding" and weights is not None:
            self._step(Step(name, "embedding", caller, caller, parameter=weights[1]), given, output)
        elif name in _LAYERS or (name in _PRODUCT and weights is not None):
            parameter = weights[1] if weights is not None else ""
            fans = _fans(name, weights[0], given) if weights is not None else (0, 0)
            step = Step(name, "weights", caller, caller, parameter=parameter, fans=fans)
            self._step(step, given, output)
        else:
            self._pass(name, signals, given, output)

    def _pass(self, name: str, signals: list[Tensor], given: Any, output: Any) -> None:
        """A function that is no step: arithmetic, reshaping, pooling, a normalization."""
        if not signals:
            return
        made = _union(self._signals[id(x)][1] for x in signals)
        near = made.near
        if name in _PRODUCT and len(signals) > 1:
            near = _used(near, "product")
        elif name in _MULTIPLY and len([x for x in signals if x.numel() > 1]) > 1:
            near = _used(near, "multiply")
        elif name in _MULTIPLY and len([x for x in _all_tensors(given) if self._parameter(x) is None]) > 1:
            # By what the network did not compute: noise that is scaled, a state of zeros behind its gate; or a mask,
            # which leaves an activation what it is.
            factors = frozenset(step for step in near if step.operation in _FACTORS)
            _used(factors, "multiply")
            near -= factors
        elif name in _ADD and len(signals) > 1:
            _used(near, "add")
        signal = _Signal(near, made.far, made.past)
        self._keep(output, signal)
        if name in _SET:
            self._keep(given[0][0], signal)

    def _step(self, step: Step, given: Any, output: Any) -> None:
        made = _union(self._signals[id(x)][1] for x in _all_tensors(given) if id(x) in self._signals)
        step.behind = tuple(made.near)
        step.follows = any(one.follows or one.role in (*_WEIGHTY, "embedding") for one in made.far)
        near, far, past = made.near, made.far, made.past
        if step.role == "activation":
            _used(near, "activation")
            near, far = frozenset((step,)), far | {step}
        elif step.role in _WEIGHTY:
            _used(near, "weights")
            for one in far:
                one.reached = True
            step.again = step.weights in past
            near = far = frozenset((step,))
            past |= {step.weights}
        elif step.role == "embedding":
            near = far = frozenset((step,))
        elif step.role == "normalization":
            near |= {step}
        self.steps.append(step)
        self._keep(output, _Signal(near, far, past))

    def _keep(self, value: Any, signal: _Signal) -> None:
        for x in _all_tensors(value):
            self._signals[id(x)] = (x, signal)  # the tensor as well, so that its id is not used again

    def _parameter(self, x: Tensor) -> str | None:
        """The name of the parameter that a tensor is a view of."""
        if x.layout is not torch.strided:
            return None
        found = self._parameters.get(x.untyped_storage().data_ptr())
        return found[0] if found is not None and x.numel() == found[1].numel() and x.numel() else None


def _used(steps: frozenset[Step], use: str) -> frozenset[Step]:
    """Notes what became of some outputs; nothing is left of those that were multiplied."""
    for step in steps:
        step.uses.add(use)
    return frozenset()


def activation_named(name: str, args: Any) -> str:
    """The activation that a function of this name is, nothing if it is none."""
    plain = name.removesuffix("_")
    if plain == "clamp_min":
        return "relu" if len(args) > 1 and args[1] == 0 else ""  # else a floor against division by zero
    return plain if plain in ACTIVATIONS else ""


def _is_leaf(module: nn.Module) -> bool:
    """Torch's own modules without children, and what is like them; a user's own are looked into."""
    if isinstance(module, _LEAVES) or type(module) in NAMES or role_of(module) != "other":
        return True
    return type(module).__module__.startswith("torch.nn.") and not any(True for _ in module.children())


def _fans(name: str, x: Tensor, given: Any) -> tuple[int, int]:
    """Fan-in and fan-out of weights in a function, by the side on which they stand."""
    if name in _PRODUCT:
        args = list(given[0])
        first = bool(args) and args[0] is x
        if name == "einsum" or x.ndim < 2:
            return x.shape[0], math.prod(x.shape[1:])
        return (x.shape[-1], x.shape[-2]) if first else (x.shape[-2], x.shape[-1])
    kernel = math.prod(x.shape[2:])
    inputs, outputs = (0, 1) if "transpose" in name else (1, 0)
    return x.shape[inputs] * kernel, x.shape[outputs] * kernel


def _all_tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
        return [x for _, x in tensors((list(value[0]), value[1]), depth=4)]
    return [x for _, x in tensors(value, depth=4)]
