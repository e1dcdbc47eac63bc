"""What is read off losses of probabilities: over what their softmax ran, and what is weighed with probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradiometer.measures import soft_entropy
from gradiometer.probe import tasks
from gradiometer.records import Task
from gradiometer.rules.mismatched_dimension import other_dimension

N, K, T = 12, 5, 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def found(loss: Tensor, output: Tensor | None = None) -> tuple[Task, ...]:
    return tasks.read(tasks.find(loss, output))


def told(loss: Tensor) -> bool:
    (task,) = found(loss)
    return other_dimension(task) is not None


def scores(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True) * 2


def classes(*shape: int, number: int = K) -> Tensor:
    return torch.randint(number, shape)


# -- the dimension of a softmax -----------------------------------------------------------------------------------

RIGHT: dict[str, Callable[[], Tensor]] = {
    "cross-entropy": lambda: F.cross_entropy(scores(N, K), classes(N)),
    "of places": lambda: F.cross_entropy(scores(N, K, T), classes(N, T)),
    "of images": lambda: F.cross_entropy(scores(N, K, T, 3), classes(N, T, 3)),
    "of volumes": lambda: F.cross_entropy(scores(2, K, T, 3, 2), classes(2, T, 3, 2)),
    "of one example": lambda: F.cross_entropy(scores(K), classes()),
    "as many examples as classes": lambda: F.nll_loss(scores(K, K).log_softmax(1), classes(K)),
    "last dimension, flattened": lambda: F.nll_loss(scores(N, T, K).log_softmax(-1).view(-1, K), classes(N * T)),
    "last dimension, a place left out": lambda: F.nll_loss(
        scores(N, T, K).log_softmax(-1)[:, :-1].reshape(-1, K), classes(N * (T - 1))),
    "last dimension, moved": lambda: F.nll_loss(scores(N, T, K).log_softmax(-1).transpose(1, 2), classes(N, T)),
    "places first": lambda: F.nll_loss(scores(T, N, K).log_softmax(2).permute(1, 2, 0), classes(N, T)),
    "classes first": lambda: F.nll_loss(scores(K, N).log_softmax(0).t(), classes(N)),
    "of one example, as a batch": lambda: F.nll_loss(scores(K).log_softmax(0)[None], classes(1)),
    "chosen examples": lambda: F.nll_loss(scores(N, K).log_softmax(1)[torch.arange(0, N, 2)], classes(N // 2)),
    "chosen classes": lambda: F.nll_loss(scores(N, 20).log_softmax(1)[:, :K], classes(N)),
    "masked scores": lambda: F.cross_entropy(
        scores(N, K).masked_fill(F.one_hot(classes(N) * 0, K) > 0, -math.inf), 1 + classes(N, number=K - 1)),
    "logarithm of a softmax": lambda: F.nll_loss(scores(N, K).softmax(1).log(), classes(N)),
    "raised a little": lambda: F.nll_loss((scores(N, K).softmax(1) + 0.1).log(), classes(N)),
    "clamped": lambda: F.nll_loss(scores(N, K).softmax(1).clamp(min=0.1).log(), classes(N)),
    "bfloat16": lambda: F.nll_loss(scores(N, 5000).bfloat16().log_softmax(1).float(), classes(N)),
    "float16": lambda: F.nll_loss(scores(N, 500).half().log_softmax(1), classes(N)),
    "of pairs, the other way": lambda: F.nll_loss((scores(N, K) @ scores(K, N)).log_softmax(0), torch.arange(N)),
    "ignored": lambda: F.cross_entropy(scores(N, K, T), classes(N, T).clamp(max=0) - 100 + classes(N, T) * 0),
    "over one class": lambda: F.cross_entropy(scores(N, 1), classes(N, number=1)),
    "a mixture": lambda: F.nll_loss((scores(N, K).softmax(1) + scores(N, K).softmax(1)).log(), classes(N)),
    "with a prior": lambda: F.nll_loss(scores(N, K).log_softmax(1) + torch.rand(K).log(), classes(N)),
    "stacked": lambda: F.nll_loss(torch.stack([scores(N, K).log_softmax(1)] * T, 2), classes(N, T)),
    "raw scores": lambda: F.nll_loss(scores(N, K), classes(N)),
}  # fmt: skip

WRONG: dict[str, Callable[[], Tensor]] = {
    "the batch": lambda: F.nll_loss(scores(N, K).log_softmax(0), classes(N)),
    "a small batch": lambda: F.nll_loss(scores(3, 50).log_softmax(0), classes(3, number=50)),
    "as many examples as classes": lambda: F.nll_loss(scores(K, K).log_softmax(0), torch.tensor([2, 0, 1, 1, 4])),
    "frames": lambda: F.nll_loss(scores(N, K, T).log_softmax(2), classes(N, T)),
    "as many frames as classes": lambda: F.nll_loss(scores(N, K, K).log_softmax(2), classes(N, K)),
    "rows of images": lambda: F.nll_loss(scores(N, K, T, 6).log_softmax(3), classes(N, T, 6)),
    "the batch of images": lambda: F.nll_loss(scores(N, K, T, 6).log_softmax(0), classes(N, T, 6)),
    "time of a language model": lambda: F.nll_loss(scores(N, T, K).log_softmax(1).view(-1, K), classes(N * T)),
    "viewed where it should be moved": lambda: F.nll_loss(
        scores(N, K, T).log_softmax(1).reshape(-1, K), classes(N * T)),
    "then moved": lambda: F.nll_loss(scores(N, T, K).log_softmax(1).transpose(1, 2), classes(N, T)),
    "the implicit dimension": lambda: F.nll_loss(F.log_softmax(scores(4, T, 50)), classes(4, 50, number=T)),
    "logarithm of a softmax": lambda: F.nll_loss(scores(N, K).softmax(0).log(), classes(N)),
    "the same, raised": lambda: F.nll_loss((scores(N, K).softmax(0) + 1e-8).log(), classes(N)),
    "the same, clamped": lambda: F.nll_loss(scores(N, K).softmax(0).clamp(min=1e-8).log(), classes(N)),
    "places left out": lambda: F.nll_loss(scores(2, T, 30).log_softmax(1)[:, :-1].reshape(-1, 30), classes(2 * T - 2)),
    "bfloat16": lambda: F.nll_loss(scores(N, K).bfloat16().log_softmax(0).float(), classes(N)),
    "divergence": lambda: F.kl_div(scores(N, K).log_softmax(0), scores(N, K).softmax(1).detach()),
    "soft labels by hand": lambda: -(scores(N, K).softmax(1).detach() * scores(N, K).log_softmax(0)).sum(1).mean(),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_softmax_over_the_classes(name: str) -> None:
    assert not told(RIGHT[name]())


@pytest.mark.filterwarnings("ignore:Implicit dimension", "ignore:reduction")
@pytest.mark.parametrize("name", WRONG)
def test_a_softmax_over_something_else(name: str) -> None:
    assert told(WRONG[name]())


def test_sums_of_many_are_those_of_the_first() -> None:
    logs = torch.randn(300, 11, 40, 30, requires_grad=True).log_softmax(1)
    (task,) = found(F.nll_loss(logs, torch.zeros(300, 40, 30, dtype=torch.long)))
    assert task.sums == pytest.approx((1.0, 1.0), abs=1e-5)


# -- weighed log-probabilities ------------------------------------------------------------------------------------


def soft(*shape: int, dim: int = 1, scale: float = 6.0) -> Tensor:
    """Probabilities that differ from example to example and are not alike on average."""
    return (scale * torch.randn(shape) + torch.arange(shape[dim]).movedim(0, -1).reshape(
        [-1 if k == dim else 1 for k in range(len(shape))])).softmax(dim)  # fmt: skip


M = 4000
GUESSES: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "soft labels": (F.cross_entropy, (M, K)),
    "summed": (lambda y, t: F.cross_entropy(y, t, reduction="sum"), (M, K)),
    "one by one": (lambda y, t: F.cross_entropy(y, t, reduction="none").mean(), (M, K)),
    "smoothed": (lambda y, t: F.cross_entropy(y, t, label_smoothing=0.05), (M, K)),
    "places": (F.cross_entropy, (M // 4, K, 4)),
    "by hand": (lambda y, t: -(t * y.log_softmax(1)).sum(1).mean(), (M, K)),
    "by hand, the other way": (lambda y, t: -(y.log_softmax(1) * t).sum() / M, (M, K)),
    "divergence": (lambda y, t: F.kl_div(y.log_softmax(1), t, reduction="batchmean"), (M, K)),
    "divergence, mean": (lambda y, t: F.kl_div(y.log_softmax(1), t), (M, K)),
    "divergence, sum": (lambda y, t: F.kl_div(y.log_softmax(1), t, reduction="sum"), (M, K)),
    "divergence, one by one": (lambda y, t: F.kl_div(y.log_softmax(1), t, reduction="none").sum(1).mean(), (M, K)),
    "divergence of logarithms": (
        lambda y, t: F.kl_div(y.log_softmax(1), t.log(), reduction="batchmean", log_target=True), (M, K)),
    "divergence, warm": (
        lambda y, t: F.kl_div((y / 4).log_softmax(1), t, reduction="batchmean") * 4**2, (M, K)),
    "divergence of places": (lambda y, t: F.kl_div(y.log_softmax(1), t, reduction="batchmean"), (M // 4, K, 4)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", GUESSES)
def test_guess_is_the_minimum_over_constants(name: str) -> None:
    loss, shape = GUESSES[name]
    target = soft(*shape)
    constant = torch.zeros([1, K] + [1] * (len(shape) - 2), dtype=torch.float64, requires_grad=True)
    lbfgs = torch.optim.LBFGS([constant], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        lbfgs.zero_grad()
        value = loss(constant.expand(shape), target.double())
        value.backward()
        return value

    lbfgs.step(closure)
    (task,) = found(loss(scores(*shape), target))
    assert task.direct
    assert task.guess == pytest.approx(closure().item(), rel=3e-3)  # of which a part is what the sample misses


def test_entropy_of_batches_is_that_of_the_targets() -> None:
    """Corrected for what a batch misses, and without the correction too low."""
    everything = soft(200_000, K)
    true = soft_entropy(everything, 1)[0]
    batches = [soft_entropy(part, 1) for part in everything[:20_000].split(50)]
    costs = torch.tensor([cost for cost, _, _ in batches])
    error = costs.std().item() / math.sqrt(len(costs))
    assert abs(costs.mean().item() - true) < 4 * error + 5e-3
    assert sum(cost - missed for cost, _, missed in batches) / len(batches) < true - 4 * error


def test_of_one_hot_targets_it_is_that_of_their_classes() -> None:
    target = torch.tensor([0, 0, 0, 1, 1, 2] * 30)
    (hard,) = found(F.cross_entropy(scores(180, 3), target))
    (one_hot,) = found(F.cross_entropy(scores(180, 3), F.one_hot(target, 3).float()))
    assert one_hot.guess == pytest.approx(hard.guess, rel=1e-3)


SILENT: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "as soft as a constant": lambda: (scores(M, K), soft(M, K, scale=0.3)),
    "all alike": lambda: (scores(M, K), torch.ones(M, K) / K),
}


def test_of_a_single_example_it_is_that_of_answering_all_alike() -> None:
    assert found(F.cross_entropy(scores(1, K), soft(1, K)))[0].guess == pytest.approx(math.log(K))
    assert found(F.kl_div(scores(1, K).log_softmax(1), soft(1, K), reduction="sum"))[0].guess is None


@pytest.mark.parametrize("name", SILENT)
def test_where_nothing_can_be_reached_there_is_no_guess(name: str) -> None:
    output, target = SILENT[name]()
    assert found(F.cross_entropy(output, target))[0].guess is None


def test_no_guess_of_what_is_scaled_by_a_tensor_or_maximized() -> None:
    t = soft(M, K)
    (weighted,) = found(F.cross_entropy(scores(M, K), t, weight=torch.rand(K)))
    assert (weighted.guess, weighted.direct) == (None, False)
    for make in (lambda y: y * torch.tensor(2.0**16), lambda y: -y, lambda y: y * torch.rand(())):
        for loss in (F.cross_entropy(scores(M, K), t), F.kl_div(scores(M, K).log_softmax(1), t, reduction="sum")):
            assert found(make(loss))[0].guess is None


def test_a_sum_is_not_direct_and_has_the_parts_in_its_own_unit() -> None:
    y, t = scores(M, K), soft(M, K)
    alone = found(F.kl_div(y.log_softmax(1), t, reduction="batchmean"))[0]
    parts = found(F.cross_entropy(y, classes(M)) + 0.5 * F.kl_div(y.log_softmax(1), t, reduction="batchmean"))
    assert [(part.loss, part.direct) for part in parts] == [("nll_loss", False), ("kl_div", False)]
    assert alone.guess is not None
    assert parts[1].guess == pytest.approx(alone.guess / 2)


OTHER: dict[str, Callable[[Tensor], Tensor]] = {
    "a margin": lambda y: (1 - torch.randn(N, K).sign() * y).mean(),
    "a margin of tensors": lambda y: (torch.ones(N, K) - torch.randn(N, K).sign() * y).mean(),
    "counts": lambda y: F.poisson_nll_loss(y, torch.ones(N, K)),
    "the divergence of a normal": lambda y: -0.5 * (1 + y - y.pow(2).detach() - y.exp()).mean(),
    "advantages": lambda y: -(y.log_softmax(1) * torch.randn(N, K)).mean(),
    "entropy of itself": lambda y: (y.softmax(1) * y.log_softmax(1)).sum(),
    "a product": lambda y: (y * y.detach().softmax(1)).sum(),
    "padded targets": lambda y: F.kl_div(y.log_softmax(1), soft(N, K) * (torch.arange(N) < 6)[:, None]),
}


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", OTHER)
def test_what_weighs_with_something_else_is_no_task(name: str) -> None:
    assert found(OTHER[name](scores(N, K))) == ()


def test_what_a_divergence_gets() -> None:
    y, t = scores(N, K), soft(N, K)
    kl = lambda x, t, **k: found(F.kl_div(x, t, reduction="batchmean", **k), y)[0]  # noqa: E731
    good = kl(y.log_softmax(1), t)
    assert (good.loss, good.before[0], good.width, good.examples) == ("kl_div", "log_softmax", K, N)
    assert good.targets == pytest.approx((t.min().item(), t.max().item()))
    assert good.outputs is not None
    assert good.outputs[1] <= 0
    raw = kl(y, t)
    assert raw.outputs == pytest.approx((y.min().item(), y.max().item()))
    assert raw.guess is None
    assert kl(y.softmax(1), t).before[0] == "softmax"
    assert kl(y.log_softmax(1), t.log()).targets == pytest.approx((t.log().min().item(), t.log().max().item()))
    raised = kl(y.log_softmax(1), t, log_target=True)
    assert raised.targets == pytest.approx((t.exp().min().item(), t.exp().max().item()))
    assert kl(y.log_softmax(1), t.log(), log_target=True).targets == pytest.approx(good.targets)


# -- products of all pairs ----------------------------------------------------------------------------------------


def column(n: int = N) -> Tensor:
    """The output of a layer, one number for each example."""
    return F.linear(torch.randn(n, 3), torch.randn(1, 3, requires_grad=True), torch.zeros(1, requires_grad=True))


COUNTS = torch.arange(N).float()
PAIRED: dict[str, Callable[[Tensor], Tensor]] = {
    "poisson": lambda y: F.poisson_nll_loss(y, COUNTS),
    "poisson, full": lambda y: F.poisson_nll_loss(y, COUNTS, full=True),
    "poisson of a rate": lambda y: F.poisson_nll_loss(F.softplus(y), COUNTS, log_input=False, eps=0),
    "a row of targets": lambda y: (y.exp() - COUNTS[None] * y).mean(),
    "outputs in a row": lambda y: (y[:, 0].exp() - COUNTS[:, None] * y[:, 0]).mean(),
    "summed by example": lambda y: (y.exp() - y * COUNTS).sum(1).mean() / 2,
    "binary, by hand": lambda y: -(
        COUNTS.clamp(max=1) * y.sigmoid().log() + (1 - COUNTS.clamp(max=1)) * (1 - y.sigmoid()).log()).mean(),
}  # fmt: skip
UNPAIRED: dict[str, Callable[[Tensor], Tensor]] = {
    "poisson": lambda y: F.poisson_nll_loss(y[:, 0], COUNTS),
    "both in columns": lambda y: F.poisson_nll_loss(y, COUNTS[:, None]),
    "two outputs": lambda y: (y * y[:, 0].flip(0)).mean(),
    "a kernel": lambda y: (torch.rand(N, N) * y).mean(),
    "other numbers": lambda y: (y.exp() - y * torch.rand(N + 1)).mean(),
    "masked pairs": lambda y: ((y * COUNTS) * torch.ones(N, N).tril()).sum(),
    "not only summed": lambda y: (y * COUNTS).relu().mean(),
    "weights of losses": lambda y: (y.square() * COUNTS).mean(),
    "a parameter": lambda y: (torch.ones(N, 1, requires_grad=True) * COUNTS).mean(),
    "one example": lambda y: (y[:1] * COUNTS[:1]).mean(),
}


@pytest.mark.parametrize("name", PAIRED)
def test_a_product_of_all_pairs(name: str) -> None:
    tasks_found = found(PAIRED[name](column()))
    assert tasks_found
    assert all((t.loss, t.broadcast, t.examples, t.guess) == ("mul", True, N, None) for t in tasks_found)


@pytest.mark.parametrize("name", UNPAIRED)
def test_a_product_that_may_be_meant(name: str) -> None:
    assert not any(t.broadcast for t in found(UNPAIRED[name](column())))
