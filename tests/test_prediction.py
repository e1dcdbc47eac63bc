"""The gradient that a remedy will bring to the first layer is predicted before its first step, and measured in it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch.nn.functional import cross_entropy

from gradiometer.networks import mlp
from gradiometer.remedies.base import Situation, treated
from gradiometer.remedies.cases.activation import accuracy, batches
from gradiometer.remedies.catalogue import find
from gradiometer.remedies.prediction import gradient, predicted
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.examination import examine
from gradiometer.trials.training import Training

DEPTH = 10


@cache
def situation(activation: str) -> Situation:
    recipe = Recipe(
        model=lambda: mlp(64, 128, DEPTH, 10, activation),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
        loss=cross_entropy,
        batches=batches,
        evaluate=accuracy,
        steps=3,
    )
    return examine(recipe)[1]


def measured(of: Situation, *names: str) -> float | None:
    training = Training(treated(of.recipe, tuple(find(name) for name in names), of), 0)
    training.advance(1)
    return training.gradient


CASES = [
    (activation, names)
    for activation in ("sigmoid", "tanh", "relu")
    for names in (
        ("relu",), ("elu",), ("gelu",), ("silu",), ("tanh",), ("batch_norm",), ("layer_norm",), ("rms_norm",), ("he",),
        ("orthogonal",), ("lsuv",), ("xavier",), ("relu", "he"), ("selu", "lecun"), ("elu", "batch_norm"),
        ("adam",), ("small_output",), ("bias",),
    )
    if activation not in names and find(names[0]).unusable(situation(activation)) is None
]  # fmt: skip


@pytest.mark.parametrize(("activation", "names"), CASES, ids=lambda v: v if isinstance(v, str) else "+".join(v))
def test_predicted_and_measured_agree(activation: str, names: tuple[str, ...]) -> None:
    """Within a tenth of a decade for each of the ten layers."""
    of = situation(activation)
    said = predicted(of.birth, [find(name) for name in names])
    found = measured(of, *names)
    assert said is not None
    assert found is not None
    assert said == pytest.approx(found, abs=0.1 * DEPTH)


def test_untreated_it_is_what_the_reading_says() -> None:
    of = situation("sigmoid")
    assert gradient(of.birth) == pytest.approx(measured(of), abs=1e-3)
    assert predicted(of.birth, ()) == gradient(of.birth)


def test_what_cannot_be_predicted_is_not() -> None:
    assert predicted(situation("sigmoid").birth, [find("residual_rezero")]) is None
    assert predicted(None, [find("he")]) is None
