"""What happens to gradients between the passes and the step, by norms taken by hand: left over, clipped, scaled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import gradiometer as gm

STEPS = 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def norm(parameters: Iterable[Tensor]) -> float:
    gradients = [p.grad.to_dense().double().reshape(-1) for p in parameters if p.grad is not None]
    return torch.cat(gradients).norm().item() if gradients else 0.0


def loop(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    clear: Callable[[], object] = lambda: None,
    change: Callable[[], object] = lambda: None,
    passes: int = 1,
    x: Callable[[], Tensor] = lambda: torch.randn(8, 4),
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[gm.Run, list[tuple[float, float]]]:
    """Trains a few steps; of each, what should be said of it: carried and clipped."""
    expected, scale = [], 1.0
    with gm.watch(net, optimizer, every=1) as watch:
        for _ in range(STEPS):
            clear()
            there = norm(net.parameters())
            for _ in range(passes):
                loss = net(x()).square().mean() * 30 / passes
                (loss if scaler is None else scaler.scale(loss)).backward()
            scale = 1.0 if scaler is None else scaler.get_scale()
            left = norm(net.parameters()) / scale
            change()
            if scaler is None:
                seen = norm(net.parameters())
                optimizer.step()
            else:
                scaler.unscale_(optimizer)
                seen = norm(net.parameters())
                scaler.step(optimizer)
                scaler.update()
            expected.append((there / seen, seen / left))
    assert watch.run.notes == ()
    assert len(watch.run.readings) == STEPS
    return watch.run, expected


def check(run: gm.Run, expected: list[tuple[float, float]]) -> None:
    for reading, (carried, clipped) in zip(run.readings, expected, strict=True):
        assert reading.carried == pytest.approx(carried, rel=1e-4, abs=1e-9)
        assert reading.clipped == pytest.approx(clipped, rel=1e-4)


# -- what is left over ----------------------------------------------------------------------------------------------

CLEAR: dict[str, tuple[Callable[[nn.Module], object], bool]] = {
    "to none": (lambda net: net.zero_grad(set_to_none=True), True),
    "to zero": (lambda net: net.zero_grad(set_to_none=False), True),
    "never": (lambda net: None, False),
    "only the first layer": (lambda net: net[0].zero_grad(), False),
    "halved": (lambda net: [p.grad.mul_(0.5) for p in net.parameters() if p.grad is not None], False),
}


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("name", CLEAR)
def test_what_is_carried_over_from_the_step_before(name: str, passes: int) -> None:
    clear, clean = CLEAR[name]
    net = network()
    run, expected = loop(net, torch.optim.SGD(net.parameters(), 1e-3), clear=lambda: clear(net), passes=passes)
    check(run, expected)
    carried = [r.carried for r in run.readings]
    assert carried[0] == 0
    assert carried == [0.0] * STEPS if clean else all(share > 0.1 for share in carried[1:])


def test_of_steps_that_are_not_sampled_the_gradient_is_seen_all_the_same() -> None:
    net, there = network(), []
    sgd = torch.optim.SGD(net.parameters(), 1e-3)
    with gm.watch(net, sgd, every=3) as watch:
        for _ in range(7):
            there.append(norm(net.parameters()))
            net(torch.randn(8, 4)).square().mean().backward()
            sgd.step()
    there.append(norm(net.parameters()))
    assert [r.step for r in watch.run.readings] == [0, 3, 6]
    shares = [a / b for a, b in pairwise(there)]
    assert [r.carried for r in watch.run.readings] == pytest.approx(shares[::3], rel=1e-5)


def adversaries(clear: tuple[bool, bool]) -> gm.Run:
    generator, critic = network(), nn.Linear(2, 1)
    optimizers = [torch.optim.Adam(m.parameters(), 1e-3) for m in (critic, generator)]
    with gm.watch({"G": generator, "D": critic}, optimizers, every=1) as watch:
        for _ in range(STEPS):
            fake = generator(torch.randn(8, 4))
            for i, x in enumerate((fake.detach(), fake)):
                if clear[i]:
                    optimizers[i].zero_grad()
                F.softplus(critic(x)).mean().backward()
                optimizers[i].step()
    assert watch.run.notes == ()
    return watch.run


@pytest.mark.parametrize("clear", [(True, True), (True, False), (False, True), (False, False)], ids=str)
def test_what_lies_in_another_optimizers_parameters_is_not_carried_over(clear: tuple[bool, bool]) -> None:
    run = adversaries(clear)
    for i in (0, 1):  # the critic, whose parameters also get the generator's gradients, and the generator
        readings = [r for r in run.readings if r.optimizer == i]
        assert len(readings) == STEPS
        assert readings[0].carried == 0
        assert all((r.carried == 0) == clear[i] for r in readings[1:])
        assert all(r.clipped in (None, 1.0) for r in readings)


def test_of_two_optimizers_after_one_pass_each_is_told_of_its_own() -> None:
    net = network()
    halves = [torch.optim.SGD(net[i].parameters(), 1e-3) for i in (0, 2)]
    with gm.watch(net, halves, every=1) as watch:
        for _ in range(STEPS):
            halves[0].zero_grad()
            net(torch.randn(8, 4)).square().mean().backward()
            clip_grad_norm_(net.parameters(), 1e-3)
            for sgd in halves:
                sgd.step()
    first, second = ([r for r in watch.run.readings if r.optimizer == i] for i in (0, 1))
    assert [r.carried for r in first] == [0.0] * STEPS
    assert all(0 < r.clipped < 0.5 for r in first)
    # What belongs to a pass goes to the step that comes first after it, as its loss does.
    assert all((r.loss, r.clipped, r.carried, r.tasks) == (None, None, None, ()) for r in second)


# -- what is clipped ------------------------------------------------------------------------------------------------


def rescale(net: nn.Module, factor: float) -> None:
    for p in net.parameters():
        p.grad.mul_(factor)


def noise(net: nn.Module) -> None:
    for p in net.parameters():
        p.grad += torch.randn_like(p.grad)


CHANGE: dict[str, tuple[Callable[[nn.Module], object], float | None]] = {
    "nothing": (lambda net: None, 1.0),
    "norm": (lambda net: clip_grad_norm_(net.parameters(), 0.01), None),
    "norm, foreach": (lambda net: clip_grad_norm_(net.parameters(), 0.01, foreach=True), None),
    "largest": (lambda net: clip_grad_norm_(net.parameters(), 0.01, norm_type=math.inf), None),
    "far above": (lambda net: clip_grad_norm_(net.parameters(), 1e6), 1.0),
    "values": (lambda net: clip_grad_value_(net.parameters(), 0.1), None),
    "halved": (lambda net: rescale(net, 0.5), 0.5),
    "a new tensor": (lambda net: [setattr(p, "grad", p.grad / 4) for p in net.parameters()], 0.25),
    "noise": (noise, None),
}


@pytest.mark.parametrize("name", CHANGE)
def test_what_clipping_leaves(name: str) -> None:
    change, exact = CHANGE[name]
    net = network()
    sgd = torch.optim.SGD(net.parameters(), 1e-3)
    run, expected = loop(net, sgd, clear=sgd.zero_grad, change=lambda: change(net))
    check(run, expected)
    if exact is not None:
        assert [r.clipped for r in run.readings] == pytest.approx([exact] * STEPS, rel=1e-6)
    elif name != "noise":
        assert all(r.clipped < 0.9 for r in run.readings)


@pytest.mark.parametrize("passes", [1, 4])
def test_a_large_network_is_looked_at_here_and_there(passes: int) -> None:
    net = nn.Sequential(*(layer for _ in range(12) for layer in (nn.Linear(40, 40), nn.Tanh())))
    totals: list[float] = []
    sgd = torch.optim.SGD(net.parameters(), 1e-3)
    run, _ = loop(
        net, sgd, clear=sgd.zero_grad, change=lambda: totals.append(clip_grad_norm_(net.parameters(), 0.01).item()),
        passes=passes, x=lambda: torch.randn(8, 40),
    )  # fmt: skip
    assert [r.clipped for r in run.readings] == pytest.approx([0.01 / t for t in totals], rel=1e-3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("clip", [False, True])
def test_a_gradient_scaler_is_no_clipping(clip: bool, passes: int, fused: bool) -> None:
    net = network()
    adam = torch.optim.Adam(net.parameters(), 1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    with gm.watch(net, adam, every=1) as watch:
        factors = []
        for _ in range(STEPS):
            adam.zero_grad()
            for _ in range(passes):
                scaler.scale(net(torch.randn(8, 4)).square().mean() / passes).backward()
            if clip:
                scaler.unscale_(adam)
                factors.append(0.01 / clip_grad_norm_(net.parameters(), 0.01).item())
            scaler.step(adam)
            scaler.update()
    assert watch.run.notes == ()
    assert [r.clipped for r in watch.run.readings] == pytest.approx(factors or [1.0] * STEPS, rel=1e-3)
    assert [r.carried for r in watch.run.readings] == [0.0] * STEPS


def test_what_is_carried_over_under_a_scaler() -> None:
    net = network()
    run, expected = loop(net, torch.optim.SGD(net.parameters(), 1e-3), scaler=torch.amp.GradScaler("cpu", 2.0**8))
    # What is left over has been unscaled by the step, and what comes is scaled: the loop is wrong twice over.
    assert [r.carried for r in run.readings] == pytest.approx([carried for carried, _ in expected], rel=1e-4)
