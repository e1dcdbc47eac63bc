"""A whole network drawn anew as the field would draw it: which parameters it has, and what each of them is for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gradiometer.remedies.anatomy import role_of
from gradiometer.remedies.draws import Draw
from gradiometer.remedies.flow import Flow
from gradiometer.remedies.weights import Scheme, Weight, draw, embeddings, number, place, stored, weights, zero_bias

init = nn.init

_LARGE = 3.0
"""Root mean square from which on a table of positions or a token that is added to the signal is larger than any
initialization in use makes it (1, of torch.randn)."""

SMALL = 0.02
"""Standard deviation of such tables: GPT-2's and ViT's."""


def whole(model: nn.Module, seen: Flow, scheme: Scheme, *, all_zeros: bool = False) -> list[Draw]:
    """Draws for all trainable parameters of a network, its weights by a scheme, the others as the field does.

    Formula: normalizations 1 and 0; recurrent layers by Xavier's uniform distribution from the input, orthogonal over
    time, each gate by itself, with a forget gate's bias of 1; attention by Xavier's; embeddings N(0, 1), or
    N(0, 1/d) where they are tied to an output layer or go into attention; PReLU 0.25. A weight or normalization of
    zeros that lies in front of an addition stays: residual branches begin so on purpose.

    Args:
        model: the network, whose values do not matter.
        seen: its flow.
        scheme: draws a `Weight` and its bias.
        all_zeros: draws those of zeros in front of an addition as well.

    Returns:
        The draws in the order in which they are carried out.

    Raises:
        nothing, but what the scheme raises.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
        >>> from gradiometer.remedies.flow import flow
        >>> from gradiometer.remedies.weights import lecun
        >>> seen = flow(model, (torch.randn(2, 4), None))
        >>> [(d.path, d.parameter, d.function.__name__) for d in whole(model, seen, lecun)]
        [('0', 'weight', 'kaiming_normal_'), ('0', 'bias', 'zeros_'), ('1', 'weight', 'ones_'),
         ('1', 'bias', 'zeros_'), ('3', 'weight', 'kaiming_normal_'), ('3', 'bias', 'zeros_')]

    Source:
        Glorot and Bengio (2010), equation 16; Saxe et al. (2014); Jozefowicz et al. (2015), section 2 (forget gate);
        Vaswani et al. (2017) with fairseq's N(0, 1/d) for embeddings; Goyal et al. (2017), section 5.1 (branches that
        begin at zero).
    """
    layers = {(w.path, w.parameter): w for w in weights(model, seen)}
    of_module = {id(w.module): w for w in layers.values() if w.module is not None}
    tied = _tied(model, seen)
    attentive = any(step.role == "attention" or "product" in step.uses for step in seen.steps)
    out: list[Draw] = []
    for path, module in model.named_modules():
        role = role_of(module)
        held = stored(module)
        if role == "embedding":
            out += _embedding(path, module, tied, attentive)
        elif id(module) in of_module:
            if id(held) not in tied and (all_zeros or not _begins_at_zero(module, seen)):
                out += _drawn(of_module[id(module)], scheme)
            elif of_module[id(module)].bias and id(held) in tied:
                out += zero_bias(of_module[id(module)])
        elif role == "normalization":
            out += _normalization(path, module, all_zeros or not _begins_at_zero(module, seen))
        elif role == "recurrent":
            out += recurrent(path, module)
        elif role == "attention":
            out += _attention(path, module)
        elif isinstance(module, nn.PReLU):
            out += _constant(path, module, "weight", 0.25)
    for weight in layers.values():
        if weight.module is None:
            out += _drawn(weight, scheme)
    out += _tables(model, seen)
    return [_suited(model, one) for one in out]


def _drawn(weight: Weight, scheme: Scheme) -> tuple[Draw, ...]:
    """By the scheme; square matrices of a recurrence orthogonal, as in recurrent layers."""
    if weight.recurrent and len(weight.shape) == 2 and weight.shape[0] == weight.shape[1]:
        return (draw(weight, init.orthogonal_), *zero_bias(weight))
    return scheme(weight)


def _tied(model: nn.Module, seen: Flow) -> set[int]:
    """Weights that an embedding shares with another layer, or that are used as weights as well."""
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for p in module._parameters.values():
            if p is not None:
                owners.setdefault(id(p), set()).add(id(module))
    named = dict(model.named_parameters())
    used = {id(named[step.parameter]) for step in seen.steps if step.role == "weights" and step.parameter}
    return {p for p in embeddings(model) if p in used or len(owners.get(p, ())) > 1}


def _begins_at_zero(module: nn.Module, seen: Flow) -> bool:
    """Whether a branch ends in it, with weights of zero, in front of an addition."""
    weight = stored(module)
    return weight is not None and not weight.detach().any() and seen.joins(module)


def _embedding(path: str, module: Any, tied: set[int], attentive: bool) -> Iterator[Draw]:
    at = place(path, module, "weight")
    if at is None:
        return
    small = id(stored(module)) in tied or attentive
    std = number(module.embedding_dim**-0.5) if small else 1.0
    yield Draw(*at, init.normal_, (("std", std),))
    if module.padding_idx is not None:
        yield Draw(*at, init.zeros_, rows=(module.padding_idx, module.padding_idx + 1))


def _normalization(path: str, module: nn.Module, with_weight: bool) -> Iterator[Draw]:
    if with_weight:
        yield from _constant(path, module, "weight", 1.0)
    yield from _constant(path, module, "bias", 0.0)


def _constant(path: str, module: nn.Module, name: str, value: float) -> Iterator[Draw]:
    p = module._parameters.get(name)
    if p is None or not p.requires_grad:
        return
    if value in (0.0, 1.0):
        yield Draw(path, name, init.ones_ if value else init.zeros_)
    else:
        yield Draw(path, name, init.constant_, (("val", value),))


GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}


def gates(module: nn.Module) -> int:
    """How many gates a recurrent layer has, each with its block of rows."""
    return next((count for kind, count in GATES.items() if isinstance(module, kind)), 1)


def recurrent(path: str, module: nn.Module) -> Iterator[Draw]:
    """Xavier's from the input, orthogonal over time, gate by gate; biases zero, the forget gate's one."""
    count = gates(module)
    for name, p in module._parameters.items():
        if p is None or not p.requires_grad:
            continue
        if name.startswith("weight_ih"):
            yield Draw(path, name, init.xavier_uniform_, chunks=count)
        elif name.startswith("weight_hh"):
            yield Draw(path, name, init.orthogonal_, chunks=count)
        elif name.startswith("weight_hr"):
            yield Draw(path, name, init.orthogonal_)
        else:
            yield Draw(path, name, init.zeros_)
            if count == 4 and name.startswith("bias_ih"):
                size = len(p) // 4
                yield Draw(path, name, init.ones_, rows=(size, 2 * size))


def _attention(path: str, module: nn.Module) -> Iterator[Draw]:
    for name, p in module._parameters.items():
        if p is None or not p.requires_grad:
            continue
        if name.endswith("weight"):
            yield Draw(path, name, init.xavier_uniform_)
        elif name in ("bias_k", "bias_v"):
            yield Draw(path, name, init.xavier_normal_)
        else:
            yield Draw(path, name, init.zeros_)


def _tables(model: nn.Module, seen: Flow) -> Iterator[Draw]:
    """Positions and tokens that are added to the signal, where they are far too large."""
    used = {step.parameter for step in seen.steps if step.parameter}
    for path, module in model.named_modules():
        if role_of(module) != "other" or type(module).__module__.startswith("torch."):
            continue
        for name, p in module._parameters.items():
            full = f"{path}.{name}" if path else name
            if p is None or not p.requires_grad or full in used or p.ndim < 2 or not p.is_floating_point():
                continue
            if not float(p.detach().float().square().mean()) ** 0.5 < _LARGE:
                yield Draw(path, name, init.normal_, (("std", SMALL),))


_PLAIN = frozenset((init.zeros_, init.ones_, init.constant_, init.normal_, init.uniform_, init.kaiming_normal_)) | {
    init.xavier_uniform_,
    init.xavier_normal_,
}
"""Functions that draw in any number format; the others solve equations, which torch does in 32 and 64 bits only."""


def _suited(model: nn.Module, one: Draw) -> Draw:
    """Where a parametrization keeps its values; drawn elsewhere first where it cannot be drawn in place."""
    module = model.get_submodule(one.path)
    if not one.parameter:
        return one
    if one.parameter not in module._parameters:
        inner = module.parametrizations[one.parameter]  # type: ignore[index]
        if not hasattr(inner, "original"):
            return replace(one, through="assign")
        path = f"{one.path}.parametrizations.{one.parameter}".lstrip(".")
        return _suited(model, one.at(path, "original"))
    if one.rows is None and one.function not in _PLAIN:
        half = module._parameters[one.parameter].dtype in (torch.float16, torch.bfloat16)  # type: ignore[union-attr]
        return replace(one, through="copy") if half else one
    return one
