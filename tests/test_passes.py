"""What is measured where a step is more than one forward and one backward of one model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import gradiometer as gm
from oracles import Named, check_parameters, check_sites, close, oracle_pass, rms, train_once
from trainings import Net, encoder


def plain_oracle(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
    a = m[0](x)
    b = a.relu()
    c = m[2](b)
    return c, {"0": a, "1": b, "2": c}


def plain_net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def square(y: Tensor) -> Tensor:
    return y.square().mean()


def test_accumulation_is_merged_and_evaluation_left_out() -> None:
    net = plain_net()
    before, xs = copy.deepcopy(net), torch.randn(4, 5, 6)
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    with gm.watch(net, sgd, every=1) as watch:
        with torch.no_grad():
            net(xs[3])
        net(xs[3])  # an evaluation that forgot no_grad
        for x in xs[:3]:
            (square(net(x)) / 3).backward()
            net.eval()(xs[3])
            net.train()
        sgd.step()
    twin = copy.deepcopy(before).double()
    passes, losses = zip(*(oracle_pass(twin, x, plain_oracle, lambda y: square(y) / 3) for x in xs[:3]), strict=True)
    reading = watch.run.readings[0]
    check_sites(reading, list(passes))
    check_parameters(reading, before, net, {n: p.grad for n, p in twin.named_parameters()})
    assert reading.passes == 3
    assert close(reading.loss, sum(losses))
    assert reading.sites[1].examples == 15


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_inside_a_model(reentrant: bool) -> None:
    def act(b: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: b(x).tanh()

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        for b in m.blocks:
            x = checkpoint(act(b), x, use_reentrant=reentrant)
        return x

    def oracle(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
        named = {"first": (x := m.first(x))}
        for i, b in enumerate(m.blocks):
            named[f"blocks.{i}"] = x = b(x)
            named[f":tanh.{i}" if i else ":tanh"] = x = x.tanh()
        return x, named

    torch.manual_seed(0)
    net = Net(forward, first=nn.Linear(6, 6), blocks=nn.ModuleList(nn.Linear(6, 6) for _ in range(3)))
    x = torch.randn(5, 6)
    watch, before = train_once(net, x)
    named, _ = oracle_pass(before.double(), x, oracle, square)
    check_sites(watch.run.readings[0], [named])


def test_a_sequence_cut_into_checkpoints() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(6)))
    before, x = copy.deepcopy(net).double(), torch.randn(5, 6)
    with gm.watch(net, every=1) as watch:
        square(checkpoint_sequential(net, 3, x.requires_grad_(), use_reentrant=True)).backward()

    def oracle(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
        named = {str(i): (x := layer(x)) for i, layer in enumerate(m)}
        return x, named

    check_sites(watch.run.readings[0], [oracle_pass(before, x.detach(), oracle, square)[0]])


def test_a_frozen_encoder_is_one_site() -> None:
    torch.manual_seed(0)
    net = Net(lambda m, x: m.head(m.features(x)), features=encoder().eval().requires_grad_(False), head=nn.Linear(8, 2))
    x = torch.randn(3, 5, 8)
    watch, before = train_once(net, x)

    def oracle(m: nn.Module, x: Tensor) -> tuple[Tensor, Named]:
        features = m.features(x)
        return (y := m.head(features)), {"features": features, "head": y}

    twin = before.double()
    named, _ = oracle_pass(twin, x, oracle, square)
    check_sites(watch.run.readings[0], [named])
    grads = {f"head.{n}": p.grad for n, p in twin.head.named_parameters()}
    check_parameters(watch.run.readings[0], before, net, grads)
    assert not any(p.parameter.trainable for p in watch.run.readings[0].parameters if p.name not in grads)


def test_two_optimizers_read_their_own_parameters() -> None:
    torch.manual_seed(0)
    critic, generator = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), nn.Linear(2, 3)
    c, g = torch.optim.SGD(critic.parameters(), 0.1), torch.optim.SGD(generator.parameters(), 0.3)
    real, z = torch.randn(5, 3), torch.randn(5, 2)
    befores = [copy.deepcopy(m) for m in (critic, generator)]
    with gm.watch({"critic": critic, "generator": generator}, [c, g], every=1) as watch:
        for _ in range(2):
            fake = generator(z)
            c.zero_grad()
            (F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()).backward()
            c.step()
            if len(befores) == 2:
                befores.append(copy.deepcopy(critic))
            g.zero_grad()
            F.softplus(-critic(fake)).mean().backward()
            g.step()
            if len(befores) == 3:
                befores.append(copy.deepcopy(generator))
    run = watch.run
    assert [(r.optimizer, r.step) for r in run.readings] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [m.name for m in run.models] == ["critic", "generator"]
    assert len(run.losses(0)) == len(run.losses(1)) == 2
    first, second = run.readings[:2]
    for reading, before, after, name in (
        (first, befores[0], befores[2], "critic"), (second, befores[1], befores[3], "generator")
    ):  # fmt: skip
        assert {p.parameter.model for p in reading.parameters} == {name}
        for p in reading.parameters:
            old, new = (m.get_parameter(p.name.removeprefix(name + ".")) for m in (before, after))
            assert close(p.update_rms, rms([new.double() - old.double()]))
            assert close(p.ratio, rms([new.double() - old.double()]) / rms([old]))
    assert [s.name for s in first.sites if s.grad_rms] == [f"critic.{i}{k}" for k in ("", ".1") for i in range(3)]
    # The generator's gradient comes through the critic, whose sites are in its reading too.
    d, u = copy.deepcopy(befores[2]).double(), copy.deepcopy(befores[1]).double()
    named: Named = {"generator": u(z.double())}
    named["critic.0"] = d[0](named["generator"])
    named["critic.1"] = named["critic.0"].tanh()
    named["critic.2"] = d[2](named["critic.1"])
    for y in named.values():
        y.retain_grad()
    F.softplus(-named["critic.2"]).mean().backward()
    gradients = {s.name: s.grad_rms for s in second.sites}
    assert {n: close(gradients[n], rms([y.grad])) for n, y in named.items()} == dict.fromkeys(named, True)


def test_lbfgs_merges_the_evaluations_of_a_step() -> None:
    net = plain_net()
    twin, x, passes, losses = copy.deepcopy(net).double(), torch.randn(5, 6), [], []
    options = {"lr": 0.1, "max_iter": 5}
    with gm.watch(net, lbfgs := torch.optim.LBFGS(net.parameters(), **options), every=1) as watch:

        def closure() -> Tensor:
            lbfgs.zero_grad()
            (loss := square(net(x))).backward()
            return loss

        lbfgs.step(closure)

    other = torch.optim.LBFGS(twin.parameters(), **options)

    def oracle_closure() -> float:
        other.zero_grad()
        named, loss = oracle_pass(twin, x, plain_oracle, square)
        passes.append(named)
        losses.append(loss)
        return loss

    other.step(oracle_closure)
    reading = watch.run.readings[0]
    check_sites(reading, passes)
    assert reading.passes == len(passes) == 5
    assert close(reading.loss, losses[0])
    assert all(close(p.grad_rms, rms([q.grad])) for p, q in zip(reading.parameters, twin.parameters(), strict=True))


def test_frozen_parameters_and_those_of_no_optimizer() -> None:
    net = plain_net()
    net.spare = nn.Linear(2, 2)
    net[0].weight.requires_grad_(False)
    before = copy.deepcopy(net)
    sgd = torch.optim.SGD(net[2].parameters(), 0.1)
    x = torch.randn(5, 6)
    net.forward = lambda x: net[2](net[1](net[0](x)))
    with gm.watch(net, sgd, every=1) as watch:
        square(net(x)).backward()
        sgd.step()
    reading = {p.name: p for p in watch.run.readings[0].parameters}
    of = {n: (p.parameter.optimizer, p.parameter.trainable) for n, p in reading.items()}
    assert of == {
        "2.weight": (0, True), "2.bias": (0, True), "0.weight": (-1, False), "0.bias": (-1, True),
        "spare.weight": (-1, True), "spare.bias": (-1, True),
    }  # fmt: skip
    for name, p in reading.items():
        given = net.get_parameter(name).grad
        assert (p.grad_rms is None) == (given is None)
        assert given is None or close(p.grad_rms, rms([given]))
        assert close(p.weight_rms, rms([before.get_parameter(name)]))
        assert (p.update_rms is None) == (p.parameter.optimizer < 0)
