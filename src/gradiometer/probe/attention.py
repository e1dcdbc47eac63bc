"""How sharply attention attends, where it is computed: in a softmax, a fused kernel, or a module of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.measures import Scalar, sharpness

EXAMPLES = 4
"""Examples that are looked at: fused kernels never hold the weights, and making them again costs what they save."""

_FUSED = "query key value attn_mask dropout_p is_causal"
_MODULE = "query key value key_padding_mask need_weights attn_mask"
_SOFTMAX = frozenset((torch.softmax, F.softmax, Tensor.softmax))


@torch.no_grad()
def of_function(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Scalar]:
    """Entropy and sharpness of a call of ``softmax`` or ``scaled_dot_product_attention``; empty for others.

    Example:
        >>> sorted(of_function(torch.softmax, (torch.zeros(2, 3, 3), -1), {}))
        ['entropy', 'sharpness']
        >>> of_function(torch.relu, (torch.zeros(3),), {})
        {}
    """
    if function in _SOFTMAX:
        named = _named("input dim", args, kwargs)
        logits, dim = named["input"], named.get("dim", -1)
        if isinstance(dim, int) and logits.dim() >= 3 and dim % logits.dim():
            return _look(logits[:EXAMPLES].movedim(dim, -1))
    if function is F.scaled_dot_product_attention:
        return _of_product(**_named(_FUSED, args, kwargs))
    return {}


@torch.no_grad()  # what is computed here must not become a part of the graph, or of what a checkpoint puts away
def of_module(
    module: nn.MultiheadAttention | nn.Softmax, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Scalar]:
    """The same of torch's own modules, softmax and attention, whose projections are made again for a few examples."""
    if isinstance(module, nn.Softmax):
        return of_function(F.softmax, (*args, *kwargs.values(), module.dim), {})
    named = _named(_MODULE, args, kwargs)
    query, key = named["query"], named["key"]
    added = module.bias_k is not None or module.add_zero_attn
    if module.in_proj_weight is None or query.dim() != 3 or query.is_nested or key.is_nested or added:
        return {}
    query, key = (x if module.batch_first else x.transpose(0, 1) for x in (query, key))
    width, heads = module.embed_dim, module.num_heads
    w, b = module.in_proj_weight, module.in_proj_bias
    q = F.linear(query[:EXAMPLES], w[:width], None if b is None else b[:width])
    k = F.linear(key[:EXAMPLES], w[width : 2 * width], None if b is None else b[width : 2 * width])
    q, k = (x.unflatten(-1, (heads, width // heads)).transpose(1, 2) for x in (q, k))
    mask = _added(named.get("attn_mask"), q)
    if mask is not None and mask.dim() == 3:  # one for each head of each example
        mask = mask.unflatten(0, (-1, heads))[:EXAMPLES]
    padding = _added(named.get("key_padding_mask"), q)
    if padding is not None:
        padding = padding[:EXAMPLES, None, None, :]
        mask = padding if mask is None else mask + padding
    return _of_product(q, k, mask)


def _added(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as something to add; torch's module hides where it is True."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def _named(names: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(names.split(), args, strict=False)) | dict(kwargs)


def _of_product(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    **_: Any,
) -> dict[str, Scalar]:
    if query.dim() == 3 and enable_gqa:  # without examples the first dimension counts heads
        query, key = query[None], key[None]
    query, key = query.detach()[:EXAMPLES], key.detach()[:EXAMPLES]
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    logits = query @ key.transpose(-1, -2) * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        if attn_mask.dim() == logits.dim() and attn_mask.shape[0] > 1:
            attn_mask = attn_mask[:EXAMPLES]
        hidden = attn_mask.dtype is torch.bool
        logits = logits.masked_fill(~attn_mask, -math.inf) if hidden else logits + attn_mask
    return _look(logits)


def _look(logits: Tensor) -> dict[str, Scalar]:
    how, distance = sharpness(logits.detach())
    return {"entropy": how, "sharpness": distance}
