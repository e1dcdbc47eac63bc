"""Through time: gradients, gains and horizon of recurrences, against layers unrolled the slow way in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradiometer as gm
from ledger_operations import linear
from ledger_tape import D, Net, mse, near

State = tuple[Tensor, ...]
every_kind = pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])


def at_the_end(y: Any, _: Any = None) -> Tensor:
    return mse(y[0][-1])


def at_every_step(y: Any, _: Any = None) -> Tensor:
    return mse(y[0])


every_loss = pytest.mark.parametrize("loss", [at_the_end, at_every_step])

# -- unrolled ---------------------------------------------------------------------------------------------------------


def step_of(kind: str, x: Tensor, state: State, w: list[Tensor]) -> State:
    """One step of a recurrent layer as the books write it, and not as torch computes it."""
    i, h = x @ w[0].T + w[2], state[0] @ w[1].T + w[3]
    if kind == "LSTM":
        (a, b, g, o) = (i + h).chunk(4, -1)
        c = torch.sigmoid(b) * state[1] + torch.sigmoid(a) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    if kind == "GRU":
        (ir, iz, i_n), (hr, hz, hn) = i.chunk(3, -1), h.chunk(3, -1)
        z, n = torch.sigmoid(iz + hz), torch.tanh(i_n + torch.sigmoid(ir + hr) * hn)
        return ((1 - z) * n + z * state[0],)
    return (torch.tanh(i + h),)


class Unrolled:
    """One layer over all steps, its states kept, and what the gradients at them are."""

    def __init__(self, kind: str, module: nn.Module, suffix: str, xs: Any, start: State | None = None) -> None:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.kind, self.xs = kind, list(xs)
        self.weights: list[Tensor] = [getattr(module, f"{name}{suffix}") for name in names]
        zero = self.xs[0].new_zeros(self.xs[0].shape[0], self.weights[1].shape[1])
        state = start or ((zero, zero) if kind == "LSTM" else (zero,))
        self.states: list[State] = []
        for x in self.xs:
            state = step_of(kind, x, state, self.weights)
            self.states.append(state)

    @property
    def outputs(self) -> list[Tensor]:
        return [state[0] for state in self.states]

    def expected(self, loss: Tensor) -> tuple[list[float], list[float]]:
        """Norms of the gradients, and of what each step passes on to the one before it over them."""
        flat, n = [s for state in self.states for s in state], len(self.states[0])
        found = torch.autograd.grad(loss, flat, retain_graph=True, materialize_grads=True)
        gradients: list[State] = [found[i : i + n] for i in range(0, len(found), n)]
        norms, gains = [gradients[-1][0].norm().item()], []
        passed: State = tuple(torch.zeros_like(g) for g in gradients[0])
        for t in range(len(self.xs) - 1, 0, -1):
            before = tuple(s.detach().requires_grad_() for s in self.states[t - 1])
            after = step_of(self.kind, self.xs[t].detach(), before, self.weights)
            # All that arrives at h, but of the cell's only what does not come by way of h.
            entering = (gradients[t][0], *passed[1:])
            passed = torch.autograd.grad(after, before, entering)
            gains.append(math.hypot(*(g.norm().item() for g in passed)) / norms[-1])
            # The cell's own: what comes by way of h is in that of h already.
            norms.append(math.hypot(*(g.norm().item() for g in (gradients[t - 1][0], *passed[1:]))))
        return norms[::-1], gains[::-1]


def same(found: gm.Recurrence, norms: list[float], gains: list[float], tolerance: float = 1e-9) -> bool:
    told = (*found.gradients, *found.gains)
    return (found.steps, len(found.gradients), len(found.gains)) == (len(norms), len(norms), len(gains)) and all(
        near(a, b, tolerance) for a, b in zip(told, (*norms, *gains), strict=True)
    )


# -- layers and cells of torch ----------------------------------------------------------------------------------------


@every_kind
@every_loss
@pytest.mark.parametrize(("dtype", "tolerance"), [(D, 1e-9), (torch.float32, 1e-3)])
def test_a_recurrent_layer(kind: str, loss: Any, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(6)
    net, x = getattr(nn, kind)(3, 5).to(dtype), torch.randn(7, 2, 3, dtype=dtype)
    reading = gm.measure(net, (x, None), loss)
    (found,) = reading.recurrences
    unrolled = Unrolled(kind, net.double(), "_l0", x.double())
    assert same(found, *unrolled.expected(loss((torch.stack(unrolled.outputs),))), tolerance)
    assert found.parameter == "weight_hh_l0"
    if loss is at_the_end:
        ratios = [a / b for a, b in pairwise(found.gradients)]
        assert all(near(a, b) for a, b in zip(found.gains, ratios, strict=True))
    assert math.isclose(reading.ledger.total, math.log10(reading.ledger.end_rms), abs_tol=1e-10)
    forks = [row for row in reading.ledger if row.branches]
    assert len(forks) > 4
    for row in forks:  # also where a branch, an output that the loss does not use, brings exactly zero
        assert math.isclose(sum(b.share for b in row.branches), 1.0, rel_tol=1e-9 if dtype is D else 1e-6), row
        assert all(b.share == 0 for b in row.branches if b.grad_norm == 0), row


class Cells(nn.Module):
    """A plain loop over cells, one on top of the other."""

    def __init__(self, kind: str, layers: int = 1) -> None:
        super().__init__()
        self.cells = nn.ModuleList(getattr(nn, f"{kind}Cell")(3 if i == 0 else 4, 4) for i in range(layers))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        states: list[Any] = [None] * len(self.cells)
        out = []
        for x_t in x:
            h = x_t
            for i, cell in enumerate(self.cells):
                states[i] = cell(h, states[i])
                h = states[i][0] if isinstance(states[i], tuple) else states[i]
            out.append(h)
        return (torch.stack(out),)


@every_kind
@every_loss
@pytest.mark.parametrize(("layers", "steps"), [(1, 7), (2, 4)])
@pytest.mark.parametrize("loop", [False, True])
def test_layers_and_loops_over_cells(kind: str, loss: Any, layers: int, steps: int, loop: bool) -> None:
    torch.manual_seed(7)
    net = (Cells(kind, layers) if loop else getattr(nn, kind)(3, 4, layers)).to(D)
    x = torch.randn(steps, 2, 3, dtype=D)
    found = {r.parameter: r for r in gm.measure(net, (x, None), loss).recurrences}
    places = [(net.cells[i], "") if loop else (net, f"_l{i}") for i in range(layers)]
    names = [f"cells.{i}.weight_hh" if loop else f"weight_hh_l{i}" for i in range(layers)]
    assert sorted(found) == names
    layered: list[Unrolled] = []
    for module, suffix in places:
        layered.append(Unrolled(kind, module, suffix, layered[-1].outputs if layered else x))
    value = loss((torch.stack(layered[-1].outputs),))
    for name, unrolled in zip(names, layered, strict=True):
        assert same(found[name], *unrolled.expected(value)), name


@every_kind
@every_loss
def test_a_loop_over_cells_in_float32(kind: str, loss: Any) -> None:
    torch.manual_seed(9)
    net, x = Cells(kind), torch.randn(6, 2, 3)
    (found,) = gm.measure(net, (x, None), loss).recurrences
    unrolled = Unrolled(kind, net.double().cells[0], "", x.double())
    assert same(found, *unrolled.expected(loss((torch.stack(unrolled.outputs),))), 1e-3)


@every_kind
def test_both_ways_through_time(kind: str) -> None:
    torch.manual_seed(8)
    net, x = getattr(nn, kind)(3, 4, bidirectional=True).to(D), torch.randn(6, 2, 3, dtype=D)
    found = {r.parameter: r for r in gm.measure(net, (x, None), at_every_step).recurrences}
    assert sorted(found) == ["weight_hh_l0", "weight_hh_l0_reverse"]
    there, back = Unrolled(kind, net, "_l0", x), Unrolled(kind, net, "_l0_reverse", x.flip(0))
    value = at_every_step((torch.cat([torch.stack(there.outputs), torch.stack(back.outputs[::-1])], -1),))
    assert same(found["weight_hh_l0"], *there.expected(value))
    assert same(found["weight_hh_l0_reverse"], *back.expected(value))


@every_kind
@pytest.mark.parametrize("lengths", [[6, 6], [6, 4]])
def test_packed_sequences(kind: str, lengths: list[int]) -> None:
    def run(t: Any, net: Any, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
        return nn.utils.rnn.pad_packed_sequence(net.r(packed)[0])[0]

    torch.manual_seed(12)
    net, x = Net(run, r=lambda: getattr(nn, kind)(3, 4)).to(D), torch.randn(6, 2, 3, dtype=D)
    (found,) = gm.measure(net, (x, None), mse).recurrences
    alone = Unrolled(kind, net.r, "_l0", x)
    mask = torch.tensor([[t < n for n in lengths] for t in range(6)])[..., None]
    assert found.parameter == "r.weight_hh_l0"
    assert same(found, *alone.expected(mse(torch.stack(alone.outputs) * mask)))


# -- the same weights at work on two sequences ------------------------------------------------------------------------


def check_one_of_two(found: gm.Recurrence, both: list[Unrolled], loss: Tensor) -> None:
    """What is told is of one of them, or of the two step by step."""
    parts = [unrolled.expected(loss) for unrolled in both]
    (a, g), (b, h) = parts
    norms = [math.hypot(*pair) for pair in zip(a, b, strict=True)]
    passed = [math.hypot(u * x, v * y) for u, x, v, y in zip(g, a[1:], h, b[1:], strict=True)]
    parts.append((norms, [p / n for p, n in zip(passed, norms[1:], strict=True)]))
    assert any(same(found, *part) for part in parts), (found, parts)
    assert not {"mul", "mse_loss", "getitem", "stack"} & found.by.keys()


@pytest.mark.parametrize("seed", range(6))
def test_one_recurrent_layer_on_two_sequences(seed: int) -> None:
    torch.manual_seed(seed)
    net = Net(lambda t, net, x: net.r(x)[0][-1] * net.r(x.flip(0))[0][-1], r=lambda: nn.RNN(3, 4)).to(D)
    x = torch.randn(6, 2, 3, dtype=D)
    recurrences = gm.measure(net, (x, None), mse).recurrences
    both = [Unrolled("RNN", net.r, "_l0", xs) for xs in (x, x.flip(0))]
    value = mse(both[0].outputs[-1] * both[1].outputs[-1])
    assert len(recurrences) == 2
    for found in recurrences:
        check_one_of_two(found, both, value)


@pytest.mark.parametrize("cut", [3, 4, 5])
def test_a_sequence_that_is_cut_in_the_middle(cut: int) -> None:
    """As in truncated backpropagation: two stretches, the second from what the first has left."""

    def run(t: Any, net: Any, x: Tensor) -> tuple[Tensor]:
        h, out = torch.zeros(2, 4, dtype=D), []
        for i, x_t in enumerate(x):
            h = net.cell(x_t, h.detach() if i == cut else h)
            out.append(h)
        return (torch.stack(out),)

    torch.manual_seed(11)
    net, x = Net(run, cell=lambda: nn.GRUCell(3, 4)).to(D), torch.randn(2 * cut, 2, 3, dtype=D)
    (found, *rest) = gm.measure(net, (x, None), at_every_step).recurrences
    first = Unrolled("GRU", net.cell, "", x[:cut])
    second = Unrolled("GRU", net.cell, "", x[cut:], (first.outputs[-1].detach(),))
    assert len(rest) <= 1
    check_one_of_two(found, [first, second], mse(torch.stack(first.outputs + second.outputs)))


# -- bounds and horizons ----------------------------------------------------------------------------------------------


def own(act: Callable[[Tensor], Tensor]) -> nn.Module:
    """A recurrence as people write it, with any squashing function."""

    def run(t: Any, net: Any, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[1], 5)
        for x_t in x:
            h = act(net.u(x_t) + net.w(h))
        return h

    return Net(run, u=linear(3, 5), w=linear(5, 5))


@pytest.mark.parametrize(("act", "bound"), [(torch.sigmoid, 9.094947017729282e-13), (torch.tanh, 1.0), (F.gelu, None)])
@pytest.mark.parametrize("embedded", [False, True])
def test_the_bound_of_a_recurrence(act: Any, bound: float | None, embedded: bool) -> None:
    torch.manual_seed(10)
    net, x = own(act).to(D), torch.randn(20, 2, 3, dtype=D)
    if embedded:
        net = nn.Sequential(nn.Linear(3, 3), net, nn.Linear(5, 2)).to(D)
    (found,) = gm.measure(net, (x, None), mse).recurrences
    assert (found.steps, found.bound) == (20, bound)
    assert found.parameter == ("1.w.weight" if embedded else "w.weight")
    head = net[2] if embedded else nn.Identity()
    xs, inner = (net[0](x), net[1]) if embedded else (x, net)
    h, states = torch.zeros(2, 5, dtype=D), []
    for x_t in xs:
        h = act(inner.u(x_t) + inner.w(h))
        states.append(h)
    norms = [g.norm().item() for g in torch.autograd.grad(mse(head(h)), states)]
    assert same(found, norms, [a / b for a, b in pairwise(norms)])
    assert found.by.keys() >= {found.parameter, act.__name__}
    assert math.isclose(sum(found.by.values()), math.log10(norms[0] / norms[-1]) / 19, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("factor", "steps", "horizon"),
    [
        (0.5, 12, 7.0),
        (0.5, 5, math.log(0.01) / math.log(0.5)),
        (0.05, 10, 2.0),
        (0.99, 30, math.log(0.01) / math.log(0.99)),
        (1.5, 8, math.inf),
    ],
)
def test_the_horizon(factor: float, steps: int, horizon: float) -> None:
    """Multiplies the state with a rotation of known size, step after step."""

    def run(t: Any, net: Any, x: Tensor) -> Tensor:
        h = net.first(x)
        for _ in range(steps):
            h = net.w(h)
        return h

    torch.manual_seed(11)
    net = Net(run, first=linear(), w=lambda: nn.Linear(4, 4, bias=False)).to(D)
    with torch.no_grad():
        net.w.weight.copy_(torch.linalg.qr(net.w.weight)[0] * factor)
    (found,) = gm.measure(net, (torch.randn(3, 4, dtype=D), None), mse).recurrences
    assert found.steps == steps
    assert all(math.isclose(g, factor, rel_tol=1e-9) for g in found.gains)
    assert math.isclose(found.horizon, horizon, rel_tol=1e-6)
    assert found.by.keys() == {"w.weight"}
    assert math.isclose(found.by["w.weight"], math.log10(factor), rel_tol=1e-9)


# -- which gate it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("dtype", [D, torch.float32])
@pytest.mark.parametrize("matrix", [0.01, 1.0], ids=["and nothing else", "and a way around it"])
def test_a_shut_forget_gate_is_named(loop: bool, dtype: torch.dtype, matrix: float) -> None:
    torch.manual_seed(12)
    net = (Cells("LSTM") if loop else nn.LSTM(3, 4)).to(dtype)
    biases = net.cells[0].bias_ih if loop else net.bias_ih_l0
    x = torch.randn(8, 2, 3, dtype=dtype)
    with torch.no_grad():
        (net.cells[0].weight_hh if loop else net.weight_hh_l0).mul_(matrix)
        biases[4:8] = 6.0
    (kept,) = gm.measure(net, (x, None), at_the_end).recurrences
    assert abs(kept.by["forget gate"]) < 0.05
    with torch.no_grad():
        biases[4:8] = -3.0
    (lost,) = gm.measure(net, (x, None), at_the_end).recurrences
    assert min(lost.by, key=lost.by.__getitem__) == "forget gate"
    assert lost.by["forget gate"] < -0.5
    assert kept.horizon > lost.horizon


@pytest.mark.parametrize("loop", [False, True])
def test_the_update_gate_is_named(loop: bool) -> None:
    torch.manual_seed(13)
    net = (Cells("GRU") if loop else nn.GRU(3, 4)).to(D)
    with torch.no_grad():
        (net.cells[0].bias_ih if loop else net.bias_ih_l0)[4:8] = 8.0
    (found,) = gm.measure(net, (torch.randn(8, 2, 3, dtype=D), None), at_the_end).recurrences
    assert abs(found.by["update gate"]) < 0.01
    assert all(abs(g - 1) < 0.01 for g in found.gains)


def test_no_recurrence_where_there_is_none() -> None:
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6))).to(D)
    assert gm.measure(net, (torch.randn(3, 4, dtype=D), None), mse).recurrences == ()
