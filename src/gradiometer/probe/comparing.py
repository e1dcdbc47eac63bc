"""What a loss compares, in numbers that may still lie on the device: ranges, spreads, the loss of a constant guess."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradiometer.measures import Scalar, around_center, binary_entropy, class_entropy
from gradiometer.probe.kept import kept
from gradiometer.probe.nodes import plain
from gradiometer.records.task import BOUNDED

_MEAN, _SUM = 1, 2  # what autograd calls the reductions


def _huber(node: Any) -> Callable[[Tensor], Tensor]:
    delta = node._saved_delta
    return lambda d: torch.where(d.abs() < delta, d.square() / 2, delta * (d.abs() - delta / 2))


def _smooth(node: Any) -> Callable[[Tensor], Tensor]:
    beta = node._saved_beta
    return lambda d: torch.where(d.abs() < beta, d.square() / (2 * beta), d.abs() - beta / 2) if beta else d.abs()


DIFFERENCES: dict[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "mse_loss": lambda _: torch.square,
    "huber_loss": _huber,
    "smooth_l1_loss": _smooth,
}
CLASSES = ("nll_loss", "nll_loss2d")
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
LOSSES = {*DIFFERENCES, *CLASSES, *BINARY}


def range_and_spread(output: Tensor, target: Tensor) -> dict[str, Scalar]:
    """Of outputs and targets the smallest, the largest, and the distance from each output's own mean."""
    return {
        "target_min": scalar(target.amin()),
        "target_max": scalar(target.amax()),
        "target_spread": _spread(target),
        "output_spread": _spread(output.detach()),
        "output_min": scalar(output.amin()),
        "output_max": scalar(output.amax()),
    }


def range_of(node: Any, activation: str) -> tuple[float, float]:
    """What an activation before a loss can give; a clipped one keeps its bounds in its node (ReLU6 is one of them)."""
    if activation == "hardtanh":
        while node is not None and plain(node.name()) != "hardtanh":
            node = node.next_functions[0][0]
        if node is not None:
            return float(node._saved_min_val), float(node._saved_max_val)
    return BOUNDED.get(activation, (-math.inf, math.inf))


def compared(node: Any, name: str, output: Tensor, target: Tensor, stretched: bool) -> dict[str, Scalar]:
    """The same of a loss function of torch, and what answering a constant would cost."""
    whole = node._saved_reduction == _SUM
    # What answering all classes alike costs: too small a batch says nothing of their frequencies.
    even: Scalar = math.nan
    if name in CLASSES:
        # Elsewhere counting classes would stop the queue: there all count as equally frequent.
        counted = target.device.type == "cpu"
        weight = kept(node, "weight")
        guess = class_entropy(target, node._saved_ignore_index, weight) if counted else math.nan
        even = math.log(output.shape[1] if output.dim() > 1 else output.shape[0])
        valid = target != node._saved_ignore_index
        count = valid.sum() if whole else 1.0
        last = output.shape[1] - 1 if output.dim() > 1 else output.shape[0] - 1
        low, high = torch.where(valid, target, last).amin(), torch.where(valid, target, 0).amax()
        numbers: dict[str, Scalar] = {"target_min": scalar(low), "target_max": scalar(high)}
        if node._saved_weight is not None and (weight is None or node._saved_reduction != _MEAN):
            guess = even = math.nan  # only a mean is divided by the weights again
    else:
        numbers = {"target_min": scalar(target.amin()), "target_max": scalar(target.amax())}
        numbers |= {"target_spread": _spread(target), "output_spread": _spread(output)}
        count = float(target.numel()) if whole else 1.0
        if name in BINARY:
            ones = kept(node, "pos_weight")
            if ones is None:
                known = getattr(node, "_saved_pos_weight", None) is None
            else:  # weights of their own for each example have no constant answer
                known = ones.dim() < target.dim() or ones.shape[:1] in ((), (1,))
            if node._saved_weight is None and known:
                guess = binary_entropy(target, ones)
                even = math.log(2) if ones is None else scalar(math.log(2) * (ones * target + 1 - target).mean())
            else:
                guess = math.nan
        else:
            # Of targets that were stretched nobody knows any more which dimension counts the examples.
            guess = math.nan if stretched else around_center(target, DIFFERENCES[name](node))
    return numbers | {
        "guess": guess,
        "even": even,
        "count": scalar(count),
        "output_min": scalar(output.amin()),
        "output_max": scalar(output.amax()),
    }


def _spread(x: Tensor) -> Scalar:
    if not x.dim() or x.shape[0] < 2:
        return math.nan
    x = x.float() if x.dtype not in (torch.float32, torch.float64) else x
    return scalar((x - x.mean(0)).square().mean().sqrt())


def scalar(x: Tensor | float) -> Scalar:
    """A tensor of one element as a number, on an accelerator without waiting for it."""
    if not isinstance(x, Tensor):
        return x
    x = x.detach()
    return float(x) if x.device.type == "cpu" else x.float()
