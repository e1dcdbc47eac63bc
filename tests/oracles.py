"""The same forward in plain float64 torch, with `retain_grad`, and the comparison of a reading with it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import gradiometer as gm

Named = dict[str, Tensor]


def rms(xs: Iterable[Tensor]) -> float:
    return torch.cat([x.detach().double().reshape(-1) for x in xs]).square().mean().sqrt().item()


def close(value: float | None, expected: float) -> bool:
    return value is not None and math.isclose(value, expected, rel_tol=1e-5, abs_tol=1e-9)


def check_sites(reading: gm.Reading, passes: list[Named], scale: float = 1.0) -> None:
    """Every site of a reading against the tensors of that name in each pass, after their backward."""
    names = list(dict.fromkeys(name for named in passes for name in named))
    assert [s.name for s in reading.sites] == names
    for site in reading.sites:
        ys = [named[site.name] for named in passes if site.name in named]
        every = torch.cat([y.detach().reshape(-1) for y in ys])
        assert (site.shape, site.passes) == (tuple(ys[0].shape), len(ys)), site.name
        assert close(site.rms, rms(ys)), site.name
        assert math.isclose(site.mean, every.mean().item(), rel_tol=1e-5, abs_tol=1e-6), site.name
        assert close(site.zeros, (every == 0).double().mean().item()), site.name
        gradients = [y.grad for y in ys if y.grad is not None]
        if gradients:
            assert close(site.grad_rms, rms(gradients) / scale), site.name
        else:
            assert site.grad_rms is None, site.name
        assert (site.nonfinite, site.masked, site.grad_nonfinite) == (0, 0, 0)


def check_parameters(reading: gm.Reading, before: nn.Module, after: nn.Module, grads: dict[str, Tensor]) -> None:
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    assert [p.name for p in reading.parameters if p.parameter.optimizer >= 0] == [n for n in old if n in grads]
    for p in reading.parameters:
        assert close(p.weight_rms, rms([old[p.name]])), p.name
        if p.name not in grads:
            assert (p.grad_rms, p.update_rms, p.unit_gradients) == (None, None, ()), p.name
            continue
        gradient, update = grads[p.name].double(), new[p.name].double() - old[p.name].double()
        assert close(p.grad_rms, rms([gradient])), p.name
        # An update is a difference of two float32: eight digits of the weight, few of the update.
        assert math.isclose(p.update_rms or 0, rms([update]), rel_tol=1e-5, abs_tol=1e-9), p.name
        assert p.ratio is None or close(p.ratio, rms([update]) / rms([old[p.name]])), p.name
        units = gradient.reshape(len(gradient), -1).norm(dim=1)
        bound = 1e-6 * units.max().item()  # what is zero but for rounding is not the same zero in float64
        assert torch.allclose(torch.tensor(p.unit_gradients).double(), units, rtol=1e-5, atol=bound), p.name


Oracle = Callable[[nn.Module, Tensor], tuple[Any, Named]]
"""The same forward in plain torch: the output, and what is to be measured of it by name."""


def train_once(
    net: nn.Module, x: Tensor, loss: Callable[[Any], Tensor] = lambda y: y.square().mean(), lr: float = 0.1
) -> tuple[gm.watch, nn.Module]:
    before = copy.deepcopy(net)
    sgd = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr)
    with gm.watch(net, sgd, every=1) as watch:
        loss(net(x)).backward()
        sgd.step()
    assert watch.run.notes == ()
    return watch, before


def oracle_pass(net: nn.Module, x: Tensor, oracle: Oracle, loss: Callable[[Any], Tensor]) -> tuple[Named, float]:
    out, named = oracle(net, x.double())
    for y in named.values():
        if y.requires_grad:
            y.retain_grad()
    value = loss(out)
    value.backward()
    return named, value.item()
