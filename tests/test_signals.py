"""Copies of units, positions that look alike, and what 16-bit formats take, each against slow loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradiometer as gm
from gradiometer.measures import UpdateMeter, copies, lost, positions
from trainings import Net


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -- copies -----------------------------------------------------------------------------------------------------------


def distinct(weight: Tensor, unit_dim: int) -> float:
    rows = {tuple(row.reshape(-1).tolist()) for row in weight.unbind(unit_dim)}
    return 1 - len(rows) / weight.shape[unit_dim]


def doubled(weight: Tensor, unit_dim: int, count: int) -> Tensor:
    """The last units become copies of the first, in another order."""
    weight = weight.clone().movedim(unit_dim, 0)
    if count:
        weight[-count:] = weight[torch.randint(len(weight) - count, (count,))]
    order = torch.randperm(len(weight))
    return weight[order].movedim(0, unit_dim)


SHAPES = {
    "linear": ((12, 5), 0),
    "wide": ((300, 200), 0),
    "tall": ((64, 2), 0),
    "convolution": ((16, 3, 3, 3), 0),
    "depthwise": ((10, 1, 3, 3), 0),
    "transposed convolution": ((4, 14, 3, 3), 1),
    "embedding": ((40, 6), 0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [0, 1, 3, "all"])
@pytest.mark.parametrize("name", SHAPES)
def test_copies_are_counted(name: str, count: int | str, dtype: torch.dtype) -> None:
    shape, unit_dim = SHAPES[name]
    number = shape[unit_dim] - 1 if count == "all" else int(count)
    weight = doubled(torch.randn(shape).to(dtype), unit_dim, number)
    assert copies(weight, unit_dim) == pytest.approx(distinct(weight, unit_dim), abs=1e-6)
    assert copies(weight * 1e-12, unit_dim) == copies(weight, unit_dim)


NEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "signs": lambda w: torch.cat([w, -w]),
    "scales": lambda w: torch.cat([w, w * 1.001]),
    "orders": lambda w: torch.cat([w, w.flip(1)]),
    "one element": lambda w: torch.cat([w, w + 1e-2 * torch.eye(8)]),
    "of one norm": lambda w: torch.cat([w, w.roll(1, 1)]) / w.norm(dim=1).repeat(2)[:, None],
    "steps of a line": lambda w: torch.arange(1.0, 9.0)[:, None] * w[:1],
}


@pytest.mark.parametrize("name", NEAR)
def test_units_that_are_nearly_alike_are_no_copies(name: str) -> None:
    weight = NEAR[name](torch.randn(8, 8))
    assert distinct(weight, 0) == 0
    assert copies(weight) == 0


def test_of_many_units_of_one_norm_few_are_taken_for_copies() -> None:
    """Only the projection tells them apart, and with many units some projections are the same by chance."""
    weight = nn.init.orthogonal_(torch.empty(500, 500))
    assert copies(weight) < 0.02
    weight[250:] = weight[:250]
    assert 0.5 <= copies(weight) < 0.51


def test_rounding_makes_no_difference() -> None:
    weight = torch.randn(6, 50)
    weight[3:] = weight[:3] * (1 + 1e-7 * torch.randn(3, 50))
    assert distinct(weight, 0) == 0
    assert copies(weight) == 0.5


def test_zeros_nan_and_what_has_no_units() -> None:
    assert copies(torch.zeros(4, 3)) == 0.75
    assert copies(torch.full((4, 3), math.nan)) == 0
    assert all(copies(w) is None for w in (torch.ones(3), torch.ones(1, 3), torch.ones(3, 0), torch.ones(3, 2).int()))


def test_units_of_transposed_convolutions_in_a_watch() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(5, 4, 2), nn.Conv2d(4, 6, 1), nn.ConvTranspose1d(2, 3, 1))
    with torch.no_grad():
        net[0].weight[:, 2:] = net[0].weight[:, :1]
        net[1].weight[3] = net[1].weight[0]
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    with gm.watch(net, sgd, every=1) as watch:
        net[:2](torch.randn(2, 5, 3, 3)).square().mean().backward()
        sgd.step()
    rows = {p.name: p for p in watch.run.readings[0].parameters}
    found = [rows[f"{i}.weight"].copies for i in (0, 1, 2)]
    assert found == pytest.approx([2 / 4, 1 / 6, 0.0])
    assert rows["0.bias"].copies is None


# -- positions --------------------------------------------------------------------------------------------------------


def by_pairs(y: Tensor) -> float:
    total = count = 0
    for sequence in y.double():
        for i, a in enumerate(sequence):
            for j, b in enumerate(sequence):
                if i != j:
                    total += float(a @ b / (a.norm() * b.norm()))
                    count += 1
    return total / count


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("shape", [(2, 2, 3), (3, 6, 5), (1, 7, 1), (4, 3, 40)], ids=str)
def test_positions_against_all_pairs(shape: tuple[int, ...], offset: float, scale: float) -> None:
    y = (torch.randn(shape) + offset) * scale
    assert positions(y) == pytest.approx(by_pairs(y), abs=1e-5)
    assert positions(y.double()) == pytest.approx(by_pairs(y), abs=1e-6)
    assert positions(y.mT.contiguous().mT) == pytest.approx(by_pairs(y), abs=1e-5)


def test_positions_that_are_the_same() -> None:
    assert positions(torch.randn(3, 1, 8).expand(3, 5, 8)) == pytest.approx(1.0, abs=1e-6)
    assert positions(torch.randn(3, 1, 8).expand(3, 5, 8).bfloat16()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 4), (0, 3, 4), (2, 3, 4, 5), (3, 4, 0), (5,)], ids=str)
def test_what_has_no_positions(shape: tuple[int, ...]) -> None:
    assert positions(torch.randn(shape)) is None


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_positions_of_extremes(scale: float) -> None:
    y = torch.randn(3, 5, 7)
    assert positions(y * scale) == pytest.approx(by_pairs(y), abs=1e-4)


def test_positions_of_zeros_are_left_out() -> None:
    y = torch.randn(2, 6, 4)
    y[:, 3:] = 0  # padding
    assert positions(y) == pytest.approx(by_pairs(y[:, :3]), abs=1e-5)


# -- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("lr", [0.0, 1e-4, 1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_how_much_of_a_weight_moved(dtype: torch.dtype, lr: float, large: bool) -> None:
    p = torch.randn(200, 100 if large else 30).to(dtype)
    before = p.clone()
    meter = UpdateMeter([p])
    meter.before()
    p -= lr * torch.randn(p.shape).to(dtype)
    meter.norms()
    share = sum(a != b for a, b in zip(before.reshape(-1).tolist(), p.reshape(-1).tolist(), strict=True)) / p.numel()
    assert meter.moved(0) == pytest.approx(share, abs=0.03 if large else 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_moved_in_a_watch(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 2)).to(dtype)
    sgd = torch.optim.SGD(net[0].parameters(), 0.05)
    before = [p.detach().clone() for p in net.parameters()]
    with gm.watch(net, sgd, every=1) as watch:
        net(torch.randn(8, 30, dtype=dtype)).float().square().mean().backward()
        sgd.step()
    rows = watch.run.readings[0].parameters
    shares = [(a != b).float().mean().item() for a, b in zip(before, net.parameters(), strict=True)]
    expected = [*shares[:2], None, None] if dtype is torch.bfloat16 else [None] * 4
    assert [p.moved for p in rows] == pytest.approx(expected, abs=1e-6)
    assert dtype is not torch.bfloat16 or 0 < shares[0] < 1


def too_small(gradient: Tensor) -> float:
    sizes = [abs(v) for v in gradient.double().reshape(-1).tolist() if v != 0]
    return sum(v <= 4 * 2.0**-24 for v in sizes) / len(sizes) if sizes else 1.0


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-6, 3e-7, 1e-7, 3e-8, 0.0])
def test_what_float16_loses(scale: float) -> None:
    gradient = (torch.randn(40, 30) * scale).half()
    gradient[::3] = 0  # those of an activation
    assert lost(gradient) == pytest.approx(too_small(gradient))
    assert lost(gradient.t()) == pytest.approx(too_small(gradient))
    assert all(lost(gradient.to(dtype)) is None for dtype in (torch.float32, torch.bfloat16, torch.float64))


def test_lost_in_a_watch() -> None:
    net = Net(lambda m, x: m.b(m.a(x).half()).float(), a=nn.Linear(6, 8), b=nn.Linear(8, 3).half())
    x = torch.randn(5, 6)
    y = net.b(net.a(x).half()).detach().requires_grad_()
    (y.float().square().mean() * 1e-6).backward()
    with gm.watch(net, every=1) as watch:
        (net(x).square().mean() * 1e-6).backward()
    assert watch.run.notes == ()
    sites = {s.name: s for s in watch.run.readings[0].sites}
    assert sites["b"].lost == pytest.approx(too_small(y.grad))
    assert 0 < sites["b"].lost <= 1
    assert sites["a"].lost is None
