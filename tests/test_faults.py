"""Watching never ends a training: a fault of the instrument stays there, one of the training passes through."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import gradiometer as gm
from gradiometer.measures import updates
from gradiometer.probe import (
    alive,
    engine,
    gradients,
    graph,
    intercept,
    losses,
    observation,
    parameters,
    roster,
    sites,
)
from gradiometer.store import MemoryRun, writer
from test_purity import UNTOUCHED, assert_untouched, places
from trainings import Net, Training, batch, plain

STEPS = 5


class OwnFaultError(Exception):
    pass


def build() -> Training:
    """Has something for every part of the instrument to do."""
    net = Net(
        lambda m, x: m.last(m.drop(m.norm(torch.tanh(m.first(x))).relu_())) * m.scale,
        first=nn.Linear(6, 8),
        norm=nn.BatchNorm1d(8),
        drop=nn.Dropout(0.2),
        last=nn.Linear(8, 3),
        scale=nn.Parameter(torch.tensor(2.0)),
    )
    return plain(net, lambda i: batch(i, 8, 6), momentum=0.9)


# What is broken, and at which call of it.
FAULTS: dict[str, tuple[Any, str, int]] = {
    f"{getattr(owner, '__name__', owner)}.{name}@{call}": (owner, name, call)
    for owner, name, call in [
        (observation, "moments", 0),
        (observation, "moments", 30),  # in backward
        (observation, "zeros", 3),
        (observation, "saturated", 0),
        (observation, "peaks", 1),
        (observation, "can_die", 2),
        (observation, "resolve", 1),
        (gradients, "moments", 0),
        (gradients, "unit_norms", 2),
        (parameters, "resolve", 1),
        (updates, "_norms", 1),
        (updates.UpdateMeter, "__init__", 0),
        (updates.UpdateMeter, "before", 1),
        (updates.UpdateMeter, "norms", 0),
        (sites, "of_module", 1),
        (sites, "of_function", 0),
        (sites, "tensors", 2),
        (sites, "measurable", 2),
        (sites.SiteTracker, "__init__", 1),
        (sites.SiteTracker, "_observe", 4),
        (sites.SiteTracker, "called", 0),
        (sites.SiteTracker, "_returned", 2),
        (sites.SiteTracker, "_unit_dim", 1),
        (sites.SiteTracker, "_hook", 1),
        (observation.Observation, "__init__", 5),
        (observation.Observation, "arrived", 0),
        (observation.Observation, "arrived", 12),
        (observation, "_merge", 0),
        (observation, "_dead_masks", 1),
        (observation, "read", 1),
        (parameters.ParameterMeter, "__init__", 0),
        (parameters.ParameterMeter, "before", 1),
        (parameters.ParameterMeter, "read", 1),
        (graph, "loss_operations", 0),
        (engine.Schedule, "due", 0),
        (engine.Schedule, "due", 2),
        (engine.Schedule, "sampled", 0),
        (engine.Schedule, "plain", 0),
        (MemoryRun, "add_reading", 0),
        (MemoryRun, "add_scalars", 0),
        (MemoryRun, "describe", 0),
        (losses.Losses, "backward_begins", 1),
        (engine.Probe, "_number", 0),
        (roster.Roster, "_held", 0),
        (engine.Probe, "_pass_begins", 1),
        (engine.Probe, "_finish_step", 1),
        (engine.Probe, "_read", 1),
        (engine.Probe, "_open", 1),
        (engine.Probe, "_close", 1),
        (engine, "check_devices", 0),
        (intercept, "open_window", 1),
        (intercept, "scale_of", 0),
    ]
}


def train(watched: dict[str, Any] | None) -> tuple[list[Tensor], gm.watch | None]:
    torch.manual_seed(5)
    training = build()
    seen: list[Tensor] = []
    if watched is None:
        seen = [training.step(i)[0] for i in range(STEPS)]
        observer = None
    else:
        with gm.watch(training.model, training.optimizers, **watched) as observer:
            for i in range(STEPS):
                seen += training.step(i)
    assert_untouched(training)
    return [*seen, *(v for v in training.model.state_dict().values()), torch.get_rng_state()], observer


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    owner, name, at = FAULTS[request.param]
    original, calls = getattr(owner, name), []

    def breaks(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) > at:
            raise OwnFaultError(f"{name} is broken")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, breaks)
    return calls


@pytest.mark.parametrize("broken", FAULTS, indirect=True)
def test_a_fault_of_the_instrument_is_told_once_and_never_reaches_the_training(broken: list[str]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        watched, observer = train({"every": 2})
    assert broken, "the fault never happened"
    assert same(watched, train(None)[0])
    assert [w.category for w in told] == [gm.GradiometerWarning]
    assert "fault of its own" in str(told[0].message)
    assert "OwnFaultError" in str(told[0].message)
    assert observer is not None
    assert observer.run.notes == (str(told[0].message),)
    assert not observer._probe.on


@pytest.mark.parametrize("broken", list(FAULTS)[::5], indirect=True)
def test_nor_does_it_where_warnings_are_errors(broken: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watched, _ = train({"every": 2})
    assert broken
    assert same(watched, train(None)[0])
    assert capsys.readouterr().err.count("gradiometer stopped watching") == 1


def test_a_fault_while_torch_goes_through_its_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that removes itself must not disturb those of others that come after it."""
    called: list[str] = []
    others: list[Any] = []
    for broken in ("_read", "_number"):
        torch.manual_seed(5)
        training = build()
        with monkeypatch.context() as m:
            m.setattr(engine.Probe, broken, lambda *_: 1 / 0)
            with pytest.warns(gm.GradiometerWarning), gm.watch(training.model, every=1):  # noqa: PT031
                others += [
                    register_optimizer_step_pre_hook(lambda *_: called.append("before")),
                    register_optimizer_step_post_hook(lambda *_: called.append("after")),
                ]
                for i in range(2):
                    training.step(i)
        for other in others:
            other.remove()
        assert_untouched(training)
    assert called == ["before", "after"] * 4


def test_a_fault_when_optimizers_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "optimizers", lambda: 1 / 0)
    training = build()
    with pytest.warns(gm.GradiometerWarning, match="fault of its own"), gm.watch(training.model, every=1) as observer:
        training.step(0)
    assert_untouched(training)
    assert not observer._probe.on


def test_a_number_that_is_none_is_left_out() -> None:
    training = build()
    with gm.watch(training.model, every=1) as observer:
        training.step(0)
        with pytest.warns(gm.GradiometerWarning, match=r"record\(accuracy=...\) takes one number, and got str"):
            observer.record(accuracy="high", top5=torch.tensor(0.75))
        with pytest.warns(gm.GradiometerWarning, match="got Tensor"):
            observer.record(accuracy=torch.ones(2))
        training.step(1)
    assert observer.run.scalars["top5"] == ((0, 0, 0.75),)
    assert observer.run.steps == 2
    assert observer.run.notes == ()


# -- what fails in the training ---------------------------------------------------------------------------------------


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        if Fragile.fails == "backward":
            raise Fragile.error
        return g


class Fragile(nn.Module):
    fails, error = "", BaseException()

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.a.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = Failing.apply(self.b(torch.tanh(self.a(x))))
        if self.fails == "forward":
            raise self.error
        return self.c(x.relu())


def descend(optimizer: torch.optim.Optimizer, net: Fragile, x: Tensor) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        if net.fails == "closure":
            raise net.error
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("where", ["forward", "backward", "closure"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.LBFGS])
def test_an_error_of_the_training_passes_through_and_is_forgotten_if_caught(
    kind: type[torch.optim.Optimizer], where: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(fails: bool) -> gm.Run:
        torch.manual_seed(1)
        net = Fragile()
        optimizer = kind(net.parameters(), lr=0.1)
        with gm.watch(net, optimizer, every=1) as observer:
            for i in range(3):
                if fails and i == 1 and (where != "closure" or kind is torch.optim.LBFGS):
                    with monkeypatch.context() as m, pytest.raises(type(error)) as raised:  # noqa: PT012
                        m.setattr(Fragile, "fails", where)
                        m.setattr(Fragile, "error", error)
                        descend(optimizer, net, torch.ones(3, 4))
                    assert raised.value is error
                descend(optimizer, net, torch.full((3, 4), 0.5 + i))
        assert observer.run.notes == ()
        return observer.run

    plain, failed = run(False), run(True)
    assert places() == UNTOUCHED
    assert plain.losses() == failed.losses()
    for a, b in zip(plain.readings, failed.readings, strict=True):
        assert (a.sites, a.parameters, a.loss, a.passes) == (b.sites, b.parameters, b.loss, b.passes)


@pytest.mark.parametrize("where", ["forward", "backward", "closure"])
@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_that_ends_the_block_leaves_nothing_behind(
    where: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Fragile()
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    monkeypatch.setattr(Fragile, "error", error)
    with pytest.raises(type(error)) as raised, gm.watch(net, sgd, every=1) as observer:  # noqa: PT012
        descend(sgd, net, torch.ones(3, 4))
        monkeypatch.setattr(Fragile, "fails", where)
        descend(sgd, net, torch.ones(3, 4))
    assert raised.value is error
    assert places() == UNTOUCHED
    assert torch.overrides._get_current_function_mode() is None
    assert (len(observer.run.readings), observer.run.finished) == (1, True)
    assert observer.run.notes == (f"the block ended by {type(error).__name__}: {error}".rstrip(": "),)


# -- the disk --------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_ends_the_recording_and_not_the_training(
    tmp_path: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = writer._connect

    def small_disk(file: Any) -> Any:
        db = connect(file)
        db.execute("PRAGMA max_page_count=14")
        return db

    monkeypatch.setattr(writer, "_connect", small_disk)
    torch.manual_seed(5)
    training, path = build(), tmp_path / "run.sqlite"
    with gm.watch(training.model, training.optimizers, every=1, path=path) as observer:
        seen = training.step(0)
        assert len(observer.run.readings) == 1  # written
        for i in range(1, STEPS):
            seen += training.step(i)
            for n in range(3000):
                observer.record(filling=n)
            assert len(observer.run.readings) == 1
    assert_untouched(training)
    assert same([*seen, *training.model.state_dict().values(), torch.get_rng_state()], train(None)[0])
    assert capfd.readouterr().err.count("gradiometer stopped recording") == 1
    run = gm.load(path)
    assert [r.step for r in run.readings] == [0]
    assert all(s.grad_rms is not None for s in run.readings[0].sites)
