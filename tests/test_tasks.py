"""What is read off a loss: its operation, what comes before it, what is done to it, whether its shapes fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradiometer.probe import tasks
from gradiometer.records import Task

N, K = 12, 5


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def found(loss: Tensor) -> tuple[Task, ...]:
    return tasks.read(tasks.find(loss))


def layer() -> Tensor:
    """The output of a layer with parameters."""
    w = torch.randn(K, 7, requires_grad=True)
    return F.linear(torch.randn(N, 7), w, torch.zeros(K, requires_grad=True))


def classes() -> Tensor:
    return torch.arange(N) % K


# -- the operations before the loss, and the size of its softmax ---------------------------------------------------

BEFORE: dict[str, tuple[Callable[[Tensor], Tensor], str, tuple[str, ...], int | None]] = {
    "scores": (lambda y: F.cross_entropy(y, classes()), "nll_loss", ("log_softmax", "linear"), K),
    "softmax": (
        lambda y: F.cross_entropy(y.softmax(1), classes()), "nll_loss", ("log_softmax", "softmax", "linear"), K),
    "log_softmax twice": (
        lambda y: F.cross_entropy(y.log_softmax(-1), classes()), "nll_loss", ("log_softmax", "log_softmax", "linear"),
        K),
    "no logarithm": (lambda y: F.nll_loss(y.softmax(-1), classes()), "nll_loss", ("softmax", "linear"), K),
    "neither": (lambda y: F.nll_loss(y, classes()), "nll_loss", ("linear",), None),
    "softmax over examples": (
        lambda y: F.nll_loss(y.softmax(0).log(), classes()), "nll_loss", ("log", "softmax", "linear"), N),
    "one class": (lambda y: F.cross_entropy(y[:, :1], classes() * 0), "nll_loss", ("log_softmax", "linear"), 1),
    "views between": (
        lambda y: F.cross_entropy(y.relu().view(3, 4, K).flatten(0, 1).t().contiguous().t()[: N - 1],
                                  classes()[: N - 1]), "nll_loss", ("log_softmax", "relu", "linear"), K),
    "places": (lambda y: F.cross_entropy(y.view(2, 6, K).transpose(1, 2)[..., None], classes().view(2, 6, 1)),
               "nll_loss", ("log_softmax", "linear"), K),
    "cast": (lambda y: F.cross_entropy(y.bfloat16().tanh().float(), classes()), "nll_loss",
             ("log_softmax", "tanh", "linear"), K),
    "sigmoid": (lambda y: F.binary_cross_entropy(y.sigmoid(), torch.ones(N, K)), "binary_cross_entropy",
                ("sigmoid", "linear"), None),
    "sigmoid twice": (lambda y: F.binary_cross_entropy_with_logits(y.sigmoid(), torch.ones(N, K)),
                      "binary_cross_entropy_with_logits", ("sigmoid", "linear"), None),
    "relu": (lambda y: F.mse_loss(y.relu().squeeze(), torch.ones(N, K)), "mse_loss", ("relu", "linear"), None),
    "tanh": (lambda y: F.smooth_l1_loss(y.tanh(), torch.ones(N, K)), "smooth_l1_loss", ("tanh", "linear"), None),
    "scaled": (lambda y: F.huber_loss(y.tanh() * 3, torch.ones(N, K)), "huber_loss", ("mul", "tanh", "linear"), None),
    "many": (lambda y: F.mse_loss(y.sin().cos().exp().neg().relu(), torch.ones(N, K)), "mse_loss",
             ("relu", "neg", "exp", "cos"), None),
    "swapped": (lambda y: F.mse_loss(torch.ones(N, K), y.relu()), "mse_loss", (), None),
    "autocast": (lambda y: torch.autocast("cpu", torch.bfloat16)(F.cross_entropy)(y.tanh().bfloat16(), classes()),
                 "nll_loss", ("log_softmax", "tanh", "linear"), K),
}  # fmt: skip


@pytest.mark.parametrize("name", BEFORE)
def test_what_comes_before_the_loss(name: str) -> None:
    make, loss, before, width = BEFORE[name]
    (task,) = found(make(layer()))
    assert (task.loss, task.before, task.width, task.direct) == (loss, before, width, True)


RANGES: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "relu": (F.relu, 0.0, 1e9),
    "sigmoid": (torch.sigmoid, 0.0, 1.0),
    "softmax": (lambda y: y.softmax(1), 0.0, 1.0),
    "tanh": (torch.tanh, -1.0, 1.0),
    "hardtanh": (F.hardtanh, -1.0, 1.0),
    "softplus": (F.softplus, 0.0, 1e9),
    "a view of tanh": (lambda y: y.tanh().flatten()[None].view(N, K), -1.0, 1.0),
    "none": (lambda y: y, -1e9, 1e9),
    "scaled": (lambda y: y.tanh() * 10, -1e9, 1e9),
    "relu6": (F.relu6, 0.0, 6.0),
    "a wide hardtanh": (lambda y: F.hardtanh(y, -3.0, 3.0), -3.0, 3.0),
}


@pytest.mark.parametrize("name", RANGES)
def test_how_far_the_targets_lie_beyond_what_can_be_answered(name: str) -> None:
    make, low, high = RANGES[name]
    t = torch.randn(N, K) * 4
    (task,) = found(F.mse_loss(make(layer()), t))
    beyond = (t.double() - t.double().clamp(low, high)).square().mean().sqrt().item()
    assert task.beyond == pytest.approx(beyond, rel=1e-6)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_broadcast() -> None:
    shapes = {((N, 1), (N,)): True, ((N,), (N, 1)): True, ((N, 1), (N, 1)): False, ((1, 1), (1,)): False,
              ((N, 3), (3,)): True, ((N, 3), ()): True, ((2, 1, N), (2, N)): True}  # fmt: skip
    for (given, target), expected in shapes.items():
        (task,) = found(F.mse_loss(torch.randn(given, requires_grad=True), torch.randn(target)))
        assert task.broadcast is expected, (given, target)
        assert (task.guess is None) == (expected or target == (1,))


# -- what is done to a loss before backward ------------------------------------------------------------------------


def mse(y: Tensor) -> Tensor:
    return F.mse_loss(y, torch.zeros_like(y))


DONE: dict[str, tuple[Callable[[Tensor], Tensor], list[tuple[str, bool]]]] = {
    "plain": (mse, [("mse_loss", True)]),
    "times": (lambda y: mse(y) * 2, [("mse_loss", False)]),
    "divided": (lambda y: mse(y) / 4, [("mse_loss", False)]),
    "negative": (lambda y: -mse(y), [("mse_loss", False)]),
    "two": (lambda y: mse(y) + F.cross_entropy(y, classes()), [("mse_loss", False), ("nll_loss", False)]),
    "weighted": (
        lambda y: 0.5 * mse(y) - F.huber_loss(y, y * 0) / 3, [("mse_loss", False), ("huber_loss", False)]),
    "with a penalty": (lambda y: mse(y) + 1e-3 * y.square().sum(), [("mse_loss", False)]),
    "masked": (lambda y: (F.mse_loss(y, y * 0, reduction="none") * torch.ones(N, K)).sum() / 7, [("mse_loss", False)]),
    "by example": (lambda y: F.cross_entropy(y, classes(), reduction="none")[classes() > 1].mean(),
                   [("nll_loss", False)]),
    "one value of many": (lambda y: mse(y).unsqueeze(0), [("mse_loss", False)]),
    "twice the same": (lambda y: (lambda loss: loss + loss)(mse(y)), [("mse_loss", False)]),
    "label smoothing": (lambda y: F.cross_entropy(y, classes(), label_smoothing=0.1), [("nll_loss", False)]),
    "probabilities": (lambda y: F.cross_entropy(y, torch.ones(N, K) / K), [("cross_entropy", True)]),
    "divergence": (
        lambda y: F.kl_div(y.log_softmax(1), torch.ones(N, K) / K, reduction="sum"), [("kl_div", True)]),
    "by hand": (lambda y: y.square().mean(), []),
    "no graph": (lambda y: mse(y.detach()), []),
}  # fmt: skip


@pytest.mark.parametrize("name", DONE)
def test_what_is_done_to_a_loss(name: str) -> None:
    make, expected = DONE[name]
    assert [(t.loss, t.direct) for t in found(make(layer()))] == expected


@pytest.mark.parametrize("shape", ["chain", "tree", "deep"])
def test_the_walk_is_bounded(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    y, count = layer(), 0

    def counted(name: str, plain: Callable[[str], str] = tasks.plain) -> str:
        nonlocal count
        count += 1
        return plain(name)

    monkeypatch.setattr(tasks, "plain", counted)
    if shape == "chain":
        loss = mse(y)
        for _ in range(1000):
            loss = loss * 1.0 + 0.0
    elif shape == "tree":
        loss = torch.zeros(())
        for _ in range(500):
            loss = loss + mse(y)
    else:
        for _ in range(1000):
            y = y[:] + 0
        loss = mse(y)
    assert len(tasks.find(loss)) <= 32
    assert count <= 32 * 33
