"""Entropy and sharpness of attention against weights that are computed explicitly, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attended import agree, pair
from gradiometer.measures import sharpness
from gradiometer.probe import attention

INF = math.inf
B, H, L, E = 6, 2, 5, 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -- the measure --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sharpness_of_logits(dtype: torch.dtype, scale: float) -> None:
    logits = (torch.randn(3, 4, 7) * scale).to(dtype)
    assert agree(sharpness(logits), logits.double().softmax(-1))
    logits[:, 1:, 4:] = -INF
    logits[:, 2, 1:] = -INF  # one place is no choice
    assert agree(sharpness(logits), logits.double().softmax(-1))


MASKS = {
    "minus infinity": (torch.float32, -INF),
    "lowest of float32": (torch.float32, torch.finfo(torch.float32).min),
    "lowest of bfloat16": (torch.bfloat16, torch.finfo(torch.bfloat16).min),
    "lowest of float16": (torch.float16, torch.finfo(torch.float16).min),
    "a thousand million": (torch.float32, -1e9),
}


@pytest.mark.parametrize("name", MASKS)
def test_masked_places_are_no_logits(name: str) -> None:
    dtype, masked = MASKS[name]
    logits = torch.randn(3, 4, 7).to(dtype)
    logits[..., 4:] = masked
    assert agree(sharpness(logits), logits[..., :4].double().softmax(-1))


def test_rows_without_a_choice() -> None:
    logits = torch.full((2, 3, 4), -INF)
    assert sharpness(logits) == (1.0, 0.0)
    logits[..., 0] = 5.0
    assert sharpness(logits) == (1.0, 0.0)
    logits[0, 0, 1] = 5.0
    assert sharpness(logits) == pytest.approx((1.0, 0.0))
    logits[0, 0, 1] = -95.0
    assert sharpness(logits) == pytest.approx((0.0, 50.0), abs=1e-6)


# -- functions ----------------------------------------------------------------------------------------------------

SOFTMAX: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]] = {
    "torch": (torch.softmax, (-1,), {}),
    "torch, keyword": (torch.softmax, (), {"dim": 2}),
    "functional": (F.softmax, (), {"dim": -1}),
    "functional, typed": (F.softmax, (-1, 3, torch.float64), {}),
    "method": (Tensor.softmax, (2,), {}),
    "method, keyword": (Tensor.softmax, (), {"dim": -1}),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_a_call_of_softmax(name: str) -> None:
    function, args, kwargs = SOFTMAX[name]
    logits = torch.randn(B, L, 7) * 3
    found = attention.of_function(function, (logits, *args), kwargs)
    assert agree(pair(found), function(logits, *args, **kwargs)[: attention.EXAMPLES])


@pytest.mark.parametrize(("shape", "dim"), [((B, 7), -1), ((B, L, 7), 0), ((B, 3, L, L), 0), ((7,), 0)], ids=str)
def test_a_softmax_over_something_else_is_no_attention(shape: tuple[int, ...], dim: int) -> None:
    assert attention.of_function(torch.softmax, (torch.randn(shape), dim), {}) == {}


def test_places_along_another_dimension() -> None:
    logits = torch.randn(B, L, 7) * 3
    across = attention.of_function(torch.softmax, (logits, 1), {})
    assert across == attention.of_function(torch.softmax, (logits.transpose(1, 2), -1), {})


def test_softmax_with_all_its_arguments_by_name() -> None:
    assert attention.of_function(torch.softmax, (), {"input": torch.randn(B, L, 7), "dim": -1})


def product(q: Tensor, k: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """The weights of the first examples, one head after another."""
    q, k = q.double(), k.double()
    logits = torch.zeros(*q.shape[:-1], k.shape[-2], dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            logits[b, h] = q[b, h] @ k[b, h * k.shape[1] // q.shape[1]].T * (scale or q.shape[-1] ** -0.5)
    if mask is not None:
        logits = logits.masked_fill(~mask, -INF) if mask.dtype is torch.bool else logits + mask.double()
    return logits.softmax(-1)[: attention.EXAMPLES]


CAUSAL = torch.ones(L, L, dtype=torch.bool).tril()
RANDOM = torch.rand(B, H, L, L, generator=torch.Generator().manual_seed(0)) < 0.6
RANDOM[..., 0] = True
PRODUCTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "scale": ({"scale": 2.0}, {"scale": 2.0}),
    "causal": ({"is_causal": True}, {"mask": CAUSAL}),
    "mask of places": ({"attn_mask": CAUSAL}, {"mask": CAUSAL}),
    "mask of examples": ({"attn_mask": RANDOM}, {"mask": RANDOM}),
    "mask of one example": ({"attn_mask": RANDOM[:1]}, {"mask": RANDOM[:1]}),
    "mask of heads": ({"attn_mask": RANDOM[0]}, {"mask": RANDOM[0]}),
    "padding": ({"attn_mask": RANDOM[:, :1, :1]}, {"mask": RANDOM[:, :1, :1]}),
    "float mask": ({"attn_mask": torch.zeros(L, L).masked_fill(~CAUSAL, -INF)}, {"mask": CAUSAL}),
    "bias": ({"attn_mask": RANDOM.float() * 3}, {"mask": RANDOM.float() * 3}),
    "dropout": ({"dropout_p": 0.5}, {}),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_call_of_scaled_dot_product_attention(name: str) -> None:
    kwargs, expected = PRODUCTS[name]
    q, k, v = (torch.randn(B, H, L, E) * 2 for _ in range(3))
    F.scaled_dot_product_attention(q, k, v, **kwargs)  # these are arguments that torch takes
    found = attention.of_function(F.scaled_dot_product_attention, (q, k, v), kwargs)
    assert agree(pair(found), product(q, k, **expected))
    named = attention.of_function(F.scaled_dot_product_attention, (), {"query": q, "key": k, "value": v, **kwargs})
    assert pair(named) == pair(found)


@pytest.mark.parametrize(("heads", "shared"), [(6, 2), (6, 1), (4, 4), (8, 2)])
def test_grouped_queries(heads: int, shared: int) -> None:
    q, k = torch.randn(B, heads, L, E) * 2, torch.randn(B, shared, 9, E) * 2
    F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    found = attention.of_function(F.scaled_dot_product_attention, (q, k, k), {"enable_gqa": True})
    assert agree(pair(found), product(q, k))


def test_without_a_dimension_of_heads() -> None:
    q, k = torch.randn(B, L, E), torch.randn(B, 9, E)
    found = attention.of_function(F.scaled_dot_product_attention, (q, k, k, None, 0.0, True), {})
    seen = torch.ones(L, 9, dtype=torch.bool).tril()
    assert agree(pair(found), product(q[:, None], k[:, None], seen))


def test_grouped_queries_of_one_example() -> None:
    q, k = torch.randn(12, L, E), torch.randn(3, L, E)
    F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    assert attention.of_function(F.scaled_dot_product_attention, (q, k, k), {"enable_gqa": True})
