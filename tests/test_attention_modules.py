"""Attention inside a model: torch's own modules against the weights they return, and trainings that stay the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import gradiometer as gm
from attended import agree, pair
from gradiometer.probe import attention
from trainings import Net

B, H, L, E = 6, 2, 5, 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -- torch.nn.MultiheadAttention ------------------------------------------------------------------------------------

CAUSAL = torch.ones(L, L, dtype=torch.bool).triu(1)  # True is what is hidden
PADDING = torch.arange(L) >= torch.tensor([5, 3, 4, 1, 2, 5])[:, None]


def minus(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(mask, -torch.inf)


MODULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "examples second": ({"batch_first": False}, {}),
    "no bias": ({"bias": False}, {}),
    "causal": ({}, {"attn_mask": CAUSAL, "is_causal": True}),
    "mask": ({}, {"attn_mask": CAUSAL.T}),
    "float mask": ({}, {"attn_mask": minus(CAUSAL)}),
    "bias of places": ({}, {"attn_mask": torch.arange(25.0).view(L, L) / 5}),
    "padding": ({}, {"key_padding_mask": PADDING}),
    "padding, examples second": ({"batch_first": False}, {"key_padding_mask": PADDING}),
    "mask and padding": ({}, {"attn_mask": CAUSAL, "key_padding_mask": PADDING}),
    "float mask and padding": ({}, {"attn_mask": minus(CAUSAL), "key_padding_mask": minus(PADDING)}),
    "float padding": ({}, {"key_padding_mask": minus(PADDING)}),
    "mask of heads": ({}, {"attn_mask": CAUSAL.expand(B * H, L, L)}),
}


@pytest.mark.parametrize("crossed", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_against_the_weights_it_returns(name: str, crossed: bool) -> None:
    options, masks = MODULES[name]
    module = nn.MultiheadAttention(E, H, **{"batch_first": True, **options})
    nn.init.normal_(module.in_proj_weight)
    query = torch.randn(B, L, E)
    key = torch.randn(B, L, E) if crossed else query
    if not module.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    plain = {n: m.double() if isinstance(m, Tensor) and m.is_floating_point() else m for n, m in masks.items()}
    double = copy.deepcopy(module).double()
    _, weights = double(query.double(), key.double(), key.double(), average_attn_weights=False, **plain)
    found = attention.of_module(module, (query, key, key), masks)
    assert agree(pair(found), weights[: attention.EXAMPLES])
    assert pair(attention.of_module(module, (), {"query": query, "key": key, "value": key, **masks})) == pair(found)


@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_masks_of_two_kinds() -> None:
    module, x = nn.MultiheadAttention(E, H, batch_first=True), torch.randn(B, L, E)
    masks = {"attn_mask": minus(CAUSAL), "key_padding_mask": PADDING}
    _, weights = module(x, x, x, average_attn_weights=False, **masks)
    assert agree(pair(attention.of_module(module, (x, x, x), masks)), weights[: attention.EXAMPLES])


@pytest.mark.parametrize("dim", [-1, 1])
def test_a_module_of_softmax_against_what_it_gives(dim: int) -> None:
    module, logits = nn.Softmax(dim), torch.randn(B, L, 7) * 3
    found = attention.of_module(module, (logits,), {})
    assert agree(pair(found), module(logits.double())[: attention.EXAMPLES].movedim(dim, -1))
    assert attention.of_module(module, (), {"input": logits}) == found


@pytest.mark.filterwarnings("ignore:Implicit dimension")
def test_a_module_of_softmax_over_something_else_is_no_attention() -> None:
    assert attention.of_module(nn.Softmax(0), (torch.randn(B, L, 7),), {}) == {}
    assert attention.of_module(nn.Softmax(-1), (torch.randn(B, 7),), {}) == {}
    assert attention.of_module(nn.Softmax(), (torch.randn(B, L, 7),), {}) == {}


def test_what_a_module_does_not_tell() -> None:
    x, y = torch.randn(B, L, E), torch.randn(B, L, 3)
    assert attention.of_module(nn.MultiheadAttention(E, H, kdim=3, vdim=3, batch_first=True), (x, y, y), {}) == {}
    assert attention.of_module(nn.MultiheadAttention(E, H), (x[0], x[0], x[0]), {}) == {}


@pytest.mark.parametrize("crossed", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("added", ["add_bias_kv", "add_zero_attn"])
def test_of_a_module_that_adds_keys_nothing_is_told(added: str, crossed: bool) -> None:
    module, x = nn.MultiheadAttention(E, H, batch_first=True, **{added: True}), torch.randn(B, L, E)
    key = torch.randn(B, L, E) if crossed else x
    assert module(x, key, key)[1].shape == (B, L, L + 1)
    assert attention.of_module(module, (x, key, key), {}) == {}
    assert attention.of_module(module, (), {"query": x, "key": key, "value": key}) == {}


# -- in a training --------------------------------------------------------------------------------------------------


def by_hand(softmax: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        return m.out(softmax(q @ k.transpose(1, 2)) @ v)

    return lambda: Net(forward, qkv=nn.Linear(E, 3 * E), out=nn.Linear(E, E))


def fused(**options: Any) -> Callable[[], nn.Module]:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (H, -1)).transpose(1, 2) for y in m.qkv(x).chunk(3, -1))
        return m.out(F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2))

    return lambda: Net(forward, qkv=nn.Linear(E, 3 * E), out=nn.Linear(E, E))


def encoder(**masks: Tensor) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(E, H, 16, batch_first=True)
        return Net(lambda m, x: m.layer(x, **masks), layer=layer)

    return build


def decoder() -> nn.Module:
    return Net(lambda m, x: m.layer(x, x.flip(1)), layer=nn.TransformerDecoderLayer(E, H, 16, batch_first=True))


def with_a_module(soft: nn.Softmax, call: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[], nn.Module]:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        return m.out(call(m.soft, q @ k.transpose(1, 2)) @ v)

    return lambda: Net(forward, qkv=nn.Linear(E, 3 * E), soft=soft, out=nn.Linear(E, E))


class Cooled(nn.Softmax):
    def forward(self, input: Tensor) -> Tensor:
        return torch.softmax(3 * input, -1)


def with_one_open(x: Tensor) -> Tensor:
    return x.masked_fill(~torch.eye(L, dtype=torch.bool), -torch.inf).softmax(-1)


# The sites that are told, out of all there are.
TRAININGS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "softmax": (by_hand(lambda x: torch.softmax(x, -1)), [":softmax"]),
    "softmax, method": (by_hand(lambda x: x.softmax(dim=-1)), [":softmax"]),
    "softmax, functional": (by_hand(lambda x: F.softmax(x, dim=-1)), [":softmax"]),
    "softmax, module elsewhere": (by_hand(nn.Softmax(-1)), [":softmax"]),
    "softmax, module": (with_a_module(nn.Softmax(-1), lambda soft, x: soft(x)), ["soft"]),
    "softmax, module by name": (with_a_module(nn.Softmax(-1), lambda soft, x: soft(input=x)), ["soft"]),
    "softmax, module of its own": (with_a_module(Cooled(-1), lambda soft, x: soft(x)), ["soft:softmax"]),
    "one open place": (by_hand(with_one_open), [":softmax"]),
    "fused": (fused(dropout_p=0.2), [":scaled_dot_product_attention"]),
    "fused, causal": (fused(is_causal=True), [":scaled_dot_product_attention"]),
    "fused, masked": (fused(attn_mask=~CAUSAL), [":scaled_dot_product_attention"]),
    "fused, all hidden": (fused(attn_mask=torch.zeros(L, L).bool()), [":scaled_dot_product_attention"]),
    "encoder": (encoder(), ["layer.self_attn"]),
    "encoder, masked": (encoder(src_mask=CAUSAL), ["layer.self_attn"]),
    "encoder, padding": (encoder(src_key_padding_mask=PADDING), ["layer.self_attn"]),
    "decoder": (decoder, ["layer.self_attn", "layer.multihead_attn"]),
    "bfloat16": (lambda: Net(lambda m, x: m.layer(x.bfloat16()), layer=encoder()().layer.bfloat16()),
                 ["layer.self_attn"]),
}  # fmt: skip


def train(build: Callable[[], nn.Module], watching: bool, around: Callable[[], Any] = nullcontext) -> Any:
    torch.manual_seed(1)
    net = build()
    sgd = torch.optim.SGD(net.parameters(), 0.05)
    seen: list[Tensor] = []
    with gm.watch(net, sgd, every=1) if watching else nullcontext() as watch:
        for _ in range(3):
            sgd.zero_grad()
            with around():
                loss = net(torch.randn(B, L, E)).float().square().mean()
            loss.backward()
            sgd.step()
            seen.append(loss.detach())
    seen += [x.detach().nan_to_num(7.0) for p in net.parameters() for x in (p, p.grad)]
    return [x.nan_to_num(7.0) for x in seen], watch and watch.run


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_the_same_and_its_attention_is_told(name: str) -> None:
    build, expected = TRAININGS[name]
    plain, _ = train(build, False)
    watched, run = train(build, True)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert run.notes == ()
    sites = {s.name: s for s in run.readings[0].sites}
    assert [n for n, s in sites.items() if s.entropy is not None] == expected
    assert all((s.entropy is None) == (s.sharpness is None) for s in sites.values())
    hidden = name in ("one open place", "fused, all hidden")
    assert all((sites[n].entropy, sites[n].sharpness) == (1.0, 0.0) for n in expected) == (hidden or not expected)


def test_in_an_autocast() -> None:
    def build() -> nn.Module:
        return Net(lambda m, x: torch.autocast("cpu", torch.bfloat16)(m.inner)(x), inner=encoder()())

    plain, _ = train(build, False)
    watched, run = train(build, True)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert run.notes == ()


def test_padding_in_an_encoder_counts_as_hidden() -> None:
    layer = nn.TransformerEncoderLayer(E, H, 16, dropout=0.0, batch_first=True)
    x = torch.randn(B, L, E)
    _, weights = layer.self_attn(x, x, x, key_padding_mask=PADDING, average_attn_weights=False)
    site = next(s for s in watched(layer, x, src_key_padding_mask=PADDING).sites if s.name == "self_attn")
    assert agree((site.entropy, site.sharpness), weights[: attention.EXAMPLES])


def watched(net: nn.Module, *args: Tensor, **kwargs: Tensor) -> gm.Reading:
    with gm.watch(net, every=1) as watch:
        net(*args, **kwargs).square().mean().backward()
    assert watch.run.notes == ()
    return watch.run.readings[0]


# -- what must not happen -------------------------------------------------------------------------------------------


def checkpointed(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    parts = {"inner": build, "first": lambda: nn.Linear(E, E), "last": lambda: nn.Linear(E, E)}

    def inside(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(m.inner(x).float().tanh()).tanh()

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(inside, m, m.first(x), use_reentrant=False)

    return lambda: Net(forward, **{name: make() for name, make in parts.items()})


@pytest.mark.parametrize("name", TRAININGS)
def test_inside_a_checkpoint(name: str) -> None:
    build = checkpointed(TRAININGS[name][0])
    plain, _ = train(build, False)
    seen, run = train(build, True)
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    assert run.notes == ()


@pytest.mark.parametrize("name", ["softmax", "fused", "encoder"])
def test_no_tensor_is_saved_that_would_not_be_without(name: str) -> None:
    packed: list[int] = []

    def around() -> Any:
        return saved_tensors_hooks(lambda x: packed.append(x.numel()) or x, lambda x: x)

    train(TRAININGS[name][0], False, around)
    plain, packed[:] = packed[:], []
    train(TRAININGS[name][0], True, around)
    assert packed == plain
