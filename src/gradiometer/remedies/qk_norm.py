"""Queries and keys of attention are normalized, so that its logits cannot grow without bound."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from gradiometer.remedies.base import Code, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import normalization as cases
from gradiometer.remedies.placing import aliases, like, listed, objection, put
from gradiometer.remedies.wiring import Wiring

_BEFORE, _BEHIND = "w|to|fc|lin|linear|proj", "w|proj|projection|lin|linear|layer|fc|net"
_QUERY = re.compile(rf"^({_BEFORE})?_?(q|query|queries)_?({_BEHIND})?s?$", re.IGNORECASE)


class NormalizedAttention(nn.MultiheadAttention):
    """Attention with the weights of another whose queries and keys are normalized in each head."""

    def __init__(self, attention):
        """Weights and options are those of the other, not copies."""
        nn.Module.__init__(self)
        self.__dict__.update(attention.__dict__)
        self._qkv_same_embed_dim = False  # keeps torch's fused paths away, which know of no such norms
        self.query_norm = nn.LayerNorm(attention.head_dim)
        self.key_norm = nn.LayerNorm(attention.head_dim)

    def forward(
        self,
        query,
        key,
        value,
        key_padding_mask=None,
        need_weights=True,
        attn_mask=None,
        average_attn_weights=True,
        is_causal=False,
    ):
        """The same as that of ``nn.MultiheadAttention``."""
        del is_causal  # a hint: the mask itself is given as well
        if self.batch_first and query.ndim == 3:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        alone = query.ndim == 2  # no batch
        if alone:
            query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        heads = []
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True):
            x = F.linear(x, weight, bias)
            heads.append(x.view(x.shape[0], x.shape[1], self.num_heads, self.head_dim).permute(1, 2, 0, 3))
        q, k, v = self.query_norm(heads[0]), self.key_norm(heads[1]), heads[2]
        logits = q @ k.transpose(-2, -1) / self.head_dim**0.5
        for mask in (attn_mask, None if key_padding_mask is None else key_padding_mask.view(q.shape[0], 1, 1, -1)):
            if mask is None:
                continue
            if mask.ndim == 3:
                mask = mask.view(-1, self.num_heads, *mask.shape[-2:])
            logits = logits.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        attention = logits.softmax(-1)
        mixed = F.dropout(attention, self.dropout, self.training) @ v
        output = self.out_proj(mixed.permute(2, 0, 1, 3).flatten(2))
        if alone:
            output, attention = output.squeeze(1), attention[0]
        elif self.batch_first:
            output = output.transpose(0, 1)
        if not need_weights:
            return output, None
        return output, attention.mean(-3) if average_attn_weights else attention


class _Plan(NamedTuple):
    modules: list[str]
    projections: list[str]


def _plan(model: nn.Module, situation: Situation) -> _Plan:
    """Paths of the attention modules of torch, and of the linear layers that make queries and keys elsewhere."""
    wiring = Wiring(model, situation.batch)
    modules = [path for path, module in model.named_modules() if type(module) is nn.MultiheadAttention]
    options = [model.get_submodule(path) for path in modules]
    if any(a.bias_k is not None or a.add_zero_attn for a in options if isinstance(a, nn.MultiheadAttention)):
        raise UnusableError("an nn.MultiheadAttention has bias_kv or a zero key of its own: give up those first.")
    layers = {one.path: one for one in wiring.passes if isinstance(one.module, nn.Linear) and one.leaf}
    projections = []
    for path, one in layers.items():
        parent, _, name = path.rpartition(".")
        if not _QUERY.match(name):
            continue
        other = (f"{parent}." if parent else "") + _key_of(name)
        key = layers.get(other)
        if key is not None and all("attention" in wiring.next_kinds(layer) for layer in (one, key)):
            projections += [path, other]
    if not modules and not projections:
        raise UnusableError(_why_not(wiring))
    return _Plan(modules, projections)


def _key_of(name: str) -> str:
    """The name of the layer that makes keys, from that of the one that makes queries."""
    for query, key in (("queries", "keys"), ("query", "key"), ("Queries", "Keys"), ("Query", "Key")):
        if query in name:
            return name.replace(query, key)
    place = max(name.rfind("q"), name.rfind("Q"))
    return name[:place] + ("k" if name[place] == "q" else "K") + name[place + 1 :]


def _why_not(wiring: Wiring) -> str:
    compared = [one.path for one in wiring.passes if one.leaf and "attention" in wiring.next_kinds(one)]
    normed = [one.path for one in wiring.passes if type(one.module) is NormalizedAttention]
    if normed:
        return f"queries and keys of {normed[0]} are normalized already."
    if compared:
        return (
            f"queries and keys come out of {compared[0]} in one piece with other things. Where the forward pass parts "
            "them, write q, k = self.q_norm(q), self.k_norm(k), with self.q_norm = self.k_norm = nn.LayerNorm of the "
            "size of a head."
        )
    return "nothing in this network is attention, so there are no queries and keys."


def _treat(model: nn.Module, situation: Situation) -> nn.Module:
    plan = _plan(model, situation)
    for path in plan.modules:
        attention = model.get_submodule(path)
        made = NormalizedAttention(attention)
        for norm in (made.query_norm, made.key_norm):
            like(norm, attention)
        model = put(model, path, made)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and plan.modules:
            module.use_nested_tensor = False  # it knows no such norms either
    for path in plan.projections:
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        model = put(model, path, nn.Sequential(layer, like(nn.LayerNorm(layer.out_features), layer)))
    return model


def _code(situation: Situation) -> Code:
    plan = _plan(situation.model, situation)
    lines = []
    if plan.modules == [""]:
        lines.append("model = NormalizedAttention(model)")
    elif plan.modules:
        lines.append(
            f"for path in {listed(plan.modules)}:\n"
            "    model.set_submodule(path, NormalizedAttention(model.get_submodule(path)))"
        )
    if plan.modules and any(isinstance(m, nn.TransformerEncoder) for m in situation.model.modules()):
        lines.append(
            "for module in model.modules():\n"
            "    if isinstance(module, nn.TransformerEncoder):\n"
            "        module.use_nested_tensor = False"
        )
    if plan.projections:
        lines.append(
            f"for path in {listed(plan.projections)}:\n"
            "    layer = model.get_submodule(path)\n"
            "    model.set_submodule(path, nn.Sequential(layer, nn.LayerNorm(layer.out_features)))"
        )
    more = aliases(situation.model, [*plan.modules, *plan.projections])
    return Code(
        imports=("from torch.nn import functional as F",) if plan.modules else (),
        classes=(NormalizedAttention,) if plan.modules else (),
        model="\n".join(lines) + more,
    )


QK_NORM = Remedy(
    name="qk_norm",
    title="normalized queries and keys",
    group="normalization",
    treats=(
        "attention_collapse",
        "loss_spike",
        "diverging_loss",
        "nonfinite",
        "exploding_gradient",
        "stalled_training",
        "vanishing_gradient",
    ),
    changes_function=True,
    source="Dehghani et al., Scaling vision transformers to 22 billion parameters (2023), section 2; Henry et al., "
    "Query-key normalization for transformers (2020)",
    code=_code,
    model=_treat,
    unusable=objection(_plan),
    proofs=cases.QK_NORM,
)
