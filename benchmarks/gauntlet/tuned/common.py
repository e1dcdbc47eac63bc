"""What the tuned cases share: small networks, initializations, common tasks, and scores that leave no trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import characters, digits, minibatches
from benchmarks.gauntlet.training import Training
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
Initialization = Callable[[Tensor], object]


@contextmanager
def undisturbed(*models: nn.Module) -> Iterator[None]:
    """Evaluation that changes nothing: no gradient, and modes and random numbers as before."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        try:
            for model in models:
                model.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def bounded(score: float) -> float:
    """A score between -1 and 1; -1 for NaN."""
    return max(-1.0, min(1.0, score)) if math.isfinite(score) else -1.0


def accuracy(model: nn.Module, x: Tensor, y: Tensor, classes: int = 10) -> Callable[[], float]:
    """Accuracy above chance."""

    def score() -> float:
        with undisturbed(model):
            right = (model(x).argmax(-1) == y).float().mean().item()
        return bounded((right - 1 / classes) / (1 - 1 / classes))

    return score


def explained(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *parts: nn.Module) -> Callable[[], float]:
    """The share of the targets' variance that the model explains; ``parts`` are its modules if it is a function."""
    modules = parts or (model,)

    def score() -> float:
        with undisturbed(*modules):  # type: ignore[arg-type]
            error = (model(x).reshape(y.shape) - y).square().mean()
        return bounded(1 - (error / (y - y.mean(0)).square().mean()).item())

    return score


def supervised(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    loss: Loss,
    score: Callable[[], float],
    steps: int,
    *,
    batch: int = 64,
    rate: Callable[[int], float] | None = None,
    change: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    between: Callable[[], object] | None = None,
) -> Training:
    """The usual loop. ``rate(i)`` is a learning rate by step, ``change`` alters a batch, ``between`` runs after the
    backward pass and before the optimizer.
    """
    x, y = data
    draw = minibatches(batch, len(y))

    def step(i: int) -> float:
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(i)
        chosen = draw()
        inputs, targets = x[chosen], y[chosen]
        if change is not None:
            inputs, targets = change(i, inputs, targets)
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        if between is not None:
            between()
        optimizer.step()
        return value.item()

    return Training(model, optimizer, step, steps, score)


def classifier(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    data: tuple[Tensor, Tensor] | None = None,
    loss: Loss = F.cross_entropy,
    **options: object,
) -> Training:
    """Cross-entropy on the digits, or on other data of ten classes."""
    x, y = data or digits()
    score = accuracy(model, x[:500], y[:500], 10)
    return supervised(model, optimizer, (x, y), loss, score, steps, **options)  # type: ignore[arg-type]


def regression(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    steps: int,
    *,
    loss: Loss = F.mse_loss,
    **options: object,
) -> Training:
    """Mean squared error, scored by the variance explained."""
    score = explained(model, data[0][:1000], data[1][:1000])
    return supervised(model, optimizer, data, loss, score, steps, **options)  # type: ignore[arg-type]


def language(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    length: int = 24,
    batch: int = 16,
    rate: Callable[[int], float] | None = None,
    clip: float | None = None,
) -> Training:
    """Next-character prediction; the score is 1 at the entropy of the source and 0 at that of a uniform guess."""
    text = characters()
    draw = minibatches(batch, len(text) - length - 1)
    window = torch.arange(length + 1)
    held = text[torch.arange(0, 50_000, 1000)[:, None] + window]

    def loss_of(b: Tensor) -> Tensor:
        return F.cross_entropy(model(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten())

    def step(i: int) -> float:
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(i)
        b = text[draw()[:, None] + window]
        optimizer.zero_grad()
        loss = loss_of(b)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            return bounded((math.log(24) - loss_of(held).item()) / (math.log(24) - 0.92))

    return Training(model, optimizer, step, steps, score)


def he(gain: float = 1.0) -> Initialization:
    """He et al. (2015), times a gain."""
    return lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu").data.mul_(gain)


def xavier(gain: float = 1.0) -> Initialization:
    """Glorot and Bengio (2010), times a gain."""
    return lambda w: nn.init.xavier_normal_(w, gain)


def lecun(gain: float = 1.0) -> Initialization:
    """Variance ``gain**2 / fan_in``."""
    return lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear").data.mul_(gain)


def normal(std: float) -> Initialization:
    """One standard deviation for every layer, whatever its fan."""
    return lambda w: nn.init.normal_(w, std=std)


def initialized(model: nn.Module, how: Initialization | None, bias: float = 0.0) -> nn.Module:
    """The model with its linear and convolution weights drawn anew and its biases constant; ``None`` is torch's own."""
    if how is not None:
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                how(module.weight)
                if module.bias is not None:
                    nn.init.constant_(module.bias, bias)
    return model


def mlp(
    depth: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    init: Initialization | None = None,
    *,
    width: int = 64,
    inputs: int = 64,
    outputs: int = 10,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """``depth`` hidden layers and a linear one; its k-th linear layer is ``2k`` in the sequence (``3k`` with norms)."""
    layers: list[nn.Module] = []
    for k in range(depth):
        layers.append(nn.Linear(width if k else inputs, width))
        if norm is not None:
            layers.append(norm(width))
        layers.append(activation())
    model = nn.Sequential(*layers, nn.Linear(width if depth else inputs, outputs))
    initialized(model, init)
    return model


class Residual(nn.Module):
    """``x + scale * branch(x)``."""

    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


def convolutions(
    channels: Sequence[int],
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
) -> list[nn.Module]:
    """3x3 convolutions that keep the size, each with its norm and activation."""
    layers: list[nn.Module] = []
    for a, b in pairwise(channels):
        layers += [nn.Conv2d(a, b, 3, padding=1), *([norm(b)] if norm else []), activation()]
    return layers


def pooled_head(channels: int, classes: int = 10) -> list[nn.Module]:
    """Global average pooling and a linear classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def smooth_function(count: int = 2000, inputs: int = 5) -> tuple[Tensor, Tensor]:
    """Regression data: ``sin(2 x0) + x1 * x2`` of normal inputs, of variance about 1.5."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(count, inputs, generator=g)
    return x, (2 * x[:, :1]).sin() + x[:, 1:2] * x[:, 2:3]
