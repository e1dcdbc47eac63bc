"""Inputs, targets and batches: scales against slow ones in float64, odd shapes of data, and code that does the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.records import Diagnosis
from gradiometer.remedies import cleaning, mixing, scaling
from gradiometer.remedies.base import Remedy, Situation, UnusableError, treated
from gradiometer.remedies.catalogue import find
from gradiometer.remedies.data import REMEDIES
from gradiometer.remedies.recipe import Recipe, loss_of
from gradiometer.trials.training import Training
from networks_to_treat import NETWORKS
from written import same_training

IN_WORDS = ("shuffle",)


def situation(model: Any, batches: Any, **changes: Any) -> Situation:
    """``batches`` is a list, or one batch."""
    listed = batches if isinstance(batches, list) else [batches]
    recipe = Recipe(lambda: model, lambda p: torch.optim.SGD(p, 0.1), F.mse_loss, lambda _: listed, steps=len(listed))
    return Situation(replace(recipe, **changes), model, listed[0], Diagnosis(()))


def drawn(*shape: int, scale: Any = 1.0, mean: Any = 0.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)) * torch.tensor(scale) + torch.tensor(mean)


@pytest.mark.parametrize(
    ("remedy", "number"),
    [
        pytest.param(r, i, id=f"{r.name}-{p.recipe.__name__}")
        for r in REMEDIES
        for i, p in enumerate(r.proofs)
        if r.name not in IN_WORDS
    ],
)
def test_code_trains_as_the_cure_does(remedy: Remedy, number: int) -> None:
    same_training(remedy, remedy.proofs[number])


# -- inputs ----------------------------------------------------------------------------------------------------------


def test_features_of_different_scales_have_numbers_of_their_own() -> None:
    x = drawn(400, 4, scale=[1.0, 1e4, 1e-3, 1.0], mean=[0.0, 5e4, 0.0, 1e3])
    mean, deviation = scaling.statistics(x, -1)
    rows = x.double().numpy()
    np.testing.assert_allclose(deviation, rows.std(0), rtol=5e-3)
    assert np.all(np.abs(np.array(mean) - rows.mean(0)) <= 6e-3 * rows.std(0))


def test_pixels_have_one_number_for_all() -> None:
    x = drawn(300, 16).abs() * torch.linspace(0.02, 1.0, 16) * 255
    x[:, :3] = 0.0
    mean, deviation = scaling.statistics(x, -1)
    assert mean == pytest.approx(float(x.double().mean()), rel=5e-3)
    assert deviation == pytest.approx(float(x.double().std()), rel=5e-3)


def test_features_that_do_not_vary() -> None:
    x = drawn(300, 4, scale=[1.0, 1e4, 0.0, 0.0], mean=[0.0, 0.0, 0.5, 2000.0])
    mean, deviation = scaling.statistics(x, -1)
    assert isinstance(mean, list)
    assert isinstance(deviation, list)
    assert mean[2:] == [0.0, 0.0]
    assert deviation[2:] == [1.0, 2000.0]


def test_examples_that_are_not_finite_do_not_count() -> None:
    x = drawn(300, 3, scale=[1.0, 1e3, 1.0])
    spoiled = torch.cat([x, torch.tensor([[1.0, float("nan"), 2.0], [float("inf"), 0.0, 0.0]])])
    assert scaling.statistics(spoiled, -1) == scaling.statistics(x, -1)
    with pytest.raises(UnusableError, match="finite"):
        scaling.statistics(torch.full((3, 2), torch.nan), -1)
    with pytest.raises(UnusableError, match="do not vary"):
        scaling.statistics(torch.ones(3, 2), -1)


SHAPES = {
    "table": (nn.Linear(3, 2), (64, 3), -1),
    "sequence": (nn.Sequential(nn.Linear(3, 2)), (16, 5, 3), -1),
    "image": (nn.Conv2d(3, 2, 1), (8, 3, 6, 6), 1),
    "signal": (nn.Conv1d(3, 2, 1), (16, 3, 9), 1),
    "flattened image": (nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), (8, 3, 6, 6), 1),
}


@pytest.mark.parametrize("name", SHAPES)
def test_standardized_along_the_features(name: str) -> None:
    model, shape, dim = SHAPES[name]
    x = drawn(*shape).movedim(dim, -1).mul(torch.tensor([1.0, 1e3, 0.02])).add(torch.tensor([5.0, 0.0, 3.0]))
    x = x.movedim(-1, dim).contiguous()
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    known = situation(model, (x, None))
    cured = scaling.standardize(model, known)
    seen.clear()
    cured(x)
    rows = seen[0].movedim(dim, -1).reshape(-1, 3)
    torch.testing.assert_close(rows.mean(0), torch.zeros(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(rows.std(0), torch.ones(3), atol=1e-2, rtol=0)


class Named(nn.Module):
    """A model of keywords, with a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, tokens: Any = None, values: Any = None, labels: Any = None, mask: Any = None) -> Any:
        y = self.layer(values)[:, 0]
        return {"loss": F.mse_loss(y, labels), "seen": (values, labels, mask, tokens)}


def test_inputs_by_name_and_what_is_no_signal() -> None:
    batch = {
        "labels": drawn(50) * 100,
        "mask": torch.ones(50),
        "tokens": torch.arange(50),
        "values": drawn(50, 3, mean=500.0),
    }
    model = Named()
    known = situation(model, batch, loss=None)
    values, labels, mask, tokens = scaling.standardize(model, known)(**batch)["seen"]
    assert abs(float(values.mean())) < 0.01
    assert (labels is batch["labels"], mask is batch["mask"], tokens is batch["tokens"]) == (True, True, True)


def test_the_first_floating_one_of_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(10, 3), nn.Linear(3, 1)

        def forward(self, tokens: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            return self.layer(self.table(tokens) + x) + y.sum(), x, y

    model, x, y = Two(), drawn(20, 3, mean=80.0), drawn(20, 3, mean=80.0)
    tokens = torch.arange(20) % 10
    _, seen, other = scaling.standardize(model, situation(model, ((tokens, x, y), None)))(tokens, x, y)
    assert abs(float(seen.mean())) < 0.01
    assert other is y


def test_a_wrapper_answers_for_the_network() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).double()
    model.meaning = "a sequence"  # type: ignore[assignment]
    x = drawn(40, 3, mean=90.0).double()
    cured: Any = scaling.standardize(model, situation(model, (x, None)))
    assert cured.meaning == "a sequence"
    assert cured[0] is model[0]
    assert cured(x).dtype == torch.float64
    assert len(list(cured.parameters())) == 2
    with pytest.raises(AttributeError, match="absent"):
        _ = cured.absent


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.arange(12).reshape(4, 3), "no floating-point numbers"),
        (drawn(500, 3), "standardized already"),
        (torch.full((4, 3), 7.0), "do not vary"),
    ],
)
def test_inputs_without_a_scale_to_change(x: Tensor, words: str) -> None:
    model = nn.Linear(3, 1) if x.is_floating_point() else nn.Embedding(12, 2)
    assert words in (find("standardize_inputs").unusable(situation(model, (x, None))) or "")


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_can_be_given_standardized_inputs(name: str) -> None:
    torch.manual_seed(0)
    model, batch = NETWORKS[name]()
    known = situation(model, batch, loss=None)
    remedy = find("standardize_inputs")
    if remedy.unusable(known) is not None:
        return
    code = remedy.code(known)
    scope: dict[str, Any] = {"model": model, "nn": nn, "torch": torch}
    exec(code.definitions + "\n" + code.model, scope)
    ours = remedy.model(model, known).state_dict()  # type: ignore[misc]
    theirs = scope["model"].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scale"), [(1, 300.0), (3, [1.0, 1e4, 50.0])])
def test_outputs_come_out_in_the_units_of_the_targets(width: int, scale: Any) -> None:
    x, y = drawn(200, 3), drawn(200, width, scale=scale, mean=1e3)
    model = nn.Linear(3, width)
    known = situation(model, (x, y))
    mean, deviation = (torch.tensor(v) for v in scaling.target_scale(known))
    cured = treated(known.recipe, (find("standardize_targets"),), known)
    raw = model(x)
    outputs = cured.model()(x)
    torch.testing.assert_close(outputs, raw * deviation + mean)
    expected = F.mse_loss(raw.double(), ((y - mean) / deviation).double())
    torch.testing.assert_close(loss_of(cured.model(), cured.loss, (x, y)).double(), expected, rtol=1e-4, atol=1e-4)


def test_targets_without_a_scale_to_change() -> None:
    def refusal(model: nn.Module, batch: Any, **changes: Any) -> str:
        return find("standardize_targets").unusable(situation(model, batch, **changes)) or ""

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> Tensor:
        value = (model(batch[0]) - batch[1]).square().mean()
        value.backward()
        return value.detach()

    x = drawn(300, 3)
    assert "no floating-point numbers" in refusal(nn.Linear(3, 2), (x, torch.zeros(300, dtype=torch.int64)))
    assert "standardized already" in refusal(nn.Linear(3, 1), (x, drawn(300, 1)))
    assert "in front of backward" in refusal(nn.Linear(3, 1), (x, 100 * drawn(300, 1)), step=step)
    assert "do not vary" in refusal(nn.Linear(3, 1), (x, torch.ones(300, 1)))


# -- values that are none --------------------------------------------------------------------------------------------


def test_inputs_are_cut_where_nothing_good_is() -> None:
    x = drawn(400, 3)
    x[3, 1], x[5, 0], x[7, 2] = torch.nan, torch.inf, -1e9
    model = nn.Identity()
    seen = cleaning.clean(model, situation(model, (x, None)))(x)
    assert seen.isfinite().all()
    assert float(seen.abs().max()) < 5
    good = torch.ones(400, dtype=torch.bool)
    good[[3, 5, 7]] = False
    assert torch.equal(seen[good], x[good])


def test_what_is_missing_in_a_table_becomes_the_usual_value_of_its_column() -> None:
    x = drawn(400, 3, scale=[1.0, 10.0, 1e-3], mean=[0.0, 5e3, 0.0])
    x[0, 1], x[1, 2] = torch.nan, torch.nan
    cured: Any = cleaning.clean(nn.Identity(), situation(nn.Identity(), (x, None)))
    assert float(cured(x)[0, 1]) == pytest.approx(5e3, rel=0.01)
    assert abs(float(cured(x)[1, 2])) < 1e-3


def test_large_features_are_no_outliers() -> None:
    x = drawn(400, 3, scale=[1.0, 1e6, 1e-4])
    assert "out of range" in (find("clean_batches").unusable(situation(nn.Linear(3, 1), (x, drawn(400, 1)))) or "")


def test_targets_that_are_none_do_not_count() -> None:
    outputs, targets = drawn(6, 1), drawn(6, 1) + 1
    expected = F.mse_loss(outputs[2:], targets[2:])
    targets[0], targets[1] = torch.nan, 1e9
    loss = cleaning.of_clean_targets(F.mse_loss, 10.0)
    torch.testing.assert_close(loss(outputs, targets), expected)
    outputs.requires_grad_()
    loss(outputs, torch.full((6, 1), torch.nan)).backward()
    assert torch.equal(outputs.grad, torch.zeros(6, 1))


# -- order -----------------------------------------------------------------------------------------------------------


def in_order(_: int) -> Iterator[tuple[Tensor, Tensor]]:
    for k in range(10):
        yield torch.full((6, 2), float(k)), torch.full((6,), k)


def test_mixed_batches_hold_the_same_examples() -> None:
    plain, found = list(in_order(0)), list(mixing.mixed(in_order(0), 0, count=4))
    assert [len(x) for x, _ in found] == [6] * 10
    for few in (slice(0, 4), slice(4, 8), slice(8, 10)):
        assert sorted(torch.cat([y for _, y in found[few]])) == sorted(torch.cat([y for _, y in plain[few]]))
    assert all(torch.equal(x[:, 0], y.float()) for x, y in found)
    again = list(mixing.mixed(in_order(0), 0, count=4))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(found, again, strict=True))
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(found, mixing.mixed(in_order(0), 1, 4), strict=True))


def test_only_sorted_batches_are_mixed() -> None:
    remedy, model = find("shuffle"), nn.Linear(2, 10)
    mixed = list(mixing.mixed(in_order(0), 0))
    assert remedy.unusable(situation(model, list(in_order(0)))) is None
    assert "mixed already" in (remedy.unusable(situation(model, mixed)) or "")
    assert "one shape" in (remedy.unusable(situation(model, {"x": torch.ones(2, 2)}, loss=None)) or "")
    rising = [(x, y.float() + 0.01 * drawn(6)) for x, y in in_order(0)]
    assert remedy.unusable(situation(model, rising)) is None


def test_batches_are_asked_for_with_random_states_untouched() -> None:
    def batches(_: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield torch.randn(8, 3) + 50, torch.randn(8, 1)

    recipe = Recipe(lambda: nn.Linear(3, 1), torch.optim.SGD, F.mse_loss, batches, steps=3)
    known = Situation(recipe, recipe.model(), next(batches(0)), Diagnosis(()))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert find("standardize_inputs").unusable(known) is None
    assert torch.equal(torch.rand(3), expected)
    cured = treated(recipe, (find("standardize_inputs"),), known)
    assert len(Training(cured, 0).model.state_dict()) == 4
    assert len(list(islice(batches(0), 2))) == 2
