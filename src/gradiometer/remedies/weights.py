"""The weights of a network that an initialization draws: their fans, and the activation behind each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from gradiometer.remedies.anatomy import NAMES, role_of
from gradiometer.remedies.draws import Draw
from gradiometer.remedies.flow import Flow

init = nn.init


@dataclass(frozen=True)
class Weight:
    """A weight to be drawn: where it is, what comes in and goes out, and the activation behind it.

    ``regular`` says that the functions of ``torch.nn.init`` see the same fans; ``activation`` is that module, or its
    name, or ``"linear"``; weights that
    are used again and again keep the gain at one. ``recurrent`` weights get what they themselves have made.
    """

    path: str
    parameter: str
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    regular: bool
    activation: nn.Module | str = "linear"
    output: bool = False
    module: nn.Module | None = None
    bias: str = ""
    recurrent: bool = False

    @property
    def operation(self) -> str:
        """Name of the activation."""
        return self.activation if isinstance(self.activation, str) else NAMES[type(self.activation)]


_UNSCALED = frozenset(("softmax", "log_softmax", "logsigmoid"))
"""Activations that look at several units at once, or have no scale that could be kept."""

Scheme = Callable[[Weight], "tuple[Draw, ...]"]
"""How a weight is drawn, and its bias; the first draw is the weight's."""


def number(x: float) -> float:
    """As many digits as are written down."""
    return float(f"{x:.6g}")


def draw(weight: Weight, function: Callable[..., Any], *, times: float | None = None, **arguments: Any) -> Draw:
    """A draw of a weight."""
    return Draw(weight.path, weight.parameter, function, tuple(arguments.items()), times)


def normal(weight: Weight, scale: float) -> Draw:
    """Drawn with variance ``scale^2 / fan_in``."""
    if not weight.regular:
        return draw(weight, init.normal_, std=number(scale / math.sqrt(weight.fan_in)))
    times = None if scale == 1 else round(scale, 4)
    return draw(weight, init.kaiming_normal_, times=times, nonlinearity="linear")


def lecun(weight: Weight) -> tuple[Draw, ...]:
    """Variance ``1 / fan_in``: LeCun et al., Efficient BackProp (1998), equation 16."""
    return (normal(weight, 1.0), *zero_bias(weight))


def zero_bias(weight: Weight) -> tuple[Draw, ...]:
    """Its bias at zero, if it has one."""
    return (Draw(weight.path, weight.bias, init.zeros_),) if weight.bias else ()


def weights(model: nn.Module, seen: Flow) -> Iterator[Weight]:
    """The trainable weights of linear layers and convolutions, and parameters used as such; each once."""
    done: set[int] = set()
    for path, module in model.named_modules():
        if role_of(module) == "weights" and (weight := _of_layer(path, module, seen)) is not None:
            held = stored(module)
            if held is not None and id(held) not in done:
                done.add(id(held))
                yield weight
    named = dict(model.named_parameters())
    done |= embeddings(model)
    for step in seen.steps:
        p = named.get(step.parameter)
        if step.role == "weights" and p is not None and p.requires_grad and id(p) not in done and p.ndim > 1:
            done.add(id(p))
            path, _, parameter = step.parameter.rpartition(".")
            activation = _activation(seen, None, step.parameter)
            output = seen.is_output(None, step.parameter)
            again = _again(seen, None, step.parameter)
            yield Weight(path, parameter, tuple(p.shape), *step.fans, False, activation, output, recurrent=again)


def _of_layer(path: str, module: nn.Module, seen: Flow) -> Weight | None:
    at = place(path, module, "weight")
    if at is None:
        return None
    held = stored(module)
    assert held is not None
    shape = tuple(held.shape)
    kernel = math.prod(shape[2:])
    fan_in, fan_out, regular = shape[1] * kernel, shape[0] * kernel, True
    groups = getattr(module, "groups", 1)
    if isinstance(module, _ConvTransposeNd):
        # Of the kernel's places 1 in prod(stride) meets an input.
        strides = math.prod(module.stride)
        fan_in, fan_out, regular = shape[0] // groups * kernel // strides, shape[1] * kernel, False
        fan_in = max(fan_in, 1)
    elif isinstance(module, nn.Bilinear):
        fan_out = shape[0]
    elif groups > 1:
        fan_out, regular = fan_out // groups, False
    bias = module._parameters.get("bias")
    trainable = bias is not None and bias.requires_grad
    return Weight(
        *at,
        shape,
        fan_in,
        fan_out,
        regular,
        _activation(seen, module),
        seen.is_output(module),
        module,
        "bias" if trainable else "",
        _again(seen, module),
    )


def _activation(seen: Flow, module: nn.Module | None, parameter: str = "") -> nn.Module | str:
    step = seen.activation_of(module, parameter)
    if step is None or len(seen.of(module, parameter)) > 1 or step.operation in _UNSCALED:
        return "linear"
    return step.module if step.module is not None else step.operation


def _again(seen: Flow, module: nn.Module | None, parameter: str = "") -> bool:
    return any(step.again for step in seen.of(module, parameter))


def stored(module: nn.Module, name: str = "weight") -> Tensor | None:
    """The parameter in which a weight is kept; a parametrization is not computed, since that may change buffers."""
    parametrized = getattr(module, "parametrizations", {})
    if name in parametrized:
        inner = parametrized[name]
        return inner.original if hasattr(inner, "original") else max(inner.parameters(), key=Tensor.numel)
    return module._parameters.get(name)


def embeddings(model: nn.Module) -> set[int]:
    """The ids of the weights of embeddings."""
    return {id(stored(m)) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}


def place(path: str, module: nn.Module, name: str) -> tuple[str, str] | None:
    """Where a weight is; ``None`` if it is frozen or cannot be set."""
    held = stored(module, name)
    return None if held is None or held.ndim < 2 or not held.requires_grad else (path, name)
