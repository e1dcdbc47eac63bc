"""The instruments of the peers: what their rules need of about fifty steps of a training, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmarks.gauntlet.training import Training
from benchmarks.gauntlet.verify import described, scored
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CHECKS, EPOCHS = 50, 10

# Functions are caught rather than modules: nn.ReLU calls one of them as well, and the peers come from libraries in
# which every activation is a layer, so that F.relu in a forward is no reason for them to be blind.
_ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid"}
_ACTIVATIONS |= dict.fromkeys(["leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "softplus", "relu6"], "other")

_SATURATED = {"tanh": (-9.4999, 9.4999), "sigmoid": (-23.0, 16.99999)}
"""Limits of the pre-activation in SageMaker Debugger."""


@dataclass(frozen=True)
class Activation:
    """One call of an activation function: shares of its elements or of its units."""

    function: str
    finite: bool
    all_zero: bool
    nonpositive: float
    std: float
    silent_units: float  # zero in more than 99 % of the examples
    faint_units: float  # below 1e-5 in 95 % of the examples
    beyond_5: float
    beyond_limits: float  # units whose pre-activation is beyond the limits in more than 99 % of the examples
    extreme_units: float  # units whose mean distance from the middle of the range is above 0.85 of its half


@dataclass(frozen=True)
class Weights:
    """One trainable parameter and its step; ``matrix`` tells weights from biases and the scales of a normalization."""

    name: str
    matrix: bool
    finite: bool
    gradient: float | None  # mean |g|, None if there was no gradient
    gradient_norm: float
    gradient_mean: float
    zeros: int
    size: int
    mean: float
    variance: float
    magnitude: float  # mean |w|
    norm: float
    update: float  # mean |change|
    rate: float  # learning rate


@dataclass(frozen=True)
class Check:
    """One step that the peers looked at. ``loss`` is the mean since the last one, ``score`` given at ends of epochs."""

    step: int
    loss: float
    score: float | None
    weights: list[Weights]
    activations: list[Activation]
    inputs: tuple[float, float] | None


@dataclass
class Observed:
    """A training as the peers saw it."""

    epochs: int
    initial: float
    checks: list[Check] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    error: str = ""


class _Functions(TorchFunctionMode):
    """Sees every activation function that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Activation] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = _ACTIVATIONS.get(getattr(func, "__name__", "").rstrip("_"))
        before = args[0].detach().clone() if name in _SATURATED and args and isinstance(args[0], Tensor) else None
        out = func(*args, **(kwargs or {}))
        if name and isinstance(out, Tensor) and out.is_floating_point() and out.numel():
            self.seen.append(_activation(name, before, out.detach()))
        return out


def _units(x: Tensor) -> Tensor:
    """``(examples, units)``: the channels of images are in the second dimension, all other units in the last."""
    x = x.float()
    if x.dim() > 3:
        x = x.movedim(1, -1)
    return x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1)


def _activation(name: str, before: Tensor | None, out: Tensor) -> Activation:
    a = _units(out)
    beyond_5 = beyond_limits = extreme = 0.0
    if before is not None:
        z, (low, high) = _units(before), _SATURATED[name]
        beyond_5 = (z.abs() >= 5).float().mean().item()
        beyond_limits = _share(((z < low) | (z > high)).float().mean(0) > 0.99)
        scaled = a if name == "tanh" else 2 * a - 1
        extreme = _share(scaled.abs().mean(0) > 0.85)
    return Activation(
        function=name,
        finite=bool(a.isfinite().all()),
        all_zero=not bool(a.any()),
        nonpositive=_share(a <= 0),
        std=a.std(correction=0).item(),
        silent_units=_share((a == 0).float().mean(0) > 0.99),
        faint_units=_share((a.abs() < 1e-5).float().mean(0) >= 0.95),
        beyond_5=beyond_5,
        beyond_limits=beyond_limits,
        extreme_units=extreme,
    )


def _share(true: Tensor) -> float:
    return true.float().mean().item()


def _weights(name: str, p: Tensor, before: Tensor, gradient: Tensor | None, rate: float) -> Weights:
    after, w = p.detach().float(), before.float()
    g = None if gradient is None else gradient.detach().float()
    g = g.to_dense() if g is not None and g.is_sparse else g
    return Weights(
        name=name,
        matrix=p.dim() > 1,
        finite=bool(after.isfinite().all()) and (g is None or bool(g.isfinite().all())),
        gradient=None if g is None else g.abs().mean().item(),
        gradient_norm=math.nan if g is None else g.norm().item(),
        gradient_mean=math.nan if g is None else g.mean().item(),
        zeros=0 if g is None else int((g == 0).sum()),
        size=0 if g is None else g.numel(),
        mean=after.mean().item(),
        variance=w.var().item() if w.numel() > 1 else math.nan,
        magnitude=w.abs().mean().item(),
        norm=w.norm().item(),
        update=(after - w).abs().mean().item(),
        rate=rate,
    )


class _Eyes:
    """Looks at single steps of a training; between them nothing of it is left in the training."""

    def __init__(self, training: Training) -> None:
        model, optimizer = training.model, training.optimizer
        models = {"": model} if isinstance(model, nn.Module) else dict(model)
        self._training = training
        self._modules = list(models.values())
        self._optimizers = optimizer if isinstance(optimizer, list) else [optimizer]
        named = {p: f"{k}.{n}".lstrip(".") for k, m in models.items() for n, p in m.named_parameters()}
        self._parameters = {p: name for p, name in named.items() if p.requires_grad and p.numel()}

    def step(self, i: int) -> tuple[float, list[Weights], list[Activation], tuple[float, float] | None]:
        """Does the i-th step and tells what was seen of it."""
        before = {p: p.detach().clone() for p in self._parameters}
        gradients: dict[Tensor, Tensor] = {}
        rates: dict[Tensor, float] = {}
        inputs: list[tuple[float, float]] = []

        def steps(optimizer: torch.optim.Optimizer, *_: Any) -> None:  # the last moment before a step may be zeroed
            for group in optimizer.param_groups:
                for p in group["params"]:
                    rates[p] = float(group.get("lr", math.nan))
                    if p.grad is not None:
                        gradients[p] = p.grad.detach().clone()

        def enters(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].is_floating_point() and args[0].numel():
                inputs.append((args[0].min().item(), args[0].max().item()))

        handles = [o.register_step_pre_hook(steps) for o in self._optimizers]
        handles += [module.register_forward_pre_hook(enters) for module in self._modules]
        try:
            with _Functions() as functions:
                loss = self._training.step(i)
        finally:
            for handle in handles:
                handle.remove()
        weights = [
            _weights(name, p, before[p], gradients.get(p, p.grad), rates.get(p, math.nan))
            for p, name in self._parameters.items()
        ]
        return loss, weights, functions.seen, inputs[0] if inputs else None


def observe(training: Training) -> Observed:
    """Trains and looks at every step, or, where there are many, at about fifty and at the ends of ten epochs."""
    epochs = min(EPOCHS, training.steps)
    ends = {training.steps * (k + 1) // epochs for k in range(epochs)}
    interval = math.ceil(training.steps / CHECKS)
    eyes = _Eyes(training)
    seen = Observed(epochs, scored(training))
    since: list[float] = []
    try:
        for i in range(training.steps):
            if i and (i + 1) % interval and i + 1 not in ends:
                since.append(training.step(i))
                seen.losses.append(since[-1])
                continue
            loss, weights, activations, inputs = eyes.step(i)
            seen.losses.append(loss)
            score = scored(training) if i + 1 in ends else None
            mean = (sum(since) + loss) / (len(since) + 1)
            seen.checks.append(Check(i + 1, mean, score, weights, activations, inputs))
            since = []
    except Exception as error:
        seen.error = described(error)
    return seen
