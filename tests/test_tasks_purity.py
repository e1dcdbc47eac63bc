"""Reading a loss runs nobody's hook, computes nothing again, changes nothing, and does not fail where backward does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import gradiometer as gm
from gradiometer.probe import tasks

N, K = 12, 5


Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def train(loss: Loss, options: dict[str, Any] | None) -> Any:
    """Three steps: losses, weights and gradients, and the run if there was a watch."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, K))
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    seen: list[Tensor] = []
    with nullcontext() if options is None else gm.watch(net, sgd, **options) as watch:
        for _ in range(3):
            sgd.zero_grad()
            value = loss(net, torch.randn(N, 6), torch.arange(N) % K)
            value.backward()
            sgd.step()
            seen.append(value.detach())
    seen += [x.detach() for p in net.parameters() for x in (p, p.grad)]
    return seen, None if watch is None else watch.run


LOSSES: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "cross entropy": lambda net, x, t: F.cross_entropy(net(x), t),
    "two": lambda net, x, t: F.cross_entropy(net(x).softmax(1), t) + F.mse_loss(net(x).relu(), x[:, :K]) / 2,
    "bce": lambda net, x, t: F.binary_cross_entropy(net(x).sigmoid(), F.one_hot(t, K).float()),
    "soft": lambda net, x, t: F.cross_entropy(net(x), F.one_hot(t, K).float(), label_smoothing=0.1),
    "divergence": lambda net, x, t: F.kl_div(net(x).log_softmax(1), F.one_hot(t, K).float(), reduction="batchmean"),
    "weighted": lambda net, x, t: F.cross_entropy(net(x), t, weight=torch.linspace(0.5, 2, K)),
    "pairs": lambda net, x, t: F.poisson_nll_loss(net(x)[:, :1].tanh(), t.float()),
}
WATCHES = {"full": {"every": 1}, "parameters": {"every": 1, "level": "parameters"}}


@pytest.mark.parametrize("how", WATCHES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_checkpoint_with_the_loss_inside_runs_as_often_as_without(name: str, how: str) -> None:
    runs = 0

    def inside(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        return LOSSES[name](net, x, t)

    def loss(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        return checkpoint(inside, net, x, t, use_reentrant=False)

    plain, _ = train(loss, None)
    without, runs = runs, 0
    watched, run = train(loss, WATCHES[how])
    assert (runs, without) == (6, 6)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert (run.notes, [r.tasks for r in run.readings]) == ((), [()] * 3)


LEDGER = pytest.mark.xfail(strict=True, reason="a ledger asks nodes of the graph for what they have saved")


@pytest.mark.parametrize("how", [pytest.param("full", marks=LEDGER), "parameters"])
@pytest.mark.parametrize("name", LOSSES)
def test_hooks_of_saved_tensors_run_as_often_as_without(name: str, how: str) -> None:
    calls = [0, 0]

    def count(i: int) -> Callable[[Tensor], Tensor]:
        def hook(x: Tensor) -> Tensor:
            calls[i] += 1
            return x.clone()

        return hook

    def loss(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        with saved_tensors_hooks(count(0), count(1)):
            return LOSSES[name](net, x, t)

    plain, _ = train(loss, None)
    expected, calls[:] = calls[:], [0, 0]
    watched, run = train(loss, WATCHES[how])
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert (run.notes, [r.tasks for r in run.readings]) == ((), [()] * 3)
    assert calls == expected


@pytest.mark.parametrize("name", LOSSES)
def test_finding_a_loss_unpacks_nothing(name: str) -> None:
    unpacked: list[Tensor] = []
    net = nn.Linear(6, K)
    with saved_tensors_hooks(lambda x: x, lambda x: unpacked.append(x) or x):
        loss = LOSSES[name](net, torch.randn(N, 6), torch.arange(N) % K)
    assert tasks.read(tasks.find(loss)) == ()
    assert not unpacked


def test_saved_on_the_cpu() -> None:
    def loss(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        with save_on_cpu():
            return F.cross_entropy(net(x), t)

    plain, _ = train(loss, None)
    watched, run = train(loss, WATCHES["full"])
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert (run.notes, len(run.readings)) == ((), 3)


# -- what backward refuses, and what is nothing --------------------------------------------------------------------


def changed_targets(net: nn.Module, x: Tensor) -> Tensor:
    targets = torch.zeros(N, K)
    loss = F.mse_loss(net(x), targets)
    targets.add_(1)
    return loss


def changed_outputs(net: nn.Module, x: Tensor) -> Tensor:
    y = net(x) * 1
    loss = F.huber_loss(y, torch.zeros(N, K))
    y.mul_(2)
    return loss


def changed_scores(net: nn.Module, x: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(net(x), 1).clamp_(min=-1.0), torch.arange(N) % K)


def freed(net: nn.Module, x: Tensor) -> Tensor:
    loss = F.cross_entropy(net(x), torch.arange(N) % K)
    loss.backward()
    return loss


def freed_in_part(net: nn.Module, x: Tensor) -> Tensor:
    p = net(x).softmax(1)
    p.sum().backward()
    return F.mse_loss(p, torch.zeros(N, K))


def freed_divergence(net: nn.Module, x: Tensor) -> Tensor:
    loss = F.kl_div(net(x).log_softmax(1), torch.ones(N, K) / K, reduction="none").sum(1).mean() * 4 / 2
    loss.backward()
    return loss


def changed_probabilities(net: nn.Module, x: Tensor) -> Tensor:
    t = torch.ones(N, K) / K
    loss = F.cross_entropy(net(x), t)
    t.mul_(2)
    return loss


REFUSED = [changed_targets, changed_outputs, changed_scores, freed, freed_in_part]


@pytest.mark.parametrize("loss", [*REFUSED, freed_divergence, changed_probabilities])
def test_what_backward_refuses_is_for_torch_to_say(loss: Callable[[nn.Module, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net = nn.Linear(6, K)
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    with gm.watch(net, sgd, every=1) as watch:
        with pytest.raises(RuntimeError, match=r"modified by an inplace operation|second time"):
            loss(net, torch.randn(N, 6)).backward()
        sgd.zero_grad()
        F.cross_entropy(net(torch.randn(N, 6)), torch.arange(N) % K).backward()
        sgd.step()
    (reading,) = watch.run.readings
    assert watch.run.notes == ()
    assert [t.loss for t in reading.tasks] == ["nll_loss"]


NOTHING: dict[str, Callable[[Tensor], Tensor]] = {
    "no examples, sum": lambda y: F.mse_loss(y[:0], y[:0].detach(), reduction="sum"),
    "no examples, mean": lambda y: F.mse_loss(y[:0], y[:0].detach()),
    "no classes": lambda y: F.cross_entropy(y[:0], torch.zeros(0, dtype=torch.long)),
    "all ignored": lambda y: F.cross_entropy(y, torch.full((N,), -100)),
    "one number": lambda y: F.mse_loss(y[0, 0], torch.tensor(1.0)),
    "one logit": lambda y: F.binary_cross_entropy_with_logits(y[0, 0], torch.tensor(1.0)),
    "one row": lambda y: F.cross_entropy(y[0], torch.tensor(2)),
    "nan targets": lambda y: F.mse_loss(y, torch.full((N, K), torch.nan)),
    "infinite targets": lambda y: F.smooth_l1_loss(y.relu(), torch.full((N, K), torch.inf)),
    "float16": lambda y: F.mse_loss(y.half(), torch.ones(N, K).half()),
    "bfloat16": lambda y: F.cross_entropy(y.bfloat16(), torch.arange(N) % K),
    "bool targets": lambda y: F.mse_loss(y, torch.ones(N, K, dtype=torch.bool).float()),
    "expanded outputs": lambda y: F.mse_loss(y[:, :1].expand(N, K), torch.ones(N, K)),
    "targets with a gradient": lambda y: F.mse_loss(y, y * 2),
    "integer targets": lambda y: F.mse_loss(y[:, 0], torch.arange(N)),
    "one soft label": lambda y: F.cross_entropy(y[0], torch.ones(K) / K),
    "soft labels of float16": lambda y: F.cross_entropy(y.half(), torch.ones(N, K).half() / K),
    "the divergence of one": lambda y: F.kl_div(y[0].log_softmax(0), torch.ones(K) / K, reduction="sum"),
    "divided by nothing": lambda y: F.kl_div(y.log_softmax(1), torch.ones(N, K) / K, reduction="sum") / 0,
}


@pytest.mark.parametrize("name", NOTHING)
def test_rare_losses_are_no_fault(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Linear(6, K)
    with gm.watch(net, every=1) as watch:
        for _ in range(2):
            NOTHING[name](net(torch.randn(N, 6))).backward()
    assert watch.run.notes == ()
    assert len(watch.run.readings) == 2
    assert all(len(r.tasks) == 1 for r in watch.run.readings)


def test_of_several_losses_at_once_all_are_found() -> None:
    net = nn.Linear(6, K)
    with gm.watch(net, every=1) as watch:
        y = net(torch.randn(N, 6))
        torch.autograd.backward((F.mse_loss(y, torch.zeros(N, K)), F.cross_entropy(y, torch.arange(N) % K)))
    assert [(t.loss, t.direct) for t in watch.run.readings[0].tasks] == [("mse_loss", True), ("nll_loss", True)]
