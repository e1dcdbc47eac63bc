"""The ledger of `measure` against gradients that were computed the slow way, in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradiometer as gm
from ledger_networks import CASES
from ledger_operations import free, linear, randn
from ledger_tape import SUMS, Case, D, Net, expected_steps, measured, mse, near, rms, rows_of, taped

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

# -- every operation --------------------------------------------------------------------------------------------------


def test_the_table_has_every_class_of_torch() -> None:
    from torch.nn.modules import activation, batchnorm, instancenorm, normalization, padding, pooling

    named = {name.split()[0] for name in CASES if hasattr(nn, name.split()[0])}
    assert set(activation.__all__) - {"MultiheadAttention"} <= named  # that is many operations
    norms = {*batchnorm.__all__, *instancenorm.__all__, *normalization.__all__}
    assert {name for name in norms if not name.startswith("Lazy")} - {"SyncBatchNorm"} <= named  # that needs a GPU
    assert {name for name in pooling.__all__ if "Unpool" not in name} <= named
    assert {name[:-2] for name in padding.__all__} <= {name[:-2] for name in named}
    assert len(named) > 60
    assert len(CASES) > 200


@every_case
def test_the_tape_itself_agrees_with_autograd(case: Case) -> None:
    attached, loss = case.record(attached=True)
    tensors = [v.value for step in attached.steps for v in step.outputs]
    wanted = [y for y in tensors if y.requires_grad]
    found = dict(zip(map(id, wanted), torch.autograd.grad(loss.value, wanted, allow_unused=True), strict=True))
    ours = [v for step in taped(case).steps for v in step.outputs]
    for v, y in zip(ours, tensors, strict=True):
        g = found.get(id(y))
        assert (v.grad is None) == (g is None), v.step.site
        # Autograd gives what a tensor's hooks are about to change, or have changed, as it happens to run.
        if g is not None:
            assert any(torch.allclose(ours, g, rtol=1e-9, atol=1e-14) for ours in (v.grad, v.sum)), v.step.site


@every_case
def test_every_operation_has_a_row_with_its_cause(case: Case) -> None:
    rows = rows_of(case)
    assert {site: row.cause for site, row in rows.items()} == {s.site: s.cause for s in expected_steps(case)}
    for site, row in rows.items():
        if ":" in site:
            assert site.split(":")[1].split(".")[0] == row.operation
    ledger = list(measured(case))  # from the loss to the input
    places = {row.site: i for i, row in enumerate(ledger) if row.operation not in SUMS}
    for i, row in enumerate(ledger):
        if row.operation in SUMS:  # stands just before the operation whose gradient it sums
            assert [e.to for e in row.edges] == [row.site]
            assert [r.site for r in ledger[i + 1 : i + 2]] == [row.site] or row.site not in places
            continue
        for edge in row.edges:
            assert places.get(edge.to, len(places) * 2) > places.get(row.site, -1), (row.site, edge.to)


@every_case
def test_every_gain_is_that_of_the_operation_alone(case: Case) -> None:
    rows = rows_of(case)
    for step in expected_steps(case):
        row, entering = rows[step.site], step.entering
        assert near(row.grad_rms, rms(entering)), step.site
        assert row.elements == entering.numel(), step.site
        sent = [(v.step.site, g) for v, g in step.sent]
        if step.table is not None:
            sent = [(row.parameter or "", step.table)]
        edges = sorted((to, rms(g) / rms(entering) if rms(entering) else math.nan, rms(g)) for to, g in sent)
        assert [e.to for e in sorted(row.edges, key=lambda e: (e.to, e.gain))] == [to for to, _, _ in edges], step.site
        for edge, (_, gain, size) in zip(sorted(row.edges, key=lambda e: (e.to, e.gain)), edges, strict=True):
            assert near(edge.gain, gain), (step.site, edge)
            assert near(edge.grad_rms, size), (step.site, edge)
        used = [g for _, g in sent if near(row.gain, rms(g) / rms(entering) if rms(entering) else math.nan)]
        assert row.elements_out in [g.numel() for g in used], step.site
        if not row.main:
            assert near(max(g.norm().item() for g in used), max(g.norm().item() for _, g in sent)), step.site
        expected = -math.inf if row.gain == 0 else math.log10(row.gain) if row.gain > 0 else math.nan
        assert near(row.log10_gain, expected), step.site


@every_case
def test_a_fork_tells_its_branches_apart(case: Case) -> None:
    forks = {row.site: row for row in measured(case) if row.operation in SUMS}
    steps = [s for s in taped(case).steps if s.reached and (len(s.ways) > 1 or any(v.hook for v in s.outputs))]
    assert sorted(forks) == sorted(s.site for s in steps)
    for step in steps:
        row, whole = forks[step.site], step.entering
        assert row.cause == "connection"
        branches = sorted((user.site, g.norm().item(), g) for user, g in step.ways)
        sent = {user.site: v for v in step.reached for user, _ in v.arrived}
        chosen = [(n, sent[site]) for site, n, _ in branches if near(row.grad_rms, n / sent[site].value.numel() ** 0.5)]
        assert chosen, step.site
        assert near(row.gain, rms(whole) / row.grad_rms), step.site
        assert near(row.edges[0].grad_rms, rms(whole)), step.site
        if row.operation == "hook":
            assert row.branches == ()
            continue
        assert math.isclose(sum(b.share for b in row.branches), 1.0, rel_tol=1e-9), step.site
        found = sorted(row.branches, key=lambda b: (b.site, b.grad_norm))
        assert [b.site for b in found] == [site for site, _, _ in branches]
        for branch, (_, size, g) in zip(found, branches, strict=True):
            assert near(branch.grad_norm, size), (step.site, branch)
            assert near(branch.share, ((g * whole).sum() / whole.square().sum()).item(), 1e-8), (step.site, branch)
            rest = whole - g
            if g.norm() > 1e-9 * whole.norm() and rest.norm() > 1e-6 * whole.norm():
                cosine = ((g * rest).sum() / (g.norm() * rest.norm())).item()
                assert math.isclose(branch.cosine, cosine, rel_tol=1e-6, abs_tol=1e-7), (step.site, branch)


# -- the sum ----------------------------------------------------------------------------------------------------------


@every_case
def test_the_main_rows_add_up_to_the_whole(case: Case) -> None:
    ledger = measured(case)
    ends = {s.site: s.outputs[0].grad for s in taped(case).steps if s.cause == "" and s.outputs[0].arrived}
    ends |= {rows_of(case)[s.site].parameter: s.table for s in taped(case).steps if s.table is not None}
    assert ledger.end in ends
    assert near(ledger.end_rms, rms(ends[ledger.end]))
    assert math.isclose(sum(row.log10_gain for row in ledger.main), math.log10(ledger.end_rms), abs_tol=1e-12)
    assert math.isclose(ledger.total, math.log10(ledger.end_rms), abs_tol=1e-12)
    assert math.isclose(sum(ledger.by_cause.values()), ledger.total, abs_tol=1e-12)
    if case.is_chain:
        assert all(row.main for row in ledger)
        assert math.isclose(sum(row.log10_gain for row in ledger), math.log10(ledger.end_rms), abs_tol=1e-12)
    size = 1.0  # walking from the loss, each row begins with what the one before has left
    for row in ledger.main:
        assert near(row.grad_rms, size), row.site
        size = row.grad_rms * row.gain
        if row.branches:  # it follows the largest
            assert row.branches[0].site in {r.site for r in ledger.main}
            assert near(row.grad_rms * row.elements**0.5, row.branches[0].grad_norm)
            assert row.branches[0].grad_norm == max(b.grad_norm for b in row.branches)


@pytest.mark.parametrize("depth", [1, 2, 5, 30])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_nielsens_chain_of_single_neurons(depth: int, scale: float) -> None:
    torch.manual_seed(depth)
    net = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(1, 1), nn.Sigmoid()))).to(D)
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.normal_(0, scale)
            layer.bias.normal_()
    x = torch.tensor([[0.4]], dtype=D)
    ledger = gm.measure(net, (x, torch.tensor([[1.0]], dtype=D)), lambda y, t: (y - t).square().sum() / 2).ledger
    rows = {row.site: row for row in ledger}
    a, product = x, 1.0
    for i in range(depth):
        z = a * net[2 * i].weight + net[2 * i].bias
        a = torch.sigmoid(z)
        w, slope = abs(net[2 * i].weight.item()), (a * (1 - a)).item()
        assert math.isclose(rows[str(2 * i)].gain, w, rel_tol=1e-12)
        assert math.isclose(rows[str(2 * i + 1)].gain, slope, rel_tol=1e-12)
        assert math.isclose(rows[str(2 * i + 1)].derivative, slope, rel_tol=1e-12)
        assert math.isclose(rows[str(2 * i)].scale, w, rel_tol=1e-12)
        product *= w * slope
    assert math.isclose(ledger.total, math.log10(product * abs(a.item() - 1)), abs_tol=1e-12 * depth)


# -- what a row costs -------------------------------------------------------------------------------------------------


def total_with(case: Case, factors: dict[str, float]) -> float:
    """The decades to the input, of a backward in which some operations send more or less than they would."""
    return math.log10(rms(case.record(factors=factors)[0].steps[0].outputs[0].grad))


CHAINS = [c for c in list(CASES.values())[::4] if c.is_chain and c.inputs()[0].is_floating_point()]


@pytest.mark.parametrize("case", CHAINS, ids=lambda case: case.name)
def test_without_one_row_of_a_chain(case: Case) -> None:
    ledger = measured(case)
    for row in ledger:
        assert math.isclose(row.total_without, ledger.total - row.log10_gain, abs_tol=1e-12)
        assert math.isclose(row.total_without, total_with(case, {row.site: 1 / row.gain}), abs_tol=1e-6)


def orthogonal() -> nn.Module:
    layer = nn.Linear(6, 6)
    nn.init.orthogonal_(layer.weight)
    return layer


def around(t: Any, net: Any, x: Any) -> Any:
    """A skip around a branch, with nothing below that could tell in which direction the gradient lies."""
    h = t("reshaping below", net.below, x) if isinstance(net.below, nn.Linear) else x
    b = t("activation :tanh", torch.tanh, t("weights a", net.a, h))
    return t("connection :add", torch.add, h, t("weights b", net.b, b))


@pytest.mark.parametrize("below", [nn.Identity, orthogonal])
@pytest.mark.parametrize("size", [0.01, 0.5, 2.0, 30.0])
def test_without_one_row_of_a_branch(below: Callable[[], nn.Module], size: float) -> None:
    def make() -> Net:
        net = Net(around, below=below, a=linear(6, 6), b=linear(6, 6))
        with torch.no_grad():
            for layer in (net.a, net.b):
                layer.weight.mul_(size)
        return net

    case = Case(f"around {below.__name__} {size}", make, randn(7, 6))
    ledger = measured(case)
    side = [row for row in ledger if not row.main and row.operation not in SUMS]
    assert len(side) == (3 if {row.site for row in side} & {"a"} else 0)
    for row in ledger.main:
        assert math.isclose(row.total_without, ledger.total - row.log10_gain, abs_tol=1e-12)
    for row in side:
        assert math.isclose(row.total_without, total_with(case, {row.site: 1 / row.gain}), abs_tol=1e-6), row


@pytest.mark.parametrize("name", ["residual", "ResNet", "gating", "DenseNet", "pre-norm transformer"])
def test_without_one_row_of_a_branch_when_more_comes_below(name: str) -> None:
    """What lies below a fork has the gain it had: right but for the direction of the gradient."""
    for row in measured(CASES[name]):
        if not row.main and row.operation not in SUMS:
            assert abs(row.total_without - total_with(CASES[name], {row.site: 1 / row.gain})) < 0.15, row


def test_a_row_that_lets_nothing_pass() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).to(D)
    nn.init.constant_(net[0].bias, -100.0)
    ledger = gm.measure(net, (torch.randn(5, 4, dtype=D), None), mse).ledger
    row = next(row for row in ledger if row.site == "1")
    assert (row.gain, row.log10_gain, ledger.total, ledger.end_rms) == (0.0, -math.inf, -math.inf, 0.0)
    assert math.isnan(row.total_without)
    assert row.flat == 1.0
    assert math.isnan(ledger[-1].gain)
    assert ledger.worst is row


# -- where the path ends, and the ledger as data ----------------------------------------------------------------------


def test_a_mapping_whose_model_makes_its_own_loss() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            y = self.a(x)
            return {"loss": F.cross_entropy(y, labels), "logits": y}

    torch.manual_seed(15)
    net = Own().to(D)
    x, labels = torch.randn(5, 4, dtype=D), torch.tensor([0, 1, 2, 1, 0])
    ledger = gm.measure(net, {"x": x, "labels": labels}).ledger
    assert [(r.site, r.cause) for r in ledger] == [(":cross_entropy", "loss"), ("a", "weights")]
    x.requires_grad_()
    assert near(ledger.end_rms, rms(torch.autograd.grad(net(x, labels)["loss"], x)[0]))


def test_a_network_that_begins_with_a_parameter() -> None:
    """A table read by its index, the queries of a detector, the constant of a generator."""

    def run(t: Any, net: Any, i: Tensor) -> Tensor:
        return net.b(torch.tanh(net.a(torch.sin(net.table[i]))))

    torch.manual_seed(16)
    net, i = Net(run, table=free(5, 4), a=linear(4, 3), b=linear(3, 2)).to(D), torch.tensor([1, 2, 2, 0])
    rows = {row.site: row for row in gm.measure(net, (i, None), mse).ledger}
    tensors = [net.table[i]]
    for function in (torch.sin, net.a, torch.tanh, net.b):
        tensors.append(function(tensors[-1]))
    sizes = [rms(g) for g in torch.autograd.grad(mse(tensors[-1]), tensors)]
    for site, before, after in zip(("b", ":tanh", "a", ":sin"), sizes[::-1], sizes[-2::-1], strict=False):
        assert near(rows[site].grad_rms, before)
        assert near(rows[site].gain, after / before)


def test_layers_that_ran_without_gradients_end_the_path() -> None:
    def run(t: Any, net: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = net.body(x)
        return net.b(torch.tanh(net.a(h)))

    torch.manual_seed(16)
    net, x = Net(run, body=linear(), a=linear(), b=linear(4, 2)).to(D), torch.randn(5, 4, dtype=D)
    net.body.requires_grad_(False)
    ledger = gm.measure(net, (x, None), mse).ledger
    a = net.a(net.body(x))
    gradient = torch.autograd.grad(mse(net.b(torch.tanh(a))), a)[0]
    assert [r.site for r in ledger] == ["loss:mse_loss", "b", ":tanh"]
    assert ledger.end == "a"
    assert near(ledger.end_rms, rms(gradient))
    assert math.isclose(ledger.total, math.log10(rms(gradient)), abs_tol=1e-12)


def plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("make", [CASES["residual"].make, lambda: nn.LSTM(4, 3)], ids=["residual", "LSTM"])
def test_as_a_dict(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(14)
    x = torch.randn(5, 4, dtype=D)
    reading = gm.measure(make().to(D), (x, None), lambda y, _: mse(y) if isinstance(y, Tensor) else mse(y[0]))
    data = reading.to_dict()
    json.dumps(plain(data), allow_nan=False)
    assert len(data["ledger"]) == len(reading.ledger)
    for row, entry in zip(reading.ledger, data["ledger"], strict=True):
        for name in ("site", "operation", "cause", "gain", "log10_gain", "grad_rms", "main", "scale", "flat"):
            assert entry[name] == getattr(row, name) or (entry[name] != entry[name]), name
        assert [e["to"] for e in entry["edges"]] == [e.to for e in row.edges]
        assert [b["share"] for b in entry["branches"]] == [b.share for b in row.branches]
    assert data["ledger_total"] == reading.ledger.total
    assert [r["gains"] for r in data["recurrences"]] == [r.gains for r in reading.recurrences]
