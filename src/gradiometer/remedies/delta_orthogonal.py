"""Convolutions that begin as an orthogonal matrix at the middle of the kernel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.draws import Draw
from gradiometer.remedies.flow import Flow
from gradiometer.remedies.gains import gain
from gradiometer.remedies.weights import Weight, draw, normal, zero_bias
from gradiometer.remedies.whole import whole


def delta_orthogonal_(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Zeros, and an orthogonal matrix at the middle of the kernel."""
    nn.init.zeros_(weight)
    middle = tuple(size // 2 for size in weight.shape[2:])
    nn.init.orthogonal_(weight[(slice(None), slice(None), *middle)], gain)
    return weight


def scheme(weight: Weight) -> tuple[Draw, ...]:
    """Delta-orthogonal for convolutions, orthogonal for other layers, He's for transposed and grouped convolutions."""
    times = round(gain(weight.activation), 4)
    arguments = {} if times == 1 else {"gain": times}
    if not weight.regular:
        return (normal(weight, gain(weight.activation)), *zero_bias(weight))
    function = delta_orthogonal_ if isinstance(weight.module, _ConvNd) else nn.init.orthogonal_
    return (draw(weight, function, **arguments), *zero_bias(weight))


def plan(model: nn.Module, seen: Flow) -> list[Draw]:
    """The draws of a whole network.

    Raises:
        UnusableError: if it has no convolutions, of a kernel larger than one.
    """
    kernels = [m for m in model.modules() if isinstance(m, _ConvNd) and not isinstance(m, _ConvTransposeNd)]
    if not any(max(module.kernel_size) > 1 for module in kernels):
        raise UnusableError("This network has no convolutions, for which alone this initialization is meant.")
    return whole(model, seen, scheme)
