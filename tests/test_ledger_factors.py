"""The factors of a gain: scale and alignment of a weight, derivative and flat share of an activation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradiometer as gm
from ledger_networks import CASES
from ledger_operations import ACTIVATIONS, linear
from ledger_tape import D, Net, measured, mse, near, rms, rows_of

# -- weights ----------------------------------------------------------------------------------------------------------


def test_scale_and_alignment_make_the_gain() -> None:
    for case in CASES.values():
        for row in measured(case):
            said = (case.name, row.site)
            assert (row.scale is None) == (row.alignment is None), said
            if row.scale is not None:
                assert row.cause == "weights", said
                assert near(row.scale * row.alignment, row.gain), said


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (4,)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_scale_of_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9, bias=bias), nn.Tanh(), nn.Linear(9, 3, bias=bias)).to(D)
    ledger = gm.measure(net, (torch.randn(*shape, dtype=D), None), mse).ledger
    rows = {row.site: row for row in ledger}
    assert near(rows["0"].scale, rms(net[0].weight) * 3)
    assert near(rows["2"].scale, rms(net[2].weight) * 3**0.5)
    assert rows["0"].parameter == "0.weight"


LAYERS: list[tuple[tuple[int, ...], Callable[[], nn.Module]]] = [
    ((4, 6, 80), lambda: nn.Conv1d(6, 10, 5)),
    ((4, 6, 24, 24), lambda: nn.Conv2d(6, 10, 3, bias=False)),
    ((4, 6, 25, 25), lambda: nn.Conv2d(6, 10, 3, stride=2)),
    ((4, 6, 24, 24), lambda: nn.Conv2d(6, 12, 3, groups=3, dilation=2)),
    ((4, 6, 24, 24), lambda: nn.Conv2d(6, 12, 1)),
    ((2, 4, 10, 10, 10), lambda: nn.Conv3d(4, 6, 3)),
    ((4, 6, 60), lambda: nn.ConvTranspose1d(6, 10, 4, stride=2)),
    ((4, 6, 16, 16), lambda: nn.ConvTranspose2d(6, 12, 3, groups=2)),
    ((2, 4, 8, 8, 8), lambda: nn.ConvTranspose3d(4, 6, 2, stride=2)),
    ((60, 40), lambda: nn.Linear(40, 90)),
    ((6, 10, 40), lambda: nn.Linear(40, 90, bias=False)),
]


@pytest.mark.parametrize(("shape", "make"), LAYERS, ids=[repr(make()) for _, make in LAYERS])
def test_the_scale_is_the_gain_of_a_gradient_without_direction(shape: tuple[int, ...], make: Any) -> None:
    torch.manual_seed(0)
    net, x = make().to(D), torch.randn(*shape, dtype=D)
    direction = torch.randn_like(net(x))
    ledger = gm.measure(net, (x, direction), lambda y, d: (y * d).sum()).ledger
    row = next(row for row in ledger if row.cause == "weights")
    assert math.isclose(row.scale, row.gain, rel_tol=0.05)
    assert math.isclose(row.alignment, 1.0, rel_tol=0.05)


# -- activations ------------------------------------------------------------------------------------------------------

ELEMENTWISE = [make for make in ACTIVATIONS if make is not nn.RReLU]  # which is random
IN_PLACE = [make for make in ELEMENTWISE if hasattr(make(), "inplace")]


@pytest.mark.parametrize(
    ("make", "inplace"),
    [*((make, False) for make in ELEMENTWISE), *((make, True) for make in IN_PLACE)],
    ids=[*(repr(make()) for make in ELEMENTWISE), *(f"{make()!r} in place" for make in IN_PLACE)],
)
def test_the_derivative_of_an_activation(make: Callable[[], nn.Module], inplace: bool) -> None:
    torch.manual_seed(1)
    act = make().to(D)
    if inplace:
        act.inplace = True
    net = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 2)).to(D)
    x = torch.randn(9, 4, dtype=D) * 3
    row = next(row for row in gm.measure(net, (x, None), mse).ledger if row.site == "1")
    z = net[0](x).detach().requires_grad_()
    slopes = torch.autograd.grad(make().to(D)(z).sum(), z)[0]
    assert near(row.derivative, rms(slopes))


@pytest.mark.parametrize("name", ["GLU", "Softmin"])
def test_what_is_no_elementwise_function_has_no_derivative(name: str) -> None:
    row = rows_of(CASES[name])["m"]
    assert (row.derivative, row.flat) == (None, None)


@pytest.mark.parametrize(("name", "peak"), [("Sigmoid", 0.25), ("Tanh", 1), ("Softsign", 1), ("Hardsigmoid", 1 / 6)])
@pytest.mark.parametrize("size", [0.1, 4.0, 100.0])
@pytest.mark.parametrize("functional", [False, True])
def test_the_flat_share(name: str, peak: float, size: float, functional: bool) -> None:
    torch.manual_seed(2)
    act = getattr(F, name.lower()) if functional else getattr(nn, name)()
    net = Net(lambda t, net, x: net.b(net.act(net.a(x))), a=linear(4, 8), act=lambda: act, b=linear(8, 2)).to(D)
    x = torch.randn(50, 4, dtype=D) * size
    row = next(row for row in gm.measure(net, (x, None), mse).ledger if row.cause == "activation")
    z = net.a(x).detach().requires_grad_()
    slopes = torch.autograd.grad(act(z).sum(), z)[0]
    assert near(row.derivative, rms(slopes))
    assert math.isclose(row.flat, (slopes.abs() < 0.01 * peak).double().mean().item(), abs_tol=1e-6)


def test_dead_units_of_a_relu() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.LeakyReLU(), nn.Linear(8, 2)).to(D)
    with torch.no_grad():
        net[0].bias[:3] = -1000
    x = torch.randn(50, 4, dtype=D)
    rows = {row.site: row for row in gm.measure(net, (x, None), mse).ledger}
    assert math.isclose(rows["1"].flat, (net[:2](x) == 0).all(0).double().mean().item(), abs_tol=1e-6)
    assert rows["1"].flat >= 3 / 8
    assert rows["3"].flat is None
