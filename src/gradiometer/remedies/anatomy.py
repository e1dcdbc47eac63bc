"""What a network does with one batch: its leaf modules and functional activations, in the order of their calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from gradiometer.probe.given import call as call_model
from gradiometer.probe.outputs import tensors
from gradiometer.probe.traceless import traceless

Role = Literal["weights", "activation", "normalization", "attention", "recurrent", "dropout", "embedding", "other"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU, "elu": nn.ELU, "selu": nn.SELU,
    "celu": nn.CELU, "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
    "hardsigmoid": nn.Hardsigmoid, "hardtanh": nn.Hardtanh, "hardswish": nn.Hardswish, "softplus": nn.Softplus,
    "softsign": nn.Softsign, "logsigmoid": nn.LogSigmoid, "softmax": nn.Softmax, "log_softmax": nn.LogSoftmax,
}  # fmt: skip
"""Name of an activation, as functions have it, and its module."""

NAMES: dict[type[nn.Module], str] = {kind: name for name, kind in ACTIVATIONS.items()}

_IN_PLACE = {f"{name}_": name for name in ACTIVATIONS} | {"clamp_min": "relu", "clamp_min_": "relu"}

_LEAVES = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
"""Modules that are one thing, though some have modules inside."""


@dataclass(frozen=True)
class Call:
    """One call of a leaf module, or of an activation as a function.

    ``path`` is that of the module, or of the one in whose ``forward`` the function was called; ``operation`` the
    activation's name or the module's class in lower case, ``inputs`` and ``outputs`` the shapes of the
    first tensor in and out, ``line`` where a function was called (``net.py:12``). ``repeated`` says that the same
    module was called before.
    """

    path: str
    operation: str
    role: Role
    module: nn.Module | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    line: str = ""
    repeated: bool = False


@dataclass(frozen=True)
class Block:
    """A call of a module with modules inside: its path, the shapes in and out, how often it was called."""

    path: str
    module: nn.Module
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    calls: int


@dataclass(frozen=True)
class Anatomy:
    """The calls in their order, and the modules around them in the order in which they ended."""

    calls: tuple[Call, ...]
    blocks: tuple[Block, ...]

    @property
    def weights(self) -> list[Call]:
        """The first call of each weight layer (linear, convolution), the input first, the output layer last."""
        return [call for call in self.calls if call.role == "weights" and not call.repeated]

    def after(self, call: Call, *roles: Role) -> Call | None:
        """The next call of one of these roles, before any further weights; ``None`` if there is none."""
        for later in self.calls[self.calls.index(call) + 1 :]:
            if later.role in roles:
                return later
            if later.role in ("weights", "recurrent", "attention"):
                return None
        return None

    def activation_after(self, call: Call) -> str:
        """Name of the activation that a weight layer's output goes through, ``"linear"`` if there is none."""
        found = self.after(call, "activation")
        return found.operation if found else "linear"

    def has(self, role: Role) -> bool:
        """Whether anything of this role was called."""
        return any(call.role == role for call in self.calls)


def role_of(module: nn.Module) -> Role:
    """What a leaf module is there for."""
    if type(module) in NAMES:
        return "activation"
    if isinstance(module, (nn.Linear, _ConvNd, nn.Bilinear)):
        return "weights"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return "recurrent"
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)):
        return "normalization"
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return "dropout"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    return "other"


def anatomy(model: nn.Module, batch: Any) -> Anatomy:
    """Runs a model on one batch in the mode it is in, leaving no trace, and notes what it calls.

    Formula: none.

    Args:
        model: the network.
        batch: ``(inputs, targets)`` or a mapping of the model's keywords.

    Returns:
        An `Anatomy`.

    Raises:
        whatever the model raises.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3))
        >>> found = anatomy(model, (torch.randn(2, 4), None))
        >>> [(call.path, call.operation) for call in found.calls]
        [('0', 'linear'), ('1', 'sigmoid'), ('2', 'linear')]
        >>> [found.activation_after(call) for call in found.weights]
        ['sigmoid', 'linear']

    Source:
        none.
    """
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    recorder = _Recorder(model)
    with traceless(model), torch.no_grad(), recorder:
        call_model(model, inputs)
    return Anatomy(tuple(recorder.calls), tuple(recorder.blocks.values()))


class _Recorder(TorchFunctionMode):
    """Sees activations that are called as functions, and by hooks the modules; hooks are gone when it ends."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.blocks: dict[str, Block] = {}
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._modules = list(model.named_modules())
        self._stack: list[str] = []
        self._inside_leaf = 0
        self._handles: list[Any] = []

    def __enter__(self) -> _Recorder:
        inside: set[int] = set()
        for _, module in self._modules:
            if id(module) in inside:
                continue
            leaf = isinstance(module, _LEAVES) or type(module) in NAMES or not any(True for _ in module.children())
            if leaf:
                inside |= {id(m) for m in module.modules()}
            self._handles += [
                module.register_forward_pre_hook(self._before(leaf), with_kwargs=True),
                module.register_forward_hook(self._after(leaf), with_kwargs=True),
            ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _before(self, leaf: bool) -> Callable[..., None]:
        def hook(module: nn.Module, *_: Any) -> None:
            self._stack.append(self._paths[id(module)])
            self._inside_leaf += leaf

        return hook

    def _after(self, leaf: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            path = self._stack.pop()
            self._inside_leaf -= leaf
            given, made = _shape((args, kwargs)), _shape(output)
            if leaf:
                operation = NAMES.get(type(module), type(module).__name__.lower())
                again = any(call.module is module for call in self.calls)
                self.calls.append(Call(path, operation, role_of(module), module, given, made, repeated=again))
            else:
                calls = self.blocks[path].calls + 1 if path in self.blocks else 1
                self.blocks[path] = Block(path, module, given, made, calls)

        return hook

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        name = _IN_PLACE.get(name, name)
        if name in ACTIVATIONS and self._stack and not self._inside_leaf:
            line = _line(sys._getframe(1))
            self.calls.append(Call(self._stack[-1], name, "activation", None, _shape(args), _shape(output), line))
        return output


def _shape(value: Any) -> tuple[int, ...]:
    return next((tuple(x.shape) for _, x in tensors(value)), ())


_TORCH = Path(torch.__file__).parent
_FUNCTIONS = tuple((_TORCH / name).as_posix() for name in ("nn/functional", "overrides", "_tensor"))


def _line(frame: FrameType | None) -> str:
    """Where a function was called; nothing if that is in a module of torch itself."""
    while frame is not None and Path(frame.f_code.co_filename).as_posix().startswith(_FUNCTIONS):
        frame = frame.f_back
    if frame is None or Path(frame.f_code.co_filename).is_relative_to(_TORCH):
        return ""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
