"""Steps out of the ordinary: gradients that are not finite, sparse, complex or missing, and closures."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradiometer as gm


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def train(
    net: nn.Module, optimizers: Any, step: Callable[[int], object], steps: int = 3, **options: Any
) -> list[gm.Reading]:
    with gm.watch(net, optimizers, every=1, **options) as watch:
        for i in range(steps):
            step(i)
    assert watch.run.notes == ()
    return list(watch.run.readings)


def finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def mend(net: nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.nan_to_num_(0.5)


# -- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_of_gradients_that_are_not_finite(bad: float, everywhere: bool) -> None:
    net = network()
    sgd = torch.optim.SGD(net.parameters(), 0.0)

    def step(i: int) -> None:
        sgd.zero_grad()
        net(torch.randn(8, 4)).square().mean().backward()
        if i == 1:
            for p in net.parameters() if everywhere else (net[0].weight,):
                p.grad.reshape(-1)[: None if everywhere else 1] = bad
        sgd.step()
        mend(net)

    readings = train(net, sgd, step)
    assert all(finite(r.clipped) and finite(r.carried) for r in readings)
    assert (readings[1].clipped, readings[2].clipped) == (None, 1.0)
    assert [readings[0].carried, readings[2].carried] == [0.0, 0.0]


@pytest.mark.parametrize("everywhere", [True, False])
def test_what_is_left_of_gradients_that_are_not_finite(everywhere: bool) -> None:
    net = network()
    sgd = torch.optim.SGD(net.parameters(), 0.0)

    def step(i: int) -> None:
        y = net(torch.randn(8, 4))
        (y * math.nan if everywhere and i == 0 else y).square().mean().backward()
        if i == 0:
            net[0].weight.grad[0, 0] = math.nan
        sgd.step()
        mend(net)

    readings = train(net, sgd, step)
    assert all(finite(r.clipped) and finite(r.carried) for r in readings)


def test_gradients_that_are_zero() -> None:
    net = network()
    sgd = torch.optim.SGD(net.parameters(), 0.1)

    def step(i: int) -> None:
        sgd.zero_grad()
        (net(torch.randn(8, 4)) * 0).sum().backward()
        sgd.step()

    assert {(r.clipped, r.carried) for r in train(net, sgd, step)} == {(None, None)}


@pytest.mark.parametrize("clear", [True, False])
def test_sparse_gradients(clear: bool) -> None:
    net = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 2))
    optimizers = [torch.optim.SparseAdam(net[0].parameters()), torch.optim.SGD(net[2].parameters(), 0.1)]

    def step(i: int) -> None:
        if clear:
            net.zero_grad()
        net(torch.randint(9, (6, 3))).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()

    readings = [r for r in train(net, optimizers, step) if r.optimizer == 0]
    assert all((r.carried == 0) == clear for r in readings[1:])
    assert [r.clipped for r in readings] == [None] * 3  # a few elements of a sparse gradient are not at hand
    assert [r.inputs for r in readings] == [None] * 3


@pytest.mark.parametrize("clear", [True, False])
def test_a_step_of_many_passes(clear: bool) -> None:
    net = network()
    lbfgs = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=4)

    def step(i: int) -> None:
        x = torch.randn(8, 4)

        def closure() -> Tensor:
            if clear:
                lbfgs.zero_grad()
            loss = F.mse_loss(net(x), x[:, :2])
            loss.backward()
            return loss

        lbfgs.step(closure)

    readings = train(net, lbfgs, step)
    assert [r.clipped for r in readings] == [None] * 3  # all happens inside of the step
    assert all((r.carried == 0) == clear for r in readings[1:])
    assert [[t.loss for t in r.tasks] for r in readings] == [["mse_loss"]] * 3


def test_a_closure_of_another_optimizer() -> None:
    net = network()
    sgd = torch.optim.SGD(net.parameters(), 0.1)

    def closure() -> Tensor:
        sgd.zero_grad()
        loss = net(torch.randn(8, 4)).square().mean()
        loss.backward()
        return loss

    assert {(r.clipped, r.carried) for r in train(net, sgd, lambda i: sgd.step(closure))} == {(None, 0.0)}


def test_weights_that_are_changed_by_hand() -> None:
    net, there = network(), []

    def step(i: int) -> None:
        there.append([0.0 if p.grad is None else p.grad.norm() for p in net.parameters()])
        net(torch.randn(8, 4)).square().mean().backward()

    readings = train(net, None, step, steps=4)
    there.append([p.grad.norm() for p in net.parameters()])
    norms = [torch.tensor(n).norm().item() for n in there]
    assert [r.carried for r in readings] == pytest.approx([a / b for a, b in pairwise(norms)])
    assert [r.clipped for r in readings] == [1.0] * 4


def test_what_is_left_over_by_a_fused_optimizer_under_a_scaler() -> None:
    net = network()
    adam = torch.optim.Adam(net.parameters(), 1e-4, fused=True)
    scaler, there = torch.amp.GradScaler("cpu", init_scale=2.0**12), []

    def norm() -> float:
        return torch.cat([torch.zeros(1) if p.grad is None else p.grad.reshape(-1) for p in net.parameters()]).norm()

    def step(i: int) -> None:
        before = norm()
        scaler.scale(net(torch.randn(8, 4)).square().mean()).backward()
        there.append((before / norm()).item())
        scaler.step(adam)
        scaler.update()

    assert [r.carried for r in train(net, adam, step)] == pytest.approx(there, rel=1e-4)


def test_complex_weights() -> None:
    net = nn.Linear(3, 2, dtype=torch.complex64)
    sgd = torch.optim.SGD(net.parameters(), 0.1)

    def step(i: int) -> None:
        sgd.zero_grad()
        net(torch.randn(4, 3, dtype=torch.complex64)).abs().square().mean().backward()
        for p in net.parameters():
            p.grad *= 0.5j
        sgd.step()

    assert [r.clipped for r in train(net, sgd, step)] == pytest.approx([0.5] * 3)


def test_parameters_that_come_and_go() -> None:
    net = network()
    net.extra = nn.Parameter(torch.zeros(0, 3))
    other = nn.Parameter(torch.ones(5))
    sgd = torch.optim.SGD([*net.parameters(), other], 0.1)

    def step(i: int) -> None:
        sgd.zero_grad()
        net[0].requires_grad_(i != 1)
        (net(torch.randn(8, 4)).square().mean() + (other.sum() if i == 2 else 0) + net.extra.sum()).backward()
        if i == 1:
            net[2].bias.grad = None
        sgd.step()

    readings = train(net, sgd, step)
    assert [(r.clipped, r.carried) for r in readings] == [(1.0, 0.0)] * 3


def test_half_of_the_formats() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        net = network().to(dtype)
        sgd = torch.optim.SGD(net.parameters(), 0.1)

        def step(i: int, net: nn.Module = net, sgd: torch.optim.SGD = sgd, dtype: torch.dtype = dtype) -> None:
            sgd.zero_grad()
            net(torch.randn(8, 4, dtype=dtype)).square().mean().backward()
            for p in net.parameters():
                p.grad *= 0.25
            sgd.step()

        assert [(r.clipped, r.carried) for r in train(net, sgd, step)] == [(0.25, 0.0)] * 3
