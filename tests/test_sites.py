"""Names and values of what is measured, of each kind of operation and output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracles import Named, Oracle, check_parameters, check_sites, close, oracle_pass, train_once
from trainings import Net


@dataclass
class Case:
    net: Callable[[], nn.Module]
    oracle: Oracle
    shape: tuple[int, ...] = (5, 6)
    loss: Callable[[Any], Tensor] = lambda y: y.square().mean()


def block() -> nn.Module:
    return Net(lambda m, x: F.relu(m.out(F.relu(m.fc(x)))), fc=nn.Linear(6, 8), out=nn.Linear(8, 6))


def functional(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
    named: Named = {}
    for i, b in enumerate(m.blocks):
        named[f"blocks.{i}.mlp.fc"] = h = b.mlp.fc(x)
        named[f"blocks.{i}.mlp:relu"] = h = h.relu()
        named[f"blocks.{i}.mlp.out"] = h = b.mlp.out(h)
        named[f"blocks.{i}.mlp:relu.1"] = h = h.relu()
        named[f"blocks.{i}:add"] = x = x + h
    return x, named


def in_place(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
    a = m[0](x)
    b = a.relu()
    c = m[2](b)
    d = c.tanh()
    return d, {"0": a, "1": b, "2": c, "3:tanh": d}


def twice(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
    a = m.fc(x)
    b = a.sigmoid()
    c = m.fc(b)
    d = c.sigmoid()
    return d, {"fc": a, "act": b, "fc.1": c, "act.1": d}


@dataclass
class Output:
    logits: Tensor
    extra: tuple[Tensor, ...]


def containers(m: nn.Module, x: Tensor) -> tuple[Output, Named]:
    h = m.inner.fc(x)
    c = h.cos()
    p = h * c
    return Output(p, (h,)), {"inner.fc": h, "inner:cos": c, ":mul": p}


def bidirectional(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
    y, (h, c) = m.rnn(x)
    out = m.head(y[:, -1])
    return out, {"rnn": y, "rnn[1]": h, "rnn[1][1]": c, "head": out}


def attention(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
    a, w = m.attention(x, x, x)
    n = m.norm(a)
    return n, {"attention": a, "attention[1]": w, "norm": n}


def products(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
    q = x @ m.w.t()
    s = q @ q.transpose(0, 1)
    p = s.softmax(-1)
    e = torch.einsum("ij,jk->ik", p, q)
    return e, {":matmul": q, ":matmul.1": s, ":softmax": p, ":einsum": e}


CASES = {
    "functional": Case(
        lambda: Net(lambda m, x: [x := b(x) for b in m.blocks][-1],
                    blocks=nn.ModuleList(Net(lambda m, x: x + m.mlp(x), mlp=block()) for _ in range(4))),
        functional,
    ),
    "in place": Case(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3), Net(lambda m, x: x.tanh_())),
        in_place,
    ),
    "called twice": Case(
        lambda: Net(lambda m, x: m.act(m.fc(m.act(m.fc(x)))), fc=nn.Linear(6, 6), act=nn.Sigmoid()), twice
    ),
    "dict and dataclass": Case(
        lambda: Net(lambda m, x: (lambda d: Output(d["h"] * d["more"][0], (d["h"],)))(m.inner(x)),
                    inner=Net(lambda m, x: (lambda h: {"h": h, "more": (h.cos(),)})(m.fc(x)), fc=nn.Linear(6, 6))),
        containers, loss=lambda y: y.logits.square().mean() + y.extra[0].mean(),
    ),
    "lstm": Case(
        lambda: Net(lambda m, x: m.head(m.rnn(x)[0][:, -1]),
                    rnn=nn.LSTM(6, 4, batch_first=True, bidirectional=True), head=nn.Linear(8, 2)),
        bidirectional, (3, 7, 6),
    ),
    "attention": Case(
        lambda: Net(lambda m, x: m.norm(m.attention(x, x, x)[0]),
                    attention=nn.MultiheadAttention(8, 2, batch_first=True), norm=nn.LayerNorm(8)),
        attention, (3, 5, 8), lambda y: y.pow(4).mean(),
    ),
    "products": Case(
        lambda: Net(lambda m, x: (lambda q: torch.einsum("ij,jk->ik", (q @ q.transpose(0, 1)).softmax(-1), q))(
            torch.matmul(x, m.w.t())), w=nn.Parameter(torch.randn(4, 6) / 4)),
        products,
    ),
    "one operation": Case(lambda: nn.Linear(6, 3), lambda m, x: (lambda y: (y, {"linear": y}))(m(x))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_names_and_values(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    net, x = case.net(), torch.randn(case.shape)
    watch, before = train_once(net, x, case.loss)
    twin = copy.deepcopy(before).double()
    named, loss = oracle_pass(twin, x, case.oracle, case.loss)
    reading = watch.run.readings[0]
    check_sites(reading, [named])
    check_parameters(reading, before, net, {n: p.grad for n, p in twin.named_parameters()})
    assert close(reading.loss, loss)
    assert [close(v, loss) for _, v in watch.run.losses()] == [True]
    assert (reading.step, reading.optimizer, reading.passes, reading.loss_scale) == (0, 0, 1, 1.0)


def test_causes_of_products() -> None:
    watch, _ = train_once(CASES["products"].net(), torch.randn(5, 6))
    assert {s.name: s.site.cause for s in watch.run.readings[0].sites} == {
        ":matmul": "weights", ":matmul.1": "attention", ":softmax": "attention", ":einsum": "attention"
    }  # fmt: skip
