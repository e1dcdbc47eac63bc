"""`measure`: it leaves no trace, says the truth of what the training does, and refuses in words."""

from __future__ import annotations

import copy
import gc
import math
import random
import re
import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import gradiometer as gm
from measured import CASES, Case, Classifier, Cubic, Sigmoid, assert_same, bits, one, pair, parts, places, state
from trainings import KINDS, Net, Training, mlp, plain

pytestmark = pytest.mark.filterwarnings(r"ignore:::torch\..*")  # what torch says of its own compilers
UNTOUCHED = places()
UNFUSED = ("rnn", "lstm", "gru", "packed_sequence")  # the same as in the training up to rounding


def seed() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)


_seeded = pytest.fixture(autouse=True)(seed)


def build(name: str) -> Case:
    seed()
    torch._dynamo.reset()
    return CASES[name]()


def measured(made: Case) -> gm.records.Reading:
    return gm.measure(made.model, made.batch, made.loss)


@pytest.mark.parametrize("name", CASES)
def test_no_trace_is_left_and_there_is_a_ledger(name: str) -> None:
    made = build(name)
    given = [x for x in made.batch if isinstance(x, nn.Parameter)]
    for p in (*given, *(p for p in made.model.parameters() if p.requires_grad))[::2]:
        p.grad = torch.randn_like(p)
    before = state(made.model, made.batch, made.loss)
    reading, again = measured(made), measured(made)
    assert_same(before, state(made.model, made.batch, made.loss))
    for key in ("sites", "parameters", "ledger", "recurrences", "loss", "birth"):
        assert repr(getattr(again, key)) == repr(getattr(reading, key)) or name.startswith("scripted")  # it optimizes
    rows = [row for row in reading.ledger if row.operation not in ("fork", "hook")]
    assert rows
    assert all(row.site and row.operation for row in rows)
    assert len({row.site for row in rows}) == len(rows)
    assert math.log10(reading.ledger.end_rms) == pytest.approx(reading.ledger.total, abs=1e-4)
    assert reading.birth is None
    # No detach of these is a cut; the zeros that a recurrence begins with let nothing pass.
    assert all(row.gain for row in rows) or name in UNFUSED


@pytest.mark.parametrize("name", CASES)
def test_a_training_is_told_the_truth_and_goes_on_between_forward_and_backward(name: str) -> None:
    results = []
    for measuring in (False, True):
        made = build(name)
        other = Case(made.model, copy.deepcopy(made.batch), made.loss)
        reading = measured(other) if measuring else None
        loss = made.plain()
        if measuring:
            measured(other)
        loss.backward()
        results.append([None if p.grad is None else bits(p.grad) for p in made.model.parameters()])
    assert results[0] == results[1]
    assert reading.loss == pytest.approx(loss.item(), rel=1e-5 if name in UNFUSED else 0, abs=0)
    rows = {row.name: row.grad_rms for row in reading.parameters}
    for path, p in made.model.named_parameters():
        assert (rows[path] is None) == (p.grad is None), path
        if p.grad is not None and not p.is_complex():
            rms = p.grad.to_dense().double().square().mean().sqrt().item()
            assert rows[path] == pytest.approx(rms, rel=1e-4 if p.dtype.itemsize >= 4 else 2e-2), path


CONTEXTS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "gradients off for good": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a mode of the user's": lambda: torch.device("cpu"),
    "saved tensors elsewhere": torch.autograd.graph.save_on_cpu,
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("how", CONTEXTS)
def test_inside_a_context_of_the_users(how: str) -> None:
    with CONTEXTS[how]():
        made = build("batch_norm")
        with torch.no_grad():  # autocast keeps its copies of the weights, and those of an evaluation have no graph
            made.model.eval()(made.batch[0])
        before = state(made.model.train(), made.batch)
        reading = measured(made)
        assert_same(before, state(made.model, made.batch))
        with torch.enable_grad():
            loss = made.plain()
    assert reading.loss == loss.item()
    assert len(reading.ledger) >= 6
    assert all(row.grad_rms for row in reading.parameters)
    assert places() == UNTOUCHED


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, gm.InputError, RuntimeError])
@pytest.mark.parametrize("where", ["forward", "loss", "backward", "hook", "checkpoint", "recurrent"])
def test_no_trace_is_left_by_a_pass_that_fails(where: str, error: type[BaseException]) -> None:
    def fail(*_: Any) -> Any:
        m.calls += 1
        raise error

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        m.calls += 1
        x = m.body(x.mul_(2) + torch.randn(()))
        m.rnn(x[None])
        if where == "backward":
            x.register_hook(fail)
        if where == "checkpoint":
            return checkpoint(fail, x, use_reentrant=True)
        return fail() if where == "forward" else x

    m, batch = Net(forward, body=mlp(nn.BatchNorm1d(8), nn.Dropout(0.1)), rnn=nn.LSTM(3, 3), calls=0), pair()
    if where in ("hook", "recurrent"):  # a recurrent layer fails while such layers run unfused
        (m.rnn if where == "recurrent" else m.body[0]).register_forward_hook(fail)
    for p in m.body[0].parameters():
        p.grad = torch.ones_like(p)
    before = state(m, batch)
    with pytest.raises(error):
        gm.measure(m, batch, fail if where == "loss" else F.mse_loss)
    assert_same(before, state(m, batch))


def test_what_the_users_code_raises_is_not_ours() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        gm.measure(mlp(nn.BatchNorm1d(8)), pair(1, 6), F.mse_loss)
    with pytest.raises(RuntimeError, match="shapes"):
        gm.measure(mlp(), pair(8, 5), F.mse_loss)


def test_activations_do_not_wait_for_the_garbage_collector() -> None:
    # On an accelerator they would fill its memory, where Python sees no reason to collect anything.
    model, seen = mlp(nn.LayerNorm(8)), []
    for module in model:
        module.register_forward_hook(lambda m, args, y: seen.append(weakref.ref(y)))
    gc.disable()
    try:
        gm.measure(model, pair(), F.mse_loss)
        assert [ref() is None for ref in seen] == [True] * len(model)
    finally:
        gc.enable()


def test_graphs_that_others_keep_can_still_be_gone_back_through() -> None:
    body = parametrizations.weight_norm(nn.Linear(6, 3))
    first, model = nn.Linear(6, 6), Net(lambda m, x: m.body(x) + m.kept, body=body)
    with parametrize.cached():  # weights, and an encoding, that are computed once for several passes
        x, y = first(torch.randn(8, 6)).tanh(), torch.randn(8, 3)  # what comes out of another network
        kept = model.kept = model.body(x)
        loss = F.mse_loss(model(x), y)
        gm.measure(model, (x, y), F.mse_loss)
        assert first.weight.grad is None
        assert model.kept is kept
        assert (kept._backward_hooks or {}, kept.grad_fn.metadata) == ({}, {})
        loss.backward()
    assert first.weight.grad is not None


@pytest.mark.parametrize("function", [Cubic, Sigmoid])
def test_every_way_is_gone_once(function: type[Sigmoid]) -> None:
    called: list[str] = []
    made = one(lambda m, x: m.b(function.apply(m.a(x))), **parts())
    made.model.register_forward_pre_hook(lambda m, args: called.append("model"))
    nodes = [p.expand_as(p).grad_fn.next_functions[0][0] for p in made.model.parameters()]
    for p, node in zip(made.model.parameters(), nodes, strict=True):
        p.register_hook(lambda g: called.append("parameter"))
        p.register_post_accumulate_grad_hook(lambda p: called.append("a step of an optimizer in backward"))
        node.register_hook(lambda *_: called.append("sent to the others of a parallel training"))
    Sigmoid.ways.clear()
    gm.measure(made.model, made.batch, lambda y, t: called.append("loss") or F.mse_loss(y, t))
    assert called == ["model", "loss", *["parameter"] * 4]
    assert Sigmoid.ways == ["forward", "backward"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_is_seen_once_and_computed_at_most_twice(reentrant: bool) -> None:
    batch, modules = pair(), {"inner": mlp(), **parts(6)}

    runs: list[Any] = [lambda act, x: act(x), partial(checkpoint, use_reentrant=reentrant)]
    plain, again = (
        Net(lambda m, x, run=run: run(lambda x: m.inner(Cubic.apply(x)).relu(), m.a(x)), **modules) for run in runs
    )
    expected = gm.measure(plain, batch, F.mse_loss)
    Sigmoid.ways.clear()
    reading = gm.measure(again, batch, F.mse_loss)
    assert Sigmoid.ways in (["forward", "backward"], ["forward", "forward", "backward"])
    assert [s.name for s in reading.sites] == [s.name for s in expected.sites]
    assert [(r.site, r.cause) for r in reading.ledger] == [(r.site, r.cause) for r in expected.ledger]
    assert [r.gain for r in reading.ledger] == pytest.approx([r.gain for r in expected.ledger], rel=1e-6)


def test_a_compiled_model_is_not_compiled_again() -> None:
    torch._dynamo.reset()
    compiled: list[Any] = []
    made = Case(mlp(nn.BatchNorm1d(8)), pair())
    made.model = torch.compile(made.model, backend=lambda graph, inputs: compiled.append(graph) or graph.forward)
    counts = [(act(), len(compiled))[1] for act in (made.plain, lambda: measured(made), made.plain)]
    assert counts[0] == 1
    assert counts[1] == counts[2] <= 2  # the copy of the input wants a gradient, and that is another program


def test_what_runs_in_a_transformer_in_evaluation_has_its_place() -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), mlp()).eval()
    reading = gm.measure(model, (torch.randn(4, 5, 6), torch.randn(4, 5, 3)), F.mse_loss)
    assert {row.site[0] for row in reading.ledger if row.cause != "loss" and row.site != "input"} == {"0", "1"}


def optimizer_in_backward() -> Training:
    training = plain(mlp())
    for p in training.model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "data", p.data - 0.1 * p.grad))
    return training


NAMES = """perceptron conv_batchnorm_inplace checkpoint_reentrant checkpoint_nonreentrant lstm accumulation
           tied_weights_and_repeated_calls no_optimizer"""
TRAININGS = {name: KINDS[name] for name in NAMES.split()} | {"optimizer_in_backward": optimizer_in_backward}
INPUTS = {"conv_batchnorm_inplace": (4, 2, 10, 10), "lstm": (4, 7, 6)}


def train(name: str, where: str, watching: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], Any, int]:
    seed()
    given, backward, count = torch.randn(*INPUTS.get(name, (8, 6))), Tensor.backward, 0
    training = TRAININGS[name]()

    def look(*_: Any) -> None:
        nonlocal count
        before = state(training.model)
        gm.measure(training.model, (given, None), lambda y, _: y.square().mean())
        assert_same(before, state(training.model))
        count += 1

    watch = gm.watch(training.model, training.optimizers or None, every=2) if watching else None
    with monkeypatch.context() as patch, watch or nullcontext():
        for optimizer in training.optimizers if where == "before step" else ():
            optimizer.register_step_pre_hook(look)
        if where == "before backward":
            patch.setattr(Tensor, "backward", lambda *args, **options: (look(), backward(*args, **options))[1])
        seen = []
        for i in range(2):
            if where == "before forward":
                look()
            seen += training.step(i)
    seen += [*training.model.state_dict().values(), *(p.grad for p in training.model.parameters())]
    seen += [v for o in training.optimizers for kept in o.state.values() for v in kept.values()]
    seen = [bits(v) if isinstance(v, Tensor) else v for v in (*seen, torch.get_rng_state())]
    return [seen, random.getstate()], watch and watch.run, count


@pytest.mark.parametrize("watching", [False, True], ids=["alone", "in a watch"])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_the_same_if_measured(name: str, watching: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, run, _ = train(name, "nowhere", watching, monkeypatch)
    for where in ("before forward", "before backward", "before step"):
        result, seen, count = train(name, where, watching, monkeypatch)
        assert count or (name, where) == ("no_optimizer", "before step")
        assert result == expected, where
        assert places() == UNTOUCHED, where
        if run is not None:
            assert (seen.steps, seen.notes, seen.finished) == (run.steps, (), True)
            assert repr(seen.losses()) == repr(run.losses())
            for key in ("step", "optimizer", "loss", "passes", "loss_operations", "sites", "parameters"):
                assert repr([getattr(r, key) for r in seen.readings]) == repr([getattr(r, key) for r in run.readings])


def blame(m: nn.Module, x: Tensor) -> Tensor:
    early = torch.no_grad()(m.body)(x)
    y = (m.body(x) - early).detach()
    m.size = torch.no_grad()(m.body)(x).norm()  # watched only
    return y


net = partial(Net, body=mlp())
with torch.inference_mode():
    INFERRED, INFERRED_MODEL = pair(), mlp()
FORM, ITEM = r"\(inputs, targets\)", r"!\.item\(\)"
OUTSIDE = ("no parameter", "!without one", "!numpy")
FRESH, X, Y = nn.Parameter(torch.ones(())), *pair()
REFUSED: dict[str, list[tuple[Any, ...]]] = {  # words that a text must have, and, after a !, that it must not
    "loss": [
        (lambda y, t: y.mean().item(), "loss is (an? )?float", r"\.item\(\)|float\(\)"),
        (lambda y, t: 0, "loss is (an? )?int", r"\.item\(\)|float\(\)"),
        (lambda y, t: None, "loss", "None", "return", "!NoneType", ITEM),
        (lambda y, t: (y.mean(), {}), "tuple", ITEM),
        ("mse_loss", "loss", "str"),
        (nn.MSELoss, "loss", "MSELoss"),
        (None, r"loss\(outputs, targets\)"),
        (nn.MSELoss(reduction="none"), r"\(8, 3\)", "mean or sum"),
        (lambda y, t: torch.complex(y, t).mean(), "complex", "real"),
        (torch.no_grad()(F.mse_loss), "no graph", "no_grad", "loss"),
        (lambda y, t: torch.tensor(1.0), "no graph", "constant|output", "!numpy"),
        (lambda y, t: FRESH * 2, "output", *OUTSIDE),
    ],
    "model": [
        *((model, "torch.nn.Module") for model in (F.relu, nn.Linear, "model", None, [mlp()], {"a": mlp()})),
        (net(torch.no_grad()(lambda m, x: m.body(x))), "no graph", "no_grad", r"body\.0"),
        (net(torch.inference_mode()(lambda m, x: m.body(x))), "no graph", "inference_mode", r"body\.0"),
        (net(lambda m, x: m.body(x).detach()), "no graph", "detach", "Net|model|forward", "! :detach"),
        (net(blame), "no graph", "detach", "!no_grad"),
        (net(lambda m, x: F.linear(x, m.body[0].weight.data)[:, :3]), "no parameter", "data", "!no graph"),
        (net(lambda m, x: (m.body(x), x[:, :3])[1]), *OUTSIDE),
        (mlp().requires_grad_(False), "Sequential", "frozen", "requires_grad_"),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), "no parameters", "!frozen"),
        (nn.Sequential(nn.Linear(6, 6), nn.LazyLinear(3)), r"1.*(lazy|initiali)|(lazy|initiali).*1"),
        (nn.Linear(6, 3, device="meta"), "meta"),
        (INFERRED_MODEL, "inference_mode"),
    ],
    "batch": [
        (X, "Tensor", FORM),
        ((X,), "tuple of 1", FORM),
        (None, "NoneType|None", FORM),
        (iter([(X, Y)]), "iterator", FORM),
        (INFERRED, "inference_mode"),
        ((X[:0], Y[:0]), "empty|no examples|nothing"),
        ((torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged), Y), "nested"),
    ],
    "block": [(torch.inference_mode, "inference_mode", "leave")],
    "kind": [(lambda o: o,), (vars,), (lambda o: {"logits": o.logits},), (lambda o: (o.logits,),), (lambda o: None,)],
}


def refusal(model: Any, batch: Any, loss: Any, *words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own about torch.tensor(tensor) and the like
        with pytest.raises(gm.InputError) as caught:
            gm.measure(model, batch, loss)
    text = str(caught.value)
    wrong = [word for word in words if bool(re.search(word.removeprefix("!"), text)) is word.startswith("!")]
    assert not wrong, f"{wrong} of: {text}"
    assert len(text) < 400
    assert text.rstrip().endswith((".", "?"))


@pytest.mark.parametrize(("what", "given", "words"), [(k, g, w) for k, rows in REFUSED.items() for g, *w in rows])
def test_what_is_refused(what: str, given: Any, words: list[str]) -> None:
    if what == "kind":  # of an output, without the loss that it should have
        refusal(Classifier(given), {"x": X}, None, "no loss", "loss=")
    elif what == "block":
        model = mlp()
        with given():
            refusal(model, (X, Y), F.mse_loss, *words)
    else:
        refusal(*({"model": mlp(), "batch": (X, Y), "loss": F.mse_loss} | {what: given}).values(), *words)


CUTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "detach": (lambda y: y.detach(), "detach"),
    "detach_": (lambda y: (y * 1).detach_(), "detach"),
    "data": (lambda y: y.data, r"\bdata\b"),
    "argmax": (lambda y: y.argmax(1).float(), "argmax"),
    "long": (lambda y: y.long().float(), "long"),
    "numpy": (lambda y: torch.from_numpy(y.detach().numpy()), "detach|numpy"),
    "tensor": (lambda y: torch.tensor(y), r"\btensor\b"),
    "tolist": (lambda y: torch.tensor(y.tolist()), "tolist"),
    "item": (lambda y: torch.stack([torch.tensor(v.item()) for v in y.flatten()]), "item"),
    "threshold": (lambda y: (y > 0).float(), r"\bgt\b|>"),
    "sample": (lambda y: torch.distributions.Bernoulli(logits=y).sample(), "bernoulli|no_grad"),
    "zeros_like": (lambda y: torch.zeros_like(y), "zeros_like"),
}


@pytest.mark.parametrize("where", ["model", "loss"])
@pytest.mark.parametrize("how", CUTS)
def test_a_loss_cut_off_from_the_whole_model(how: str, where: str) -> None:
    act, named = CUTS[how]
    cut_in_model = net(lambda m, x: act(m.body(x))), (X, Y), lambda y, t: y.sum(), "!frozen"
    cut_in_loss = mlp(), (X, Y), lambda y, t: act(y).sum(), "loss"
    refusal(*(cut_in_model if where == "model" else cut_in_loss), "no graph|no parameter", named)


MIDDLE: dict[str, tuple[Callable[..., Tensor], str]] = {
    "detach": (lambda m, h: h.detach(), "detach"),
    "data": (lambda m, h: h.data, "data"),
    "binary": (lambda m, h: (h > 0).float(), "gt"),
    "no_grad": (torch.no_grad()(lambda m, h: h.exp()), "exp"),
    "inference_mode": (lambda m, h: torch.inference_mode()(torch.exp)(h).clone(), "exp"),
    "module": (lambda m, h: m.cutting(h), "cutting"),
    **{f.__name__: (lambda m, h, f=f: f(h), f.__name__) for f in (torch.round, torch.sign, torch.floor)},
}


@pytest.mark.parametrize("how", MIDDLE)
def test_a_part_cut_off_in_the_middle_is_a_row(how: str) -> None:
    act, named = MIDDLE[how]
    made = one(lambda m, x: m.b(act(m, m.a(x))), cutting=Net(lambda m, h: h.detach()), **parts())
    reading = measured(made)
    rows = [row for row in reading.ledger if row.gain == 0]
    assert len(rows) == 1
    assert named in f"{rows[0].site} {rows[0].operation}"
    assert rows[0].log10_gain == reading.ledger.total == -math.inf
    assert reading.ledger.worst == rows[0]
    gradients = {p.name: p.grad_rms for p in reading.parameters}
    assert gradients["a.weight"] == (0 if how in ("round", "sign", "floor") else None)
    assert gradients["b.weight"]


def test_parts_and_weights_that_are_cut_off_are_rows() -> None:
    reading = measured(one(lambda m, x: m.b(m.c(m.a(x).detach()).detach()), c=nn.Linear(4, 4), **parts()))
    assert [row.gain for row in reading.ledger][-2:] == [0, 0]
    reading = measured(one(lambda m, x: m.b(F.linear(m.a(x), m.w.detach())), w=nn.Parameter(torch.eye(4)), **parts()))
    assert [(row.operation, row.main) for row in reading.ledger if row.gain == 0] == [("detach", False)]
