"""Losses that weigh log-probabilities with probabilities: soft labels in cross-entropy, and the divergence of Kullback
and Leibler.

torch composes them of products, sums and means, and their graphs are those of other things as well. What tells them is
that the weights, which a product keeps, sum to one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradiometer.measures import FEW, Scalar, soft_entropy
from gradiometer.probe.comparing import scalar
from gradiometer.probe.kept import dimension, kept, shape
from gradiometer.probe.nodes import plain
from gradiometer.probe.normalized import first, total

ROUNDING = 0.05
"""How far the sum of probabilities may lie from one, after bfloat16."""

FLOOR = 1 / 3
"""Share of a constant guess that the entropy of the targets may be: learning is said from a fifth of the guess on, and
doing well from half of it on, which must both be within reach. Mixed images (mixup) leave 0.22 over ten classes."""

CHANCE = 0.1
"""Share of a constant guess that may be what the sample misses of it: half of the fifth that counts as learning."""

DIVERGENCE, SOFT = "kl_div", "cross_entropy"


class Weighing(NamedTuple):
    """A product of constant weights and what takes the place of log-probabilities.

    ``product`` is its node, ``below`` the node that gave the log-probabilities. ``logs`` are these, where something has
    kept them, ``dim`` is the dimension of the softmax that gave them, and ``logarithm`` says that it was a log_softmax.
    """

    loss: str
    product: Any
    weights: Tensor
    below: Any
    logs: Tensor | None
    dim: int | None
    logarithm: bool


def weighing(node: Any, output: Tensor | None) -> Weighing | None:
    """What a node makes of log-probabilities, as far as the graph can tell.

    Args:
        node: a product or a difference.
        output: what the model gave last, for the log-probabilities that nothing has kept.
    """
    name = plain(node.name())
    sides = [parent for parent, _ in node.next_functions]
    if name == "sub" and len(sides) == 2 and sides[0] is None and sides[1] is not None:
        # kl_div: the constant t ln t, minus t times the log-probabilities
        product = sides[1]
        if plain(product.name()) == "mul" and product.next_functions[0][0] is None:
            return _made(DIVERGENCE, node, product, 1, output)
    elif name == "mul" and len(sides) == 2 and (sides[0] is None) != (sides[1] is None):
        side = 1 if sides[0] is None else 0
        inner = sides[side]
        if plain(inner.name()) == "log_softmax":
            return _made(SOFT, node, node, side, output)
        # kl_div with log_target: t times the difference of a constant and the log-probabilities
        if side == 1 and plain(inner.name()) == "sub" and inner.next_functions[0][0] is None:
            return _made(DIVERGENCE, inner, node, 1, output, inner)
    return None


def _made(
    loss: str, node: Any, product: Any, side: int, output: Tensor | None, difference: Any = None
) -> Weighing | None:
    weights = kept(product, "other" if side == 0 else "self")
    own = (difference or product).next_functions[1 if difference else side][0]
    if weights is None or own is None or not weights.dim() or not weights.numel():
        return None
    if weights.layout is not torch.strided or weights.is_nested or weights.device.type == "meta":
        return None
    if tuple(weights.shape) != shape(own) or shape(node) != shape(own) or not weights.is_floating_point():
        return None
    name = plain(own.name())
    softmax = name in ("log_softmax", "softmax")
    logs = kept(own, "result")
    if logs is None and output is not None and output.grad_fn is own:
        logs = output.detach()
    return Weighing(loss, product, weights, own, logs, dimension(own) if softmax else None, name == "log_softmax")


def numbers(found: Weighing, factor: float | None) -> dict[str, Scalar]:
    """What the weights and the log-probabilities are, and what a constant answer costs, for `judged`.

    ``factor`` is what one element counts in the loss, ``None`` if that is not known.
    """
    out: dict[str, Scalar] = {
        "target_min": scalar(found.weights.amin()),
        "target_max": scalar(found.weights.amax()),
    }
    if found.logs is not None:
        out |= {"output_min": scalar(found.logs.amin()), "output_max": scalar(found.logs.amax())}
    for k, dim in enumerate(_dims(found)):
        few = first(found.weights, dim).float()
        for name, x in (("plain", few), ("exp", few.exp()), ("log", few.log())):
            out[f"{name}{k}"] = scalar((x.sum(dim) - 1).abs().amax())
        if k and found.logs is not None and found.logarithm:
            low, high = total(found.logs, dim)
            out |= {f"low{k}": scalar(low), f"high{k}": scalar(high)}
    if factor is not None and found.dim is not None and found.logarithm:
        cost, rest, missed = soft_entropy(found.weights, found.dim)
        classes = found.weights.shape[found.dim]
        examples = found.weights.numel() // max(classes, 1)
        out |= {"cost": cost, "rest": rest, "missed": missed, "classes": float(classes)}
        out["unit"] = factor * examples * (1 if found.loss == DIVERGENCE else -1)
    return out


def judged(loss: str, found: dict[str, float]) -> dict[str, float] | None:
    """The numbers of a task, ``None`` if the weights are no probabilities: then it was something else.

    Targets of a divergence may also be the logarithms of probabilities, or what ``log_target`` makes of probabilities.
    """
    low, high = found["target_min"], found["target_max"]
    for k in range(2):
        if found.get(f"plain{k}", math.inf) <= ROUNDING and low >= 0:
            if k and f"low{k}" in found:
                return {**found, "sum_min": found[f"low{k}"], "sum_max": found[f"high{k}"]}
            return {**found, "guess": _guess(loss, found)} if not k else found
        logs = found.get(f"exp{k}", math.inf) <= ROUNDING and high <= 0
        raised = found.get(f"log{k}", math.inf) <= ROUNDING and low >= 1
        if loss == DIVERGENCE and (logs or raised):
            return found
    return None


def _guess(loss: str, found: dict[str, float]) -> float:
    """What a constant answer costs, NaN where that is not known well enough, or where nothing more can be reached."""
    unit = found.get("unit", math.nan)
    if not unit > 0:
        return math.nan  # not known, or maximized
    if loss == DIVERGENCE:
        cost = found["cost"] - found["rest"]
        return unit * cost if found["missed"] <= CHANCE * cost else math.nan
    cost = found["cost"] if found["missed"] <= 1 / (2 * FEW) else math.log(found["classes"])
    return unit * cost if found["rest"] <= FLOOR * cost else math.nan


def _dims(found: Weighing) -> tuple[int, ...]:
    """Along which the weights may sum to one: that of the softmax first.

    Weights that sum to one over places are no mistake by themselves, but for a softmax over the examples.
    """
    last, second = found.weights.dim() - 1, min(found.weights.dim() - 1, 1)
    if found.dim is None:
        return (last,) if last == second else (last, second)
    dim = found.dim % found.weights.dim()
    return (0, second) if dim == 0 and second else (dim,)
