"""Outputs and losses: what fits what, for modules and functions, and the code that does the same."""

from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.records import Diagnosis, Finding
from gradiometer.remedies import fitting, last
from gradiometer.remedies.base import Remedy, Situation, UnusableError, treated
from gradiometer.remedies.catalogue import find
from gradiometer.remedies.output import REMEDIES
from gradiometer.remedies.recipe import Recipe, loss_of
from gradiometer.trials.examination import birth
from networks_to_treat import NETWORKS
from written import same_training

SILENT = ("widen_output", "known_classes")
"""Whose sick cases raise an IndexError, so that no training of theirs can be compared step by step."""


def situation(model: nn.Module, loss: Any, targets: Tensor, **known: Any) -> Situation:
    step = known.pop("step", None)
    batch = (torch.randn(len(targets), 4, generator=torch.Generator().manual_seed(1)), targets)
    recipe = Recipe(
        lambda: copy.deepcopy(model), lambda p: torch.optim.SGD(p, 0.1), loss, lambda _: [batch], steps=1, step=step
    )
    found = known.pop("findings", ())
    first = None
    with contextlib.suppress(IndexError):
        first = birth(replace(recipe, step=None)) if loss is not None else None
    return Situation(recipe, model, batch, Diagnosis(found), first, **known)


def classes(count: int = 12) -> Tensor:
    return torch.arange(count) % 3


def network(*end: nn.Module, outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs), *end)


class Calling(nn.Module):
    """A network whose last activation is called as a function."""

    def __init__(self, function: Any, outputs: int = 3) -> None:
        super().__init__()
        self.body, self.function, self.drop = network(outputs=outputs), function, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.drop(self.body(x)))


def finding(kind: str, cause: str, **evidence: Any) -> tuple[Finding, ...]:
    return (Finding(kind, "critical", ("loss",), evidence, cause, ""),)


def refusal(name: str, known: Situation) -> str:
    return find(name).unusable(known) or ""


def loss_with(name: str, known: Situation) -> tuple[Tensor, nn.Module]:
    """The loss of the first batch with a cure, and the network."""
    cured = treated(known.recipe, (find(name),), known)
    model = cured.model()
    return loss_of(model, cured.loss, known.batch), model


@pytest.mark.parametrize(
    ("remedy", "number"),
    [
        pytest.param(r, i, id=f"{r.name}-{p.recipe.__name__}")
        for r in REMEDIES
        for i, p in enumerate(r.proofs)
        if r.name not in SILENT
    ],
)
def test_code_trains_as_the_cure_does(remedy: Remedy, number: int) -> None:
    same_training(remedy, remedy.proofs[number])


@pytest.mark.parametrize("remedy", REMEDIES, ids=lambda r: r.name)
def test_what_fits_is_left_alone(remedy: Remedy) -> None:
    for known in (
        situation(network(), F.cross_entropy, classes()),
        situation(network(nn.LogSoftmax(1)), F.nll_loss, classes()),
        situation(network(outputs=1), F.mse_loss, torch.randn(12, 1)),
        situation(network(outputs=1), F.binary_cross_entropy_with_logits, (torch.arange(12.0) % 2)[:, None]),
    ):
        reason = remedy.unusable(known)
        assert reason, remedy.name
        assert reason[0].islower() or reason.startswith("the "), reason


# -- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        network(nn.Softmax(1)),
        network(nn.Softmax(1), nn.Identity()),
        Calling(lambda y: F.softmax(y, dim=1)),
        Calling(lambda y: torch.softmax(y, 1)),
        Calling(lambda y: y.softmax(dim=-1)),
        nn.Sequential(Calling(lambda y: y.softmax(1))),
    ],
    ids=["module", "before others", "F", "torch", "method", "inside"],
)
def test_the_last_softmax_goes_and_nothing_else(model: nn.Module) -> None:
    model.eval()
    known = situation(model, F.cross_entropy, classes())
    x, targets = known.batch
    probabilities = model(x).detach()
    undone, _ = loss_with("undo_softmax", known)
    expected = F.nll_loss(probabilities.double().log(), targets)
    torch.testing.assert_close(undone.double(), expected, rtol=1e-5, atol=1e-6)
    removed, cured = loss_with("remove_softmax", known)
    torch.testing.assert_close(removed.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cured(x).softmax(1), probabilities)
    cured.train()
    if any(isinstance(m, nn.Dropout) for m in cured.modules()):
        assert not torch.equal(cured(x), cured(x)), "dropout is still there in training"


def test_an_activation_that_is_used_twice_goes_where_it_is_last() -> None:
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 1), act)
    known = situation(model, F.mse_loss, 5 * torch.randn(12, 1))
    x = known.batch[0]
    expected = model[2](act(model[0](x)))
    assert torch.equal(find("linear_output").model(model, known)(x), expected)  # type: ignore[misc]


def test_a_forward_that_cannot_be_traced() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return F.softmax(y, 1) if y.sum() > -1e9 else y

    known = situation(Branching(), F.cross_entropy, classes())
    (removed, cured), (undone, _) = loss_with("remove_softmax", known), loss_with("undo_softmax", known)
    torch.testing.assert_close(removed, undone)
    torch.testing.assert_close(cured(known.batch[0]), known.model.body(known.batch[0]))  # type: ignore[operator]
    assert "test_remedies_loss.py:" in find("remove_softmax").code(known).model


def test_a_softmax_in_the_loss_is_told_to_be_there() -> None:
    known = situation(network(), lambda y, t: F.cross_entropy(y.softmax(1), t), classes())
    assert "in the loss function" in refusal("undo_softmax", known)
    assert "do not come out" in refusal("remove_softmax", known)


@pytest.mark.parametrize("operation", ["softmax", "sigmoid", "tanh"])
def test_raw_scores_come_back(operation: str) -> None:
    raw = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 2
    activated = {"softmax": raw.softmax(1), "sigmoid": raw.sigmoid(), "tanh": raw.tanh()}[operation]
    found = fitting.raw(operation)(activated)
    shown = eval(fitting.INVERSES[operation], {"torch": torch, "outputs": activated})
    assert torch.equal(found, shown)
    expected = raw.log_softmax(1) if operation == "softmax" else raw
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_log_probabilities_for_raw_scores() -> None:
    known = situation(network(), F.nll_loss, classes())
    loss, model = loss_with("log_softmax", known)
    torch.testing.assert_close(loss, F.cross_entropy(model(known.batch[0]), known.batch[1]))
    assert "no raw scores" in refusal("log_softmax", situation(network(nn.Softmax(1)), F.nll_loss, classes()))


@pytest.mark.parametrize("model", [network(nn.LogSoftmax(0)), Calling(lambda y: y.log_softmax(0))])
def test_a_softmax_along_the_classes(model: nn.Module) -> None:
    known = situation(model.eval(), F.nll_loss, classes())
    outputs = find("softmax_dimension").model(model, known)(known.batch[0])  # type: ignore[misc]
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(12))


@pytest.mark.parametrize("end", [(), (nn.Softmax(1),), (nn.Sigmoid(),), (nn.Tanh(),)])
@pytest.mark.parametrize("rows", [True, False])
def test_cross_entropy_in_place_of_squares(end: Any, rows: bool) -> None:
    model = network(*end)

    def squares(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - (targets if rows else F.one_hot(targets, 3).float())).square().mean()

    targets = F.one_hot(classes(), 3).float() if rows else classes()
    known = situation(model, squares, targets)
    loss, cured = loss_with("cross_entropy", known)
    scores = network()(known.batch[0])  # the same weights, without the end
    torch.testing.assert_close(loss, F.cross_entropy(scores, classes()), rtol=1e-4, atol=1e-4)
    assert torch.equal(cured(known.batch[0]), model(known.batch[0]))


def test_numbers_are_no_classes() -> None:
    for targets in (torch.randn(12, 3), torch.rand(12, 3)):
        assert "no classes" in refusal("cross_entropy", situation(network(), F.mse_loss, targets))


# -- yes or no -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("name", ["bce", "bce_with_logits"])
def test_binary_cross_entropy_of_a_sigmoid(name: str, column: bool) -> None:
    model = Calling(torch.sigmoid, outputs=1).eval()
    targets = torch.arange(12.0) % 2
    known = situation(
        model, lambda y, t: (y.flatten() - t.flatten()).square().mean(), targets[:, None] if column else targets
    )
    x = known.batch[0]
    raw = model.body(x)
    before = model(x).detach()
    cured = treated(known.recipe, (find(name),), known)
    made: Any = cured.model()
    assert torch.equal(made.eval()(x), before), "in evaluation the outputs are what they were"
    made.train().drop.p = 0.0
    loss = loss_of(made, cured.loss, known.batch)
    expected = F.binary_cross_entropy_with_logits(raw[:, 0].double(), targets.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)


def test_targets_from_zero_to_one() -> None:
    targets = (2.0 * (torch.arange(12) % 2) - 1)[:, None]
    known = situation(network(outputs=1), F.binary_cross_entropy_with_logits, targets)
    loss, model = loss_with("unit_targets", known)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(model(known.batch[0]), (targets + 1) / 2))


def test_examples_without_a_class() -> None:
    targets = torch.where(torch.arange(12) % 4 == 0, -1, classes())
    known = situation(network(), F.cross_entropy, targets)
    loss, model = loss_with("known_classes", known)
    kept = targets >= 0
    torch.testing.assert_close(loss, F.cross_entropy(model(known.batch[0])[kept], targets[kept]))


def test_an_output_for_every_class() -> None:
    model = network()
    known = situation(model, F.cross_entropy, classes() + 1)
    before = model(known.batch[0]).detach()
    _, cured = loss_with("widen_output", known)
    outputs = cured(known.batch[0])
    assert outputs.shape == (12, 4)
    torch.testing.assert_close(outputs[:, :3], before)


# -- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "low", "high"), [(nn.Tanh(), -1, 1), (nn.Sigmoid(), 0, 1), (nn.ReLU(), 0, math.inf)])
def test_targets_within_the_range_of_the_outputs(end: nn.Module, low: float, high: float) -> None:
    model, targets = network(end, outputs=1), 40 * torch.randn(12, 1) - 300
    known = situation(model, F.mse_loss, targets)
    _, cured = loss_with("range_of_targets", known)
    raw = model(known.batch[0])
    shown = cured(known.batch[0])
    wide: Any = cured
    torch.testing.assert_close(shown, raw * wide.target_deviation + wide.target_mean)
    reachable = (targets - wide.target_mean) / wide.target_deviation
    assert low <= float(reachable.min())
    assert float(reachable.max()) <= high
    assert find("linear_output").unusable(known) is None


def test_targets_within_reach_stay() -> None:
    known = situation(network(nn.Tanh(), outputs=1), F.mse_loss, torch.rand(12, 1))
    assert "lie within" in refusal("linear_output", known)
    assert "lie within" in refusal("range_of_targets", known)
    assert "linear already" in refusal("linear_output", situation(network(outputs=1), F.mse_loss, torch.rand(12, 1)))


def test_one_shape() -> None:
    targets = torch.randn(12)
    known = situation(network(outputs=1), lambda y, t: (y - t).abs().mean(), targets)
    cured = treated(known.recipe, (find("squeeze_outputs"),), known)
    outputs = known.model(known.batch[0])
    assert cured.loss is not None
    torch.testing.assert_close(cured.loss(outputs, targets), F.l1_loss(outputs[:, 0], targets))


# -- signs, sums, and steps of one's own -----------------------------------------------------------------------------


def own(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> Tensor:
    optimizer.zero_grad()
    value = -F.mse_loss(model(batch[0]), batch[1])
    value.backward()
    optimizer.step()
    return value.detach()


def test_a_maximized_loss_is_turned_around_where_it_can_be() -> None:
    told = finding("diverging_loss", "the sign of the loss is turned around (neg): it is maximized")
    targets = torch.randn(12, 1)
    known = situation(network(outputs=1), lambda y, t: -F.mse_loss(y, t), targets, findings=told)
    loss, model = loss_with("negate", known)
    torch.testing.assert_close(loss, F.mse_loss(model(known.batch[0]), targets))
    known = situation(network(outputs=1), F.mse_loss, targets, findings=told, step=own)
    made = treated(known.recipe, (find("negate"),), known).optimizer(known.model.parameters())
    assert made.param_groups[0]["maximize"] is True


def test_a_step_that_has_its_own_loss_cannot_be_given_another() -> None:
    known = situation(network(nn.Softmax(1)), F.cross_entropy, classes(), step=own)
    for name in ("undo_softmax", "mean_loss"):
        assert "in front of backward()" in refusal(name, known)


def test_a_model_that_knows_its_loss_cannot_be_given_another() -> None:
    known = situation(network(), None, classes())
    for name in ("cross_entropy", "undo_softmax", "mean_loss", "bce_with_logits"):
        assert "computes its loss itself" in refusal(name, known)


def test_the_step_that_is_looked_at_leaves_no_trace() -> None:
    known = situation(network(), F.cross_entropy, classes(), step=own)
    before = [p.clone() for p in known.model.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    refusal("undo_softmax", known)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(a, b) for a, b in zip(before, known.model.parameters(), strict=True))
    assert all(p.grad is None for p in known.model.parameters())


@pytest.mark.parametrize("targets", [torch.randn(12, 3), classes()])
def test_a_mean_in_place_of_a_sum(targets: Tensor) -> None:
    plain = F.mse_loss if targets.is_floating_point() else F.cross_entropy
    known = situation(network(), lambda y, t: plain(y, t, reduction="sum"), targets)
    loss, model = loss_with("mean_loss", known)
    torch.testing.assert_close(loss, plain(model(known.batch[0]), targets))


# -- any network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_activation_of_any_network(name: str) -> None:
    torch.manual_seed(0)
    model, batch = NETWORKS[name]()
    recipe = Recipe(lambda: model, lambda p: torch.optim.SGD(p, 0.1), None, lambda _: [batch])
    known = Situation(recipe, model, batch, Diagnosis(()))
    found = last.activation_name(model, known)
    if not found:
        return
    try:
        code = last.replaced_code(known, (found,), "nn.Identity()")
        cured = last.replaced(model, known, (found,), nn.Identity)
    except UnusableError:
        return
    assert code.model
    assert last.activation_name(cured, replace(known, model=cured)) == ""
