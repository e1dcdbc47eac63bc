"""The loss of a constant guess against Monte Carlo, and against constants found by optimisation in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradiometer.measures import around_center, binary_entropy, class_entropy
from gradiometer.measures.targets import FEW
from gradiometer.probe import tasks
from gradiometer.records import Task

N = 4000


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def single(loss: Tensor) -> Task:
    found = tasks.read(tasks.find(loss))
    assert len(found) == 1
    return found[0]


def lowest(cost: Callable[[Tensor], Tensor], outputs: tuple[int, ...]) -> float:
    """The minimum of a cost over constants, in float64."""
    constant = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    lbfgs = torch.optim.LBFGS([constant], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        lbfgs.zero_grad()
        value = cost(constant)
        value.backward()
        return value

    lbfgs.step(closure)
    return cost(constant.detach()).item()


# -- the entropy of classes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("p", [[0.5, 0.5], [0.2] * 5, [0.5, 0.3, 0.1, 0.06, 0.04], [0.8, 0.2]], ids=str)
def test_class_entropy_of_batches_is_that_of_the_classes(p: list[float], n: int) -> None:
    frequencies = torch.tensor(p, dtype=torch.float64)
    found = torch.tensor(
        [class_entropy(torch.multinomial(frequencies, n, replacement=True)) for _ in range(400)], dtype=torch.float64
    )
    true = -(frequencies * frequencies.log()).sum().item()
    error = found.std().item() / math.sqrt(len(found))
    second_order = (frequencies.reciprocal().sum().item() - 1) / (12 * n * n)  # what the correction leaves
    assert abs(found.mean().item() - true) < 4 * error + second_order
    plain = found - (len(p) - 1) / (2 * n)
    assert plain.mean().item() < true  # the correction is there for a reason


NAN = math.nan
TARGETS = {
    "all the same": (torch.full((7,), 3), NAN),
    "too few of one class": (torch.full((FEW - 1,), 3), NAN),
    "too few of two": (torch.tensor([0, 1] * (FEW - 1) + [0]), NAN),
    "just enough of two": (torch.tensor([0, 1] * FEW), math.log(2) + 1 / (4 * FEW)),
    "of no dimension": (torch.tensor(5), NAN),
    "none": (torch.zeros(0, dtype=torch.long), NAN),
    "all ignored": (torch.full((40, 3), -100), NAN),
    "some ignored": (torch.tensor([0, 1, -100, -100, 0, 1, 0, 1] * 5), math.log(2) + 1 / 60),
    "too few left": (torch.tensor([0, 1] * 3 + [-100] * 90), NAN),
    "places": (torch.tensor([[[0, 1], [1, 0]], [[0, 1], [0, 1]]] * 2), math.log(2) + 1 / 32),
    "bytes": (torch.tensor([0, 255, 255, 0] * 4, dtype=torch.uint8), math.log(2) + 1 / 32),
    "not contiguous": (torch.tensor([[0, 9], [1, 9]] * 5)[:, 0], math.log(2) + 1 / 20),
}


@pytest.mark.parametrize("name", TARGETS)
def test_class_entropy_in_closed_form(name: str) -> None:
    target, expected = TARGETS[name]
    value = class_entropy(target)
    assert isinstance(value, float)
    assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_only_the_index_that_is_ignored_is_left_out() -> None:
    target = torch.tensor([0, 1, 2, 2, 2, 2] * 10)
    assert class_entropy(target, ignored=2) == pytest.approx(math.log(2) + 1 / 40)
    assert class_entropy(target, ignored=-1) > class_entropy(target, ignored=2)


def test_binary_entropy_is_a_mean_over_outputs() -> None:
    target = torch.tensor([[0.0, 1.0, 0.25], [1.0, 1.0, 0.75], [0.0, 1.0, 0.5]] * 20)
    expected = 2 / (3 * 2 * 60)
    for p in (1 / 3, 60.5 / 61, 0.5):  # the second had one class only
        expected -= sum(q * math.log(q) for q in (p, 1 - p) if q > 0) / 3
    assert binary_entropy(target) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("p", [0.5, 0.2])
def test_binary_entropy_of_batches_is_that_of_the_coin(p: float) -> None:
    found = torch.tensor([binary_entropy((torch.rand(80, 3) < p).float()) for _ in range(400)])
    true = -p * math.log(p) - (1 - p) * math.log(1 - p)
    error = found.std().item() / math.sqrt(len(found))
    assert abs(found.mean().item() - true) < 4 * error + (1 / p + 1 / (1 - p)) / (12 * 80**2)


@pytest.mark.parametrize("shape", [(), (1,), (2 * FEW - 1, 3)])
def test_binary_entropy_of_few_is_unknown(shape: tuple[int, ...]) -> None:
    assert math.isnan(binary_entropy(torch.ones(shape)))


@pytest.mark.parametrize("target", [torch.ones(1), torch.ones(()), torch.ones(1, 5), torch.ones(1, 2, 3).bfloat16()])
def test_around_center_of_one_example_is_unknown(target: Tensor) -> None:
    assert math.isnan(around_center(target, torch.square))


# -- the guess of a loss ------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A loss of outputs and targets; the shapes of the outputs' constant and of its stretching to a batch."""

    loss: Callable[..., Tensor]
    target: Callable[[], Tensor]
    outputs: tuple[int, ...]
    stretch: Callable[[Tensor, int], Tensor] = lambda c, n: c.expand(n, *c.shape)


def classes(*shape: int, ignored: int | None = None) -> Callable[[], Tensor]:
    def draw() -> Tensor:
        p = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
        target = torch.multinomial(p, math.prod(shape), replacement=True).reshape(shape)
        if ignored is not None and ignored < 0:
            target[torch.rand(shape) < 0.25] = ignored
        return target

    return draw


def coins() -> Tensor:
    return (torch.rand(N, 3) < torch.tensor([0.1, 0.5, 0.8])).float()


def numbers(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(N, *shape) * 2 + torch.linspace(-3, 3, math.prod(shape)).reshape(shape)


def planes(c: Tensor, n: int) -> Tensor:
    return c.reshape(1, -1, 1, 1).expand(n, -1, 3, 2)


GUESSES: dict[str, Case] = {
    "cross entropy": Case(F.cross_entropy, classes(N), (5,)),
    "ignored": Case(lambda y, t, **k: F.cross_entropy(y, t, ignore_index=2, **k), classes(N, ignored=2), (5,)),
    "ignored -100": Case(F.cross_entropy, classes(N, ignored=-100), (5,)),
    "nll": Case(lambda y, t, **k: F.nll_loss(F.log_softmax(y, 1), t, **k), classes(N), (5,)),
    "nll of planes": Case(F.cross_entropy, classes(N // 6, 3, 2), (5,), planes),
    "planes ignored": Case(F.cross_entropy, classes(N // 6, 3, 2, ignored=-100), (5,), planes),
    "weighted classes": Case(
        lambda y, t, **k: F.cross_entropy(y, t, weight=torch.tensor([1.0, 5.0, 0.3, 2.0, 20.0], dtype=y.dtype), **k),
        classes(N), (5,)),
    "weighted, ignored": Case(
        lambda y, t, **k: F.cross_entropy(y, t, weight=torch.tensor([1.0, 0.0, 3.0, 2.0, 2.0], dtype=y.dtype),
                                          ignore_index=2, **k), classes(N, ignored=2), (5,)),
    "weighted positives": Case(
        lambda y, t, **k: F.binary_cross_entropy_with_logits(
            y, t, pos_weight=torch.tensor([9.0, 0.2, 1.0], dtype=y.dtype), **k), coins, (3,)),
    "bce": Case(lambda y, t, **k: F.binary_cross_entropy(y.sigmoid(), t, **k), coins, (3,)),
    "bce of logits": Case(F.binary_cross_entropy_with_logits, coins, (3,)),
    "bce, soft": Case(F.binary_cross_entropy_with_logits, lambda: torch.rand(N, 3) ** 2, (3,)),
    "bce, one output": Case(F.binary_cross_entropy_with_logits, lambda: coins()[:, 0], ()),
    "mse": Case(F.mse_loss, numbers(3), (3,)),
    "mse, one output": Case(F.mse_loss, numbers(), ()),
    "mse, sequence": Case(F.mse_loss, numbers(2, 3), (2, 3)),
    "mse, images": Case(F.mse_loss, numbers(2, 3, 3), (2, 3, 3)),
    "huber": Case(lambda y, t, **k: F.huber_loss(y, t, delta=0.5, **k), numbers(3), (3,)),
    "huber, wide": Case(lambda y, t, **k: F.huber_loss(y, t, delta=3.0, **k), numbers(3), (3,)),
    "smooth l1": Case(F.smooth_l1_loss, numbers(3), (3,)),
    "smooth l1, wide": Case(lambda y, t, **k: F.smooth_l1_loss(y, t, beta=4.0, **k), numbers(2, 3), (2, 3)),
}  # fmt: skip


MEAN_ONLY = ("weighted classes", "weighted, ignored")


@pytest.mark.parametrize(
    ("name", "reduction"), [(n, r) for n in GUESSES for r in ("mean", "sum") if r == "mean" or n not in MEAN_ONLY]
)
def test_guess_is_the_minimum_over_constants(name: str, reduction: str) -> None:
    case, target = GUESSES[name], GUESSES[name].target()
    n = len(target)
    wide = target.double() if target.is_floating_point() else target
    expected = lowest(lambda c: case.loss(case.stretch(c, n), wide, reduction=reduction), case.outputs)
    output = torch.randn(case.stretch(torch.zeros(case.outputs), n).shape, requires_grad=True)
    task = single(case.loss(output, target, reduction=reduction))
    assert task.direct
    assert task.guess == pytest.approx(expected, rel=3e-3)  # of which 1 / 2n a degree of freedom


@pytest.mark.parametrize("name", [n for n in GUESSES if "ignored" not in n and n != "weighted classes"])
def test_without_a_reduction_it_is_that_of_the_mean(name: str) -> None:
    case, target = GUESSES[name], GUESSES[name].target()
    output = torch.randn(case.stretch(torch.zeros(case.outputs), len(target)).shape, requires_grad=True)
    reduced = single(case.loss(output, target, reduction="none").mean())
    assert (reduced.guess, reduced.direct) == (single(case.loss(output, target)).guess, False)


def test_of_skewed_targets_huber_is_taken_around_the_mean() -> None:
    target = torch.rand(N, 1).log().neg() ** 2
    output = torch.zeros(N, 1, requires_grad=True)
    task = single(F.huber_loss(output, target, delta=0.2))
    around = F.huber_loss(target.double().mean(0).expand(N, 1), target.double(), delta=0.2).item()
    assert task.guess == pytest.approx(around * N / (N - 1), rel=1e-4)
    assert task.guess > lowest(lambda c: F.huber_loss(c.expand(N, 1), target.double(), delta=0.2), (1,))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_guess_is_right_on_average_also_of_small_batches(reduction: str) -> None:
    """Corrected for the degree of freedom of the mean: what a constant costs on examples it was not made from."""
    values = []
    for _ in range(600):
        target = torch.randn(4, 2) * 3
        task = single(F.mse_loss(torch.zeros(4, 2, requires_grad=True), target, reduction=reduction))
        assert task.guess is not None
        values.append(task.guess)
    found = torch.tensor(values)
    expected = 9.0 * (8 if reduction == "sum" else 1)
    assert abs(found.mean().item() - expected) < 4 * found.std().item() / math.sqrt(len(values))


UNKNOWN = {
    "weighted classes, summed": lambda y, t: F.cross_entropy(y, t.argmax(1), weight=torch.rand(3), reduction="sum"),
    "weighted classes, one by one": lambda y, t: F.cross_entropy(
        y, t.argmax(1), weight=torch.rand(3), reduction="none").mean(),
    "weighted bce": lambda y, t: F.binary_cross_entropy_with_logits(y, t, weight=torch.rand(3)),
    "weighted bce of probabilities": lambda y, t: F.binary_cross_entropy(y.sigmoid(), t, weight=torch.rand(3)),
    "twice weighted positives": lambda y, t: F.binary_cross_entropy_with_logits(
        y, t, weight=torch.rand(3), pos_weight=torch.rand(3)),
    "positives of each example": lambda y, t: F.binary_cross_entropy_with_logits(y, t, pos_weight=torch.rand(40, 1)),
    "one example": lambda y, t: F.mse_loss(y[:1], t[:1]),
    "one huber": lambda y, t: F.huber_loss(y[:1], t[:1]),
    "a number": lambda y, t: F.smooth_l1_loss(y[0, 0], t[0, 0]),
    "nothing": lambda y, t: F.mse_loss(y[:0], t[:0], reduction="sum"),
    "no class": lambda y, t: F.cross_entropy(y[:0], t[:0].argmax(1), reduction="sum"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_guess_that_nobody_can_make(name: str) -> None:
    task = single(UNKNOWN[name](torch.randn(40, 3, requires_grad=True), torch.rand(40, 3).round()))
    assert task.guess is None


EVEN = {
    "three classes": (lambda y, t: F.cross_entropy(y[:4], t[:4].argmax(1)), math.log(3)),
    "three weighted": (lambda y, t: F.cross_entropy(y[:4], t[:4].argmax(1), weight=torch.rand(3)), math.log(3)),
    "weighted positives": (lambda y, t: F.binary_cross_entropy_with_logits(y[:4], t[:4] * 0 + 1,
                                                                          pos_weight=torch.tensor(7.0)),
                           7 * math.log(2)),
    "three classes, summed": (lambda y, t: F.cross_entropy(y[:4], t[:4].argmax(1), reduction="sum"), 4 * math.log(3)),
    "one example of no dimension": (lambda y, t: F.cross_entropy(y[0], t[0].argmax()), math.log(3)),
    "planes": (lambda y, t: F.cross_entropy(y.view(1, 20, 2, 3), t.new_zeros(1, 2, 3).long() + torch.arange(6).view(
        1, 2, 3)), math.log(20)),
    "bce": (lambda y, t: F.binary_cross_entropy(y[:4].sigmoid(), t[:4]), math.log(2)),
    "bce of logits, summed": (lambda y, t: F.binary_cross_entropy_with_logits(y[:4], t[:4], reduction="sum"),
                              12 * math.log(2)),
    "a logit": (lambda y, t: F.binary_cross_entropy_with_logits(y[0, 0], t[0, 0]), math.log(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", EVEN)
def test_of_few_examples_it_is_that_of_answering_all_alike(name: str) -> None:
    loss, expected = EVEN[name]
    task = single(loss(torch.randn(40, 3, requires_grad=True), torch.rand(40, 3).round()))
    assert task.guess == pytest.approx(expected)


def test_what_outputs_and_targets_are_like() -> None:
    y, t = torch.randn(50, 3, dtype=torch.float64) * 4 + 7, torch.randn(50, 3, dtype=torch.float64) - 5
    task = single(F.mse_loss(y.requires_grad_(), t))
    y = y.detach()
    assert task.outputs == pytest.approx((y.min().item(), y.max().item()))
    assert task.targets == pytest.approx((t.min().item(), t.max().item()))
    spreads = [math.sqrt(x.var(0, correction=0).mean().item()) for x in (y, t)]
    assert task.spread == pytest.approx(spreads)
    assert (task.examples, task.beyond, task.broadcast) == (50, 0.0, False)


def test_ignored_targets_are_not_in_the_range() -> None:
    target = torch.tensor([-100, 1, 2, -100])
    assert single(F.cross_entropy(torch.randn(4, 3, requires_grad=True), target)).targets == (1.0, 2.0)


def test_integers_as_targets_of_a_difference() -> None:
    y, t = torch.randn(40, requires_grad=True), torch.arange(40)
    task = single(F.mse_loss(y, t))
    assert task.guess == pytest.approx(t.double().var().item())
    assert task.targets == (0.0, 39.0)
