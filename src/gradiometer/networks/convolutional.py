"""Stacks of convolutions in the manner of the CIFAR-10 networks of He et al., with and without skips."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions, each with its normalization; with a skip, what came in is added before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, residual: bool, batch_norm: bool) -> None:
        """A ``stride`` of two halves the image."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not batch_norm)
        self.norm1 = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=not batch_norm)
        self.norm2 = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.residual, self.stride, self.more = residual, stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """The block's output; a skip across a stride takes every other pixel and adds channels of zeros."""
        h = F.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        if self.residual:
            h = h + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(h)


def convolutional(
    channels: int, depth: int, outputs: int, *, inputs: int = 1, residual: bool = True, batch_norm: bool = True
) -> nn.Sequential:
    """Three stages of blocks of two 3 x 3 convolutions, each stage with half the pixels and twice the channels.

    Formula: ``relu(x + F(x))`` with ``F`` = conv, norm, ReLU, conv, norm; plain: ``relu(F(x))``. Weights
    ``N(0, 2 / fan_in)``, biases zero. The depth counts convolutions and the output layer: ``6 n + 2``.

    Args:
        channels: of the first stage; He et al. have 16.
        depth: 8, 14, 20, ..., 56, ...
        outputs: number of classes.
        inputs: channels of the images.
        residual: whether there are skips, which have no parameters.
        batch_norm: whether batch normalization stands behind every convolution.

    Returns:
        A sequential module with ``stem``, ``norm``, ``act``, ``block1``, ..., ``pool``, ``flatten``, ``output``.

    Raises:
        ValueError: for a depth that is not ``6 n + 2``.

    Example:
        >>> sum(p.numel() for p in convolutional(16, 20, 10, inputs=3).parameters())
        269722

    Source:
        He et al., Deep residual learning for image recognition (2016), section 4.2, shortcuts of kind A.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth is 6 n + 2 (8, 14, 20, ...), and not {depth}.")
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(inputs, channels, 3, padding=1, bias=not batch_norm))
    net.add_module("norm", nn.BatchNorm2d(channels) if batch_norm else nn.Identity())
    net.add_module("act", nn.ReLU())
    count, width = (depth - 2) // 6, channels
    for i in range(3 * count):
        first = i in (count, 2 * count)
        block = Block(width, 2 * width if first else width, 2 if first else 1, residual=residual, batch_norm=batch_norm)
        net.add_module(f"block{i + 1}", block)
        width = 2 * width if first else width
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("output", nn.Linear(width, outputs))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net
