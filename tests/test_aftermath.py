"""Where a loss that is not finite came from, in steps that are not sampled."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gradiometer as gm
from gradiometer.probe.aftermath import born

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Three layers with something between the second and the third."""

    def __init__(self, between=lambda h, bad: h):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.between = between

    def forward(self, x, bad=False):
        return self.third(self.between(self.second(self.first(x).relu()), bad))


PLANTED = {
    "logarithm of zero": (lambda h, bad: (h * (0.0 if bad else 1.0)).log() if bad else h, "log after second"),
    "zero over zero": (lambda h, bad: h * 0 / (h * 0) if bad else h, "div after second"),
    "overflow": (lambda h, bad: (h.abs() * 1e4).exp() if bad else h, "exp after second"),
    "spread of one": (lambda h, bad: h / h[:1].std(0) if bad else h, "std after second"),
    "product": (lambda h, bad: (h * 1e30) * 1e30 if bad else h, "mul after second"),
}


def train(net, change=lambda x, i: (x, False), steps=12, at=7, **kwargs):
    torch.manual_seed(0)
    sgd = torch.optim.SGD(net.parameters(), 0.01)
    with gm.watch(net, sgd, **{"every": 100, **kwargs}) as watch:
        for i in range(steps):
            x, bad = change(X, i) if i == at else (X, False)
            sgd.zero_grad()
            F.mse_loss(net(x, bad), torch.zeros(16, 3)).backward()
            sgd.step()
    return watch.run


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("name", PLANTED)
def test_the_operation_is_found_in_the_step_itself(name):
    between, site = PLANTED[name]
    torch.manual_seed(0)
    run = train(Net(between), lambda x, i: (x, True))
    assert not run.notes
    found = gm.diagnose(run)[0]
    assert (found.kind, found.evidence["step"], found.sites[0]) == ("nonfinite", 7, site)


def test_a_bad_batch_is_called_so():
    run = train(Net(), lambda x, i: (x.clone().index_put_((torch.tensor(3),), torch.tensor(math.nan)), False))
    found = gm.diagnose(run)[0]
    assert found.sites == ("input", "first")
    assert "6 NaN" in found.explanation


def test_a_mask_of_minus_infinity_is_none():
    def forward(net, x):
        scores = net(x).masked_fill(torch.tensor([True, False, False]), -math.inf)
        return (scores.softmax(1).log_softmax(1)).mean() * math.inf

    net = Net()
    found = born(forward(net, X), {id(p): n for n, p in net.named_parameters()})
    assert found is None or found.operation not in ("masked_fill", "softmax")


def test_weights_that_are_gone_are_no_birth():
    net = Net()
    net.second.weight.data[0, 0] = math.nan
    assert born(net(X).sum(), {id(p): n for n, p in net.named_parameters()}) is None


def test_it_is_looked_for_once_and_only_where_the_loss_is_not_finite(monkeypatch):
    calls = []
    monkeypatch.setattr("gradiometer.probe.aftermath.born", lambda *args: calls.append(args))
    train(Net())
    assert calls == []
    train(Net(PLANTED["zero over zero"][0]), lambda x, i: (x, True), steps=20)
    assert len(calls) == 1


def test_what_a_checkpoint_has_put_away_is_not_asked_for():
    runs = []

    def part(h):
        runs.append(1)
        return h.log()

    net = Net(lambda h, bad: checkpoint(part, h * 0, use_reentrant=False) if bad else h)
    count = {}
    for watched in (False, True):
        torch.manual_seed(0)
        runs.clear()
        sgd = torch.optim.SGD(net.parameters(), 0.0)
        if watched:
            with gm.watch(net, sgd, every=100) as watch:
                for bad in (False, True):
                    net(X, bad).sum().backward()
                    sgd.step()
            assert not watch.run.notes
        else:
            for bad in (False, True):
                net(X, bad).sum().backward()
                sgd.step()
        count[watched] = len(runs)
    assert count[False] == count[True]


def test_the_training_is_the_same_to_the_bit():
    ends = []
    for watched in (False, True):
        torch.manual_seed(0)
        net = Net(PLANTED["zero over zero"][0])
        sgd = torch.optim.SGD(net.parameters(), 0.01)

        def go(net=net, sgd=sgd):
            for i in range(9):
                sgd.zero_grad()
                F.mse_loss(net(X, i == 7), torch.zeros(16, 3)).backward()
                sgd.step()

        if watched:
            with gm.watch(net, sgd, every=100):
                go()
        else:
            go()
        ends.append([p.detach().clone() for p in net.parameters()])
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
