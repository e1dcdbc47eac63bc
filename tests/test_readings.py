"""What belongs to the step and not to a site: losses, scalars, intervals, scales, units, names of several models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradiometer as gm
from gradiometer.records import UNIT_QUANTILES
from trainings import Net


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def square(y: Tensor) -> Tensor:
    return y.square().mean()


def close(value: float | None, expected: float | Tensor, tolerance: float = 1e-5) -> bool:
    expected = float(torch.as_tensor(expected).detach())
    return value is not None and math.isclose(value, expected, rel_tol=tolerance, abs_tol=1e-9)


def rms(x: Tensor) -> Tensor:
    return x.detach().double().square().mean().sqrt()


def test_every_nth_step_is_read_and_every_loss_is_kept() -> None:
    model, losses = net(), []
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    with gm.watch(model, sgd, every=3) as watch:
        for _ in range(8):
            sgd.zero_grad()
            loss = F.mse_loss(model(torch.randn(5, 4)), torch.ones(5, 2))
            loss.backward()
            sgd.step()
            losses.append(loss.item())
        run = watch.run
    assert [r.step for r in run.readings] == [0, 3, 6]
    assert run.losses() == list(enumerate(losses))
    assert [r.loss for r in run.readings] == losses[::3]
    assert run.readings[0].loss_operations == ("mse_loss",)
    assert (run.steps, run.finished, watch.run.finished, run.optimizers) == (8, False, True, ("SGD",))
    assert (run.models[0].kind, run.models[0].parameters) == ("Sequential", 44)
    assert [r.time for r in run.readings] == sorted(r.time for r in run.readings)


def test_the_default_budget_samples_the_first_steps_and_then_seldom() -> None:
    model = net()
    sgd = torch.optim.SGD(model.parameters(), 0.01)
    with gm.watch(model, sgd) as watch:
        for _ in range(300):
            square(model(torch.ones(5, 4))).backward()
            sgd.step()
    steps = [r.step for r in watch.run.readings]
    assert steps[:3] == [0, 1, 2]
    assert len(steps) < 60
    assert len(watch.run.losses()) == 300


def test_recorded_scalars_belong_to_the_step_of_the_last_backward() -> None:
    model = net()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    with gm.watch(model, sgd, every=2) as watch:
        for i in range(3):
            square(model(torch.ones(5, 4))).backward()
            watch.record(before=i)
            sgd.step()
            watch.record(loss=torch.tensor(10.0 + i), after=i)
    scalars = watch.run.scalars
    assert scalars["before"] == scalars["after"] == ((0, 0, 0.0), (0, 1, 1.0), (0, 2, 2.0))
    assert scalars["loss"] == ((0, 0, 10.0), (0, 1, 11.0), (0, 2, 12.0))  # and not what was seen at backward


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_gradient_scaler_is_taken_out(fused: bool, unscale: bool) -> None:
    model, scaler = net(), torch.amp.GradScaler("cpu", init_scale=2.0**12)
    adam = torch.optim.Adam(model.parameters(), fused=fused)
    x = torch.randn(3, 5, 4)
    with gm.watch(model, adam, every=1) as watch:
        for x_i in x:
            loss = square(model(x_i)) / 3
            scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(adam)
        scaler.step(adam)
        scaler.update()
    plain = net()
    hidden, total = [], torch.zeros(())
    for x_i in x:
        hidden.append(plain[0](x_i))
        hidden[-1].retain_grad()
        total = total + square(plain[1:](hidden[-1])) / 3
    total.backward()
    reading = watch.run.readings[0]
    assert (reading.loss_scale, reading.passes) == (2.0**12, 3)
    assert close(reading.loss, total)
    assert close(watch.run.losses()[0][1], total)
    assert close(reading.sites[0].grad_rms, rms(torch.stack([h.grad for h in hidden])))
    for p, q in zip(reading.parameters, plain.parameters(), strict=True):
        assert close(p.grad_rms, rms(q.grad))
        assert torch.allclose(torch.tensor(p.unit_gradients), q.grad.reshape(len(q), -1).norm(dim=1), rtol=1e-5)


def test_a_step_that_the_scaler_skips_is_no_reading() -> None:
    model, scaler = net(), torch.amp.GradScaler("cpu", init_scale=2.0**127)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    with gm.watch(model, sgd, every=1) as watch:
        for factor in (1e4, 1.0):
            sgd.zero_grad()
            scaler.scale(square(model(torch.ones(5, 4))) * factor).backward()
            scaler.step(sgd)
            scaler.update(2.0)
    assert len(watch.run.readings) == watch.run.steps == 1


def test_gradients_are_read_as_the_optimizer_sees_them() -> None:
    model = net()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    sgd.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
    with gm.watch(model, sgd, every=1) as watch:
        square(model(torch.ones(5, 4))).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        sgd.step()
    squares = sum(p.grad_rms**2 * math.prod(p.parameter.shape) for p in watch.run.readings[0].parameters)
    assert norm > 1e-3
    assert math.isclose(math.sqrt(squares), 1e-3, rel_tol=1e-3)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (lambda a, b: {"enc": a, "dec": b}, ["enc.0", "enc.1", "enc.2", "dec"]),
        (lambda a, b: [a, b], ["Sequential.0", "Sequential.1", "Sequential.2", "Linear"]),
        (lambda a, b: nn.ModuleDict({"x": a, "y": b}), ["x.0", "x.1", "x.2", "y"]),
    ],
)
def test_several_models(models: Any, names: list[str]) -> None:
    a, b = net(), nn.Linear(2, 3)
    sgd = torch.optim.SGD([*a.parameters(), *b.parameters()], 0.1)
    with gm.watch(models(a, b), sgd, every=1) as watch:
        square(b(a(torch.ones(5, 4)))).backward()
        sgd.step()
    reading = watch.run.readings[0]
    assert [s.name for s in reading.sites] == names
    layers = (names[0], names[2], names[3])
    assert [p.name for p in reading.parameters] == [f"{at}.{kind}" for at in layers for kind in ("weight", "bias")]


def test_dead_units_and_saturation() -> None:
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Sigmoid())
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(27, 5), Net(lambda m, x: F.relu(x).tanh()))
    with torch.no_grad():
        model[0].bias[2] = -1e3
        model[2].weight.mul_(20)
        model[5].bias[:2] = -1e3
    x = torch.randn(2, 7, 1, 3, 3)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    with gm.watch(model, sgd, every=1) as watch:
        for x_i in x:
            square(model(x_i)).backward()
        y = [model[:k](x.flatten(0, 1)) for k in range(8)]
        sgd.step()
    sites = {s.name: s for s in watch.run.readings[0].sites}
    relu, sigmoid, late, tanh = (sites[n] for n in ("1", "3", "6:relu", "6:tanh"))
    dead = {i for i in range(4) if not y[2][:, i].any()}
    assert (relu.units, relu.examples, relu.dead) == (4, 126, len(dead))
    assert relu.dead_units() == dead >= {2}
    assert (late.units, late.examples) == (5, 14)
    assert late.dead_units() >= {0, 1}
    z = model[2](y[2])
    flat = z.sigmoid() * (1 - z.sigmoid()) < 0.01 * 0.25
    assert close(sigmoid.saturation, flat.double().mean())
    assert 0 < sigmoid.saturation < 1
    assert close(tanh.saturation, (1 - y[7] ** 2 < 0.01).double().mean())
    assert (sites["0"].saturation, sites["0"].dead, sigmoid.dead) == (None, None, None)


def test_many_units_are_kept_as_quantiles_and_large_tensors_are_sampled() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 600), nn.ReLU(), nn.Linear(600, 2))
    before = model[0].weight.detach().clone()
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    with gm.watch(model, adam, every=1) as watch:
        y = model[0](x := torch.randn(50, 40))
        square(model(x)).backward()
        adam.step()
    reading = watch.run.readings[0]
    weight, gradient = reading.parameters[0], model[0].weight.grad
    assert weight.unit_quantiles
    assert weight.measured < weight.parameter.shape[0] * weight.parameter.shape[1]
    expected = torch.quantile(gradient.norm(dim=1), torch.tensor(UNIT_QUANTILES))
    assert torch.allclose(torch.tensor(weight.unit_gradients), expected, rtol=1e-5)
    assert close(weight.grad_rms, rms(gradient))
    assert close(weight.weight_rms, rms(before), 0.05)
    assert close(weight.update_rms, rms(model[0].weight - before), 0.05)
    relu = next(s for s in reading.sites if s.name == "1")
    assert close(relu.rms, rms(y.relu()))
    assert close(relu.zeros, (y <= 0).double().mean(), 0.05)


def test_sparse_gradients_and_tied_weights() -> None:
    torch.manual_seed(0)
    model = Net(lambda m, i: F.linear(m.embed(i).mean(1), m.out.weight), embed=nn.Embedding(9, 4, sparse=True),
                out=nn.Linear(4, 4, bias=False))  # fmt: skip
    model.again = model.out
    sparse, sgd = torch.optim.SparseAdam(model.embed.parameters()), torch.optim.SGD(model.out.parameters(), 0.1)
    with gm.watch(model, [sparse, sgd], every=1) as watch:
        square(model(torch.tensor([[1, 1, 2], [3, 2, 1]]))).backward()
        sparse.step()
        sgd.step()
    first, second = watch.run.readings
    assert [p.name for p in first.parameters] == ["embed.weight"]
    assert [p.name for p in second.parameters] == ["out.weight"]
    assert close(first.parameters[0].grad_rms, rms(model.embed.weight.grad.to_dense()))
    assert close(second.parameters[0].grad_rms, rms(model.out.weight.grad))


def test_nonfinite_values_are_counted_and_left_out_of_the_rest() -> None:
    model = Net(lambda m, x: m.b(torch.softmax(m.a(x).masked_fill(m.mask, -torch.inf), -1).log()), a=nn.Linear(4, 4),
                b=nn.Identity())  # fmt: skip
    model.mask = torch.tensor([False, True, False, False])
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(3, 4)
    with gm.watch(model, sgd, every=1) as watch:
        out = model(x)
        out.mean().backward()
        sgd.step()
    sites = {s.site.operation: s for s in watch.run.readings[0].sites}
    for name in ("masked_fill", "log"):
        assert (sites[name].nonfinite, sites[name].masked) == (3, 3)
        assert math.isfinite(sites[name].rms)
    assert close(sites["log"].rms, rms(out[out.isfinite()]))
    assert sites["masked_fill"].grad_nonfinite == 12
    assert watch.run.readings[0].loss == -math.inf
    assert all(p.grad_nonfinite for p in watch.run.readings[0].parameters)


@pytest.mark.parametrize("divided", [False, True])
def test_a_scaled_loss_is_unscaled_also_when_something_is_done_to_it_first(divided: bool) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x = torch.randn(4, 3)
    with gm.watch(model, optimizer, every=1) as watch:
        for part in x.split(2):
            loss = model(part).square().mean()
            (scaler.scale(loss) / 2 if divided else scaler.scale(loss / 2)).backward()
        scaler.step(optimizer)
        scaler.update()
    reading = watch.run.readings[0]
    expected = model(x).square().mean()
    assert reading.loss == pytest.approx(expected.item())
    assert reading.loss_scale == 1024.0
    y = model(x).detach().requires_grad_()
    y.square().mean().backward()
    assert reading.sites[0].grad_rms == pytest.approx(y.grad.square().mean().sqrt().item())


def test_units_of_a_transposed_convolution_are_its_outputs() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 3, 2), nn.Conv2d(3, 5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gm.watch(model, optimizer, every=1) as watch:
        model(torch.randn(2, 4, 5, 5)).square().mean().backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
    rows = {p.name: p for p in watch.run.readings[0].parameters}
    assert rows["0.weight"].unit_gradients == pytest.approx(
        gradients[0].transpose(0, 1).flatten(1).norm(dim=1).tolist()
    )
    assert rows["1.weight"].unit_gradients == pytest.approx(gradients[2].flatten(1).norm(dim=1).tolist())


def test_a_watch_is_entered_once(tmp_path: Path) -> None:
    watch = gm.watch(nn.Linear(2, 2), path=tmp_path / "run.sqlite")
    with watch:
        pass
    with pytest.raises(gm.InputError, match="entered before"), watch:
        pass
    with pytest.raises(gm.RunError, match="is a folder"):
        gm.watch(nn.Linear(2, 2), path=tmp_path)


def test_what_is_shown_at_a_prompt_is_short() -> None:
    model = nn.Linear(2, 2)
    with gm.watch(model, every=1) as watch:
        model(torch.ones(1, 2)).sum().backward()
    assert "Linear" in repr(watch)
    assert repr(watch.run) == "<Run Linear: 1 steps, 1 readings>"
    assert repr(watch.run.readings[0]) == "<Reading of step 0: 1 sites, 2 parameters>"
    assert "healthy" in repr(gm.diagnose(watch.run))
