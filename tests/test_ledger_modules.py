"""Modules that are many operations, whose insides have no names but those of autograd's nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradiometer as gm
from ledger_tape import SUMS, D, mse, near, rms


def sequence(*sizes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: tuple(torch.randn(*size) for size in sizes)


_X, _H = (4, 2, 3), (1, 2, 4)


def with_cell(x: tuple[int, ...], *state: tuple[int, ...]) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.randn(*x), tuple(torch.randn(*size) for size in state))


COMPOSITES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "RNN": (lambda: nn.RNN(3, 4), sequence(_X, _H)),
    "RNN with ReLU": (lambda: nn.RNN(3, 4, nonlinearity="relu"), sequence(_X, _H)),
    "LSTM": (lambda: nn.LSTM(3, 4), with_cell(_X, _H, _H)),
    "LSTM of projections": (lambda: nn.LSTM(3, 4, proj_size=2), with_cell(_X, (1, 2, 2), _H)),
    "GRU": (lambda: nn.GRU(3, 4, batch_first=True), sequence((2, 4, 3), _H)),
    "GRU of two layers, both ways": (lambda: nn.GRU(3, 4, 2, bidirectional=True), sequence(_X, (4, 2, 4))),
    "RNNCell": (lambda: nn.RNNCell(3, 4), sequence((2, 3), (2, 4))),
    "LSTMCell": (lambda: nn.LSTMCell(3, 4), with_cell((2, 3), (2, 4), (2, 4))),
    "GRUCell": (lambda: nn.GRUCell(3, 4), sequence((2, 3), (2, 4))),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2), sequence((3, 2, 4), (3, 2, 4), (3, 2, 4))),
    "MultiheadAttention, batch first": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True, dropout=0.2), sequence((2, 3, 4), (2, 3, 4), (2, 3, 4)),
    ),
    "MultiheadAttention of two widths": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
        sequence((3, 2, 4), (5, 2, 3), (5, 2, 5)),
    ),
}  # fmt: skip


def squares(y: Any, _: Any = None) -> Tensor:
    return mse(y) if isinstance(y, Tensor) else sum(squares(part) for part in y)


def double(x: Any) -> Any:
    return x.to(D) if isinstance(x, Tensor) else tuple(map(double, x))


def walked(loss: Tensor, starts: set[Any]) -> list[tuple[int, float, int, list[float]]]:
    """Of each node that leads to a start: its number, what enters it and how many, and its gain on each edge."""
    leads: dict[Any, bool] = {}
    order: list[Any] = []

    def visit(node: Any) -> bool:
        if node not in leads:
            leads[node] = False
            below = [visit(target) for target, _ in node.next_functions if target is not None]
            leads[node] = node in starts or any(below)
            order.append(node)
        return leads[node]

    visit(loss.grad_fn)
    arrived: dict[tuple[Any, int], Tensor] = {(loss.grad_fn, loss.output_nr): torch.ones_like(loss)}
    found = []
    for node in reversed(order):
        entering = [arrived.get((node, nr)) for nr in range(len(node._input_metadata))]
        here = [g for g in entering if g is not None]
        if not here or not leads[node] or node in starts:
            continue
        leaving = node(*entering)
        edges: dict[tuple[Any, int], Tensor] = {}
        for key, g in zip(node.next_functions, leaving if isinstance(leaving, tuple) else (leaving,), strict=False):
            if g is not None and key[0] is not None and leads[key[0]]:
                edges[key] = edges[key] + g if key in edges else g
        for key, g in edges.items():
            arrived[key] = arrived[key] + g if key in arrived else g
        size = rms(torch.cat([g.reshape(-1) for g in here]))
        gains = sorted(rms(g) / size if size else math.nan for g in edges.values())
        found.append((node._sequence_nr(), size, sum(g.numel() for g in here), gains))
    return sorted(found, key=lambda row: -row[0])


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("training", [True, False])
def test_every_node_of_a_composite_module(name: str, training: bool) -> None:
    torch.manual_seed(4)
    make, inputs = COMPOSITES[name]
    net = make().to(D).train(training)
    given = double(inputs())
    state = torch.get_rng_state()
    rows = [row for row in gm.measure(net, (given, None), squares).ledger if row.operation not in SUMS]
    torch.set_rng_state(state)
    starts: set[Any] = set()

    def enter(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return tuple(map(enter, x))
        y = x.clone().requires_grad_().clone()
        starts.add(y.grad_fn)
        return y

    expected = walked(squares(net(*enter(given))), starts)
    assert len(rows) == len(expected)
    for row, (_, size, elements, gains) in zip(rows, expected, strict=True):
        assert near(row.grad_rms, size), row.site
        assert row.elements == elements, row.site
        assert len(row.edges) == len(gains), row.site
        assert all(near(e.gain, g) for e, g in zip(sorted(row.edges, key=lambda e: e.gain), gains, strict=True)), row
    causes = {row.cause for row in rows}
    assert "unknown" not in causes
    assert {"weights", "attention" if "Attention" in name else "activation"} <= causes


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_layer_of_torch(norm_first: bool, training: bool) -> None:
    torch.manual_seed(5)
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=norm_first, batch_first=True).to(D)
    net.train(training)
    x = torch.randn(2, 5, 8, dtype=D)
    ledger = gm.measure(net, (x, None), mse).ledger
    x.requires_grad_()
    gradient = torch.autograd.grad(mse(net(x)), x)[0]
    assert near(ledger.end_rms, rms(gradient))
    assert math.isclose(ledger.total, math.log10(rms(gradient)), abs_tol=1e-10)
    causes = {row.cause for row in ledger}
    assert {"weights", "activation", "normalization", "connection", "attention", "loss"} <= causes
    assert "unknown" not in causes
