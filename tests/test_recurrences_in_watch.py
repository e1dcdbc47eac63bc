"""A fused recurrent layer under watch: replayed step by step it tells what an unfused one does, and changes nothing."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradiometer as gm
from gradiometer.probe import fused
from ledger_tape import near
from test_recurrences import Unrolled

D = torch.float64
Loss = Callable[[Any], Tensor]

LOSSES: dict[str, Loss] = {
    "last output": lambda y: y[0].select(0 if y[0].dim() == 2 else 1, -1).square().sum(),
    "every output": lambda y: y[0].square().sum(),
    "last state": lambda y: (y[1][0] if isinstance(y[1], tuple) else y[1]).sin().sum(),
    "cell": lambda y: (y[1][-1] if isinstance(y[1], tuple) else y[1]).square().sum(),
    "all of it": lambda y: torch.stack([t.square().sum() for t in (y[0], *y[1])]).sum(),
}


def watched(layer: Any, x: Tensor, loss: Loss, *more: Any, steps: int = 1) -> gm.Run:
    optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.0)
    with gm.watch(layer, optimizer, every=1) as watch:
        for _ in range(steps):
            loss(layer(x, *more)).backward()
            optimizer.step()
    assert watch.run.notes == ()
    return watch.run


# -- against autograd through an unfused layer in float64 -------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {},
    "large weights": {},
    "projection": {"proj_size": 2},
    "two layers": {"num_layers": 2},
    "no bias": {"bias": False},
    "both ways": {"bidirectional": True},
    "two layers both ways": {"bidirectional": True, "num_layers": 2},
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("kind", "shape"),
    [(k, s) for k in ("LSTM", "GRU", "RNN", "ReLU") for s in SHAPES if k == "LSTM" or s != "projection"],
)
def test_a_replay_tells_what_the_ledger_tells_of_an_unfused_layer(
    kind: str, shape: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU these are unfused in float64, so that both are there: first the ledger's, then the replay's."""
    monkeypatch.setattr(fused, "_is_fused", lambda _: True)
    torch.manual_seed(4)
    relu = {"nonlinearity": "relu"} if kind == "ReLU" else {}
    layer = getattr(nn, kind.replace("ReLU", "RNN"))(3, 5, batch_first=True, **SHAPES[shape], **relu).to(D)
    if shape == "large weights":
        layer.weight_hh_l0.data *= 1.4 if kind == "ReLU" else 8
    state = torch.randn(len(layer.all_weights), 4, 5, dtype=D)
    given = (state[..., : layer.proj_size or 5].contiguous(), state.cos()) if kind == "LSTM" else state
    (reading,) = watched(layer, torch.randn(4, 9, 3, dtype=D), LOSSES[loss], given).readings
    names = [name for names in layer._all_weights for name in names if "weight_hh" in name]
    ledger = {r.parameter: r for r in reading.recurrences[: -len(names)]}
    assert [r.parameter for r in reading.recurrences[-len(names) :]] == names
    for found in reading.recurrences[-len(names) :]:
        same = ledger[found.parameter]
        assert (found.site, found.model, found.steps) == (same.site, same.model, same.steps)
        assert kind == "LSTM" or found.bound == same.bound
        assert all(near(a, b, 1e-9) for a, b in zip(found.gradients, same.gradients, strict=True))
        assert all(near(a, b, 1e-9) for a, b in zip(found.gains, same.gains, strict=True))
        assert near(found.horizon, same.horizon, 1e-9)
        if all(same.gradients):  # a mean over steps that no gradient comes to is minus infinity in the ledger
            assert parts(found.by).keys() == parts(same.by).keys()
            assert all(near(parts(found.by)[name], change, 1e-9) for name, change in parts(same.by).items())


def parts(by: Mapping[str, float]) -> dict[str, float]:
    """Without what neither grows nor shrinks anything, and torch's splitting of the gates by its plain name."""
    return {name.replace("unsafe_split", "split"): change for name, change in by.items() if abs(change) > 1e-12}


def lstm(**options: Any) -> Any:
    torch.manual_seed(5)
    return nn.LSTM(3, 6, batch_first=True, **options)


@pytest.mark.parametrize("loss", ["last output", "every output"])
def test_the_gradient_by_time_step_of_a_fused_lstm(loss: str) -> None:
    layer, x = lstm(), torch.randn(4, 12, 3)
    (found,) = watched(layer, x, LOSSES[loss]).readings[0].recurrences
    unrolled = Unrolled("LSTM", layer.double(), "_l0", x.double().transpose(0, 1))
    norms, gains = unrolled.expected(LOSSES[loss]((torch.stack(unrolled.outputs, 1),)))
    assert (found.parameter, found.steps, found.site) == ("weight_hh_l0", 12, "lstm")
    assert all(near(a, b, 1e-4) for a, b in zip(found.gradients, norms, strict=True))
    assert all(near(a, b, 1e-4) for a, b in zip(found.gains, gains, strict=True))


@pytest.mark.parametrize("forget", [-5.0, 1.0, 6.0])
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_what_a_step_is_made_of(forget: float, scale: float) -> None:
    """The operations on the way, as `measure` names them; where the matrix brings more than the cell, other ones."""
    layer, x = lstm(), torch.randn(4, 12, 3)
    with torch.no_grad():
        layer.bias_hh_l0[6:12] += forget
        layer.weight_hh_l0 *= scale
    loss = LOSSES["last output"]
    (found,) = watched(layer, x, loss).readings[0].recurrences
    (same,) = gm.measure(layer.double(), (x.double(), None), lambda y, _: loss(y)).recurrences
    assert "forget gate" in found.by
    assert parts(found.by).keys() == parts(same.by).keys()
    assert all(near(parts(found.by)[name], change, 1e-3) for name, change in parts(same.by).items())


def test_of_a_large_batch_a_few_examples_speak() -> None:
    layer, x = lstm(), torch.randn(1, 12, 3)
    (one,) = watched(layer, x, LOSSES["every output"]).readings[0].recurrences
    (many,) = watched(layer, x.expand(100, 12, 3).contiguous(), LOSSES["every output"]).readings[0].recurrences
    assert all(near(a * 10, b, 1e-5) for a, b in zip(one.gradients, many.gradients, strict=True))
    assert all(near(a, b, 1e-5) for a, b in zip(one.gains, many.gains, strict=True))


@pytest.mark.parametrize("layers", [1, 2])
def test_of_a_long_sequence_the_last_steps(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = lstm(num_layers=layers), torch.randn(4, 20, 3)
    whole = watched(layer, x, LOSSES["every output"]).readings[0].recurrences
    monkeypatch.setattr("gradiometer.probe.fused.STEPS", 8)
    monkeypatch.setattr("gradiometer.probe.replays.STEPS", 8)
    for found, all_of_it in zip(watched(layer, x, LOSSES["every output"]).readings[0].recurrences, whole, strict=True):
        assert (found.steps, all_of_it.steps) == (8, 20)
        assert all(near(a, b, 1e-5) for a, b in zip(found.gradients, all_of_it.gradients[-8:], strict=True))


def test_gradients_below_the_smallest_number_of_float32() -> None:
    layer, x = lstm(), torch.randn(4, 200, 3)
    (found,) = watched(layer, x, LOSSES["last output"]).readings[0].recurrences
    assert 0 < found.gradients[0] < 1e-38
    assert all(0.1 < gain < 1 for gain in found.gains)


def test_the_scale_of_a_gradient_scaler_is_taken_out() -> None:
    layer, x = lstm(), torch.randn(4, 12, 3)
    (plain,) = watched(layer, x, LOSSES["last output"]).readings[0].recurrences
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=1024.0), torch.optim.SGD(layer.parameters(), lr=0.0)
    with gm.watch(layer, optimizer, every=1) as watch:
        scaler.scale(LOSSES["last output"](layer(x))).backward()
        scaler.step(optimizer)
    (scaled,) = watch.run.readings[0].recurrences
    assert all(near(a, b, 1e-5) for a, b in zip(scaled.gradients, plain.gradients, strict=True))


# -- where there is nothing to replay ---------------------------------------------------------------------------------


def recurrences(net: nn.Module, act: Callable[[nn.Module, torch.optim.Optimizer], None]) -> list[int]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with gm.watch(net, optimizer, every=1) as watch:
        act(net, optimizer)
    assert watch.run.notes == ()
    return [r.steps for r in watch.run.readings[0].recurrences]


def step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Any = None) -> None:
    LOSSES["last state"](net(torch.randn(4, 12, 3) if x is None else x)).backward()
    optimizer.step()


def test_of_what_is_not_finite_nothing_is_said() -> None:
    assert recurrences(lstm(), lambda net, o: step(net, o, torch.full((4, 12, 3), math.nan))) == []


def test_an_evaluation_before_the_step_is_no_part_of_it() -> None:
    def act(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(20):
            net(torch.randn(4, 30, 3))
        step(net, optimizer)

    assert recurrences(lstm(), act) == [12]


def test_of_accumulated_batches_the_first() -> None:
    def act(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for steps in (12, 20):
            LOSSES["last output"](net(torch.randn(4, steps, 3))).backward()
        optimizer.step()

    assert recurrences(lstm(), act) == [12]


def test_packed_and_short_sequences() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(4, 12, 3), torch.tensor([12, 7, 5, 3]), batch_first=True)
    assert recurrences(lstm(), lambda net, o: step(net, o, packed)) == [12]  # torch runs these step by step itself
    assert recurrences(lstm(), lambda net, o: step(net, o, torch.randn(4, 2, 3))) == []


def test_a_layer_whose_output_a_hook_may_change() -> None:
    layer = lstm()
    layer.register_forward_hook(lambda _, __, y: (2 * y[0], y[1]))
    assert recurrences(layer, step) == []


def test_weights_that_change_in_the_backward_pass() -> None:
    layer = lstm()
    for p in layer.parameters():
        p.register_post_accumulate_grad_hook(lambda p: p.data.dtype and torch.no_grad()(p.mul_)(0.5))
    assert recurrences(layer, step) == []


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return func(*args, **(kwargs or {}))


def test_nobody_who_counts_operations_counts_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        with counting:
            step(net, optimizer)

    counting = Counting()
    assert recurrences(lstm(), act) == []
    seen, counting.seen = counting.seen, 0
    monkeypatch.setattr(fused, "_KINDS", ())
    assert recurrences(lstm(), act) == []
    assert counting.seen == seen


# -- nothing is changed, and nothing kept -----------------------------------------------------------------------------


class Reader(nn.Module):
    """An LSTM and a readout of what ``read`` makes of its output."""

    def __init__(self, read: Callable[[Any], Tensor], outputs: int = 6, **options: Any) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, **options)
        self.read, self.out, self.state = read, nn.Linear(outputs, 2), None
        self.carries = False

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.lstm(x, self.state)
        self.state = tuple(s.detach() for s in state) if self.carries else None
        return self.out(self.read((y, state)))


def _last(y: Any) -> Tensor:
    return y[0][:, -1]


def _carrying() -> Reader:
    net = Reader(_last, batch_first=True)
    net.carries = True
    return net


def _frozen(part: str) -> Reader:
    net = Reader(_last, batch_first=True)
    for name, p in net.lstm.named_parameters():
        p.requires_grad_(part not in name)
    return net


def _hooked() -> Reader:
    def read(y: Any) -> Tensor:
        y[0].register_hook(lambda g: 0.5 * g)
        return y[0][:, -1]

    return Reader(read, batch_first=True)


NETS: dict[str, Callable[[], nn.Module]] = {
    "one layer": lambda: Reader(lambda y: y[0][-1]),
    "two layers, batch first": lambda: Reader(_last, batch_first=True, num_layers=2),
    "last state only": lambda: Reader(lambda y: y[1][0][-1], batch_first=True),
    "cell only": lambda: Reader(lambda y: y[1][1][-1], batch_first=True),
    "state carried from batch to batch": _carrying,
    "projection": lambda: Reader(_last, 4, batch_first=True, proj_size=4),
    "dropout between layers": lambda: Reader(_last, batch_first=True, num_layers=3, dropout=0.3),
    "float64": lambda: Reader(_last, batch_first=True).double(),
    "bfloat16": lambda: Reader(_last, batch_first=True).bfloat16(),
    "no bias": lambda: Reader(_last, batch_first=True, bias=False),
    "both ways": lambda: Reader(_last, 12, batch_first=True, bidirectional=True),
    "frozen matrix": lambda: _frozen("weight_hh"),
    "all frozen": lambda: _frozen("l0"),
    "changed in place": lambda: Reader(lambda y: y[1][0].mul_(2.0)[-1], batch_first=True),
    "a hook on the output": _hooked,
}


def trained(name: str, options: dict[str, Any] | None, steps: int = 4) -> tuple[list[Tensor], gm.Run | None]:
    torch.manual_seed(7)
    net = NETS[name]()
    dtype = next(net.parameters()).dtype
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.01)
    watch = None if options is None else gm.watch(net, optimizer, **options)
    seen: list[Tensor] = []
    packed: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(1) or t, lambda t: t)
    with watch or nullcontext(), hooks if "hook" in name else nullcontext():
        for _ in range(steps):
            optimizer.zero_grad()
            x, y = torch.randn(12, 12, 3, dtype=dtype), torch.randint(2, (12,))
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            seen += [loss.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]
    seen += [*net.state_dict().values(), torch.get_rng_state(), torch.tensor(len(packed))]
    return seen, None if watch is None else watch.run


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("options", [{"every": 1}, {}], ids=["every step", "default"])
@pytest.mark.parametrize("name", NETS)
def test_training_is_the_same_to_the_bit(name: str, options: dict[str, Any]) -> None:
    plain, _ = trained(name, None)
    seen, run = trained(name, options)
    assert run is not None
    assert run.notes == ()
    assert len(plain) == len(seen)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    assert bool(run.readings[0].recurrences) == ("frozen" not in name)


def test_a_gradient_that_a_hook_halves_is_half() -> None:
    layer, x = lstm(), torch.randn(4, 12, 3)

    def half(y: Any) -> Tensor:
        y[0].register_hook(lambda g: 0.5 * g)
        return LOSSES["last output"](y)

    (halved,), (whole,) = (watched(layer, x, loss).readings[0].recurrences for loss in (half, LOSSES["last output"]))
    assert all(near(2 * a, b, 1e-6) for a, b in zip(halved.gradients, whole.gradients, strict=True))


def test_nothing_is_alive_after_the_step() -> None:
    layer = lstm()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    kept: list[weakref.ref[Tensor]] = []
    before = {id(o) for o in gc.get_objects() if type(o) is Tensor}
    gc.disable()
    try:
        with gm.watch(layer, optimizer, every=1) as watch:
            x = torch.randn(4, 12, 3)
            y, state = layer(x)
            kept += [weakref.ref(t) for t in (x, y, *state)]
            y.square().sum().backward()
            del x, y, state
            optimizer.step()
            assert not any(ref() is not None for ref in kept)
            mine = [o for o in gc.get_objects() if type(o) is Tensor and id(o) not in before]
            assert not [t.shape for t in mine if t.dtype == D]
    finally:
        gc.enable()
    assert len(watch.run.readings[0].recurrences) == 1


# -- what comes of it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forget", "kinds"), [(-5.0, ["vanishing_gradient"]), (4.0, [])])
def test_shut_forget_gates_are_told(forget: float, kinds: list[str]) -> None:
    torch.manual_seed(0)
    net: Any = Reader(_last, batch_first=True)
    with torch.no_grad():
        net.lstm.bias_hh_l0[6:12] = forget
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    with gm.watch(net, optimizer) as watch:
        for _ in range(120):
            optimizer.zero_grad()
            F.cross_entropy(net(torch.randn(16, 30, 3)), torch.randint(2, (16,))).backward()
            optimizer.step()
    found = [f for f in gm.diagnose(watch.run) if f.severity != "info"]
    assert [f.kind for f in found if f.kind == "vanishing_gradient"] == kinds
    for finding in found[: len(kinds)]:
        assert finding.sites[0] == "lstm.weight_hh_l0 at time step 1"
        assert "forget gate" in finding.explanation
        assert math.isfinite(finding.evidence["decades"])
