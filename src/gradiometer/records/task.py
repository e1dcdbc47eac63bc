"""What a training is asked to do in one step: its inputs, and what the loss compares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

BOUNDED: Mapping[str, tuple[float, float]] = {
    "softmax": (0.0, 1.0), "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0), "relu": (0.0, math.inf), "softplus": (0.0, math.inf),
}  # fmt: skip
"""Smallest and largest value that an activation gives."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one loss function of a step compares, read off autograd's graph.

    ``loss`` is its operation (``nll_loss``, ``mse_loss``, ...), ``before`` the operations just before it on the way
    from the network, the nearest first and views left out, ``width`` the size of the dimension over which the first
    softmax among them runs. ``guess`` is the loss of the best constant answer to this batch, as the loss function
    reduces it. ``outputs`` and ``targets`` are the smallest and the largest of each, ``spread`` their root mean square
    distance from each output's own mean. ``beyond`` is the root mean square distance of the targets from the range of
    the operation before the loss. ``broadcast`` says that the targets were stretched to the shape of the
    outputs, or the outputs to theirs. ``direct`` says that ``backward`` was called on this loss itself. ``sums`` are
    the smallest and the largest sum over the classes of the probabilities that a loss gets the logarithms of, where
    they come from a softmax. Of losses that weigh log-probabilities with probabilities (``kl_div``, and
    ``cross_entropy`` with soft labels) ``guess`` is in the unit of what ``backward`` was called on.
    """

    loss: str
    before: tuple[str, ...]
    examples: int
    width: int | None = None
    guess: float | None = None
    outputs: tuple[float, float] | None = None
    targets: tuple[float, float] | None = None
    spread: tuple[float, float] | None = None
    beyond: float = 0.0
    broadcast: bool = False
    direct: bool = True
    sums: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """The batch as it enters the model, of floating-point inputs.

    ``features`` counts the last dimension (of images the channels). ``rms`` is over all elements; ``offset`` is the
    mean squared over the variance, averaged over features; ``spread`` the largest standard deviation of a feature over
    the median of those that vary; ``feature`` is its index.
    """

    rms: float
    offset: float
    spread: float
    feature: int
    features: int
