"""A recipe that cannot be tried is refused with the one thing to change, before minutes are spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradiometer as gm
from gradiometer.trials.checks import check, scored

X, Y = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3


def batches(seed: int):
    order = torch.Generator().manual_seed(seed)
    while True:
        picked = torch.randint(64, (16,), generator=order)
        yield X[picked], Y[picked]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


GOOD = gm.Recipe(lambda: nn.Linear(4, 3), sgd, cross_entropy, batches, steps=5)
ONE = nn.Linear(4, 3)
OPTIMIZER = sgd(ONE.parameters())
USED_UP = iter([(X, Y)])
SHUFFLED = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 16, shuffle=True)
calls = iter(range(10**6))


def raises(*_: Any) -> Any:
    raise KeyError("missing")


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no recipe": (lambda: nn.Linear(4, 3), "needs a gradiometer.Recipe and got Linear"),
    "the network itself": (lambda: replace(GOOD, model=ONE), "model is a function that builds the network"),
    "the same network twice": (lambda: replace(GOOD, model=lambda: ONE), "same network twice"),
    "shared parameters": (lambda: replace(GOOD, model=lambda: nn.Sequential(ONE)), "same network twice"),
    "no network": (lambda: replace(GOOD, model=lambda: 3), "must return a torch.nn.Module and returned int"),
    "no parameters": (lambda: replace(GOOD, model=nn.ReLU), "has no parameters"),
    "a model that cannot be built": (lambda: replace(GOOD, model=raises), "model.* failed with KeyError"),
    "no optimizer": (lambda: replace(GOOD, optimizer=list), "must return a torch.optim.Optimizer and returned list"),
    "the same optimizer twice": (lambda: replace(GOOD, optimizer=lambda _: OPTIMIZER), "same optimizer twice"),
    "batches that are used up": (lambda: replace(GOOD, batches=lambda _: USED_UP), "same iterator twice"),
    "no batches": (lambda: replace(GOOD, batches=lambda _: []), "yields nothing"),
    "batches that are none": (lambda: replace(GOOD, batches=lambda _: 3), "something to iterate over"),
    "other batches of the same seed": (
        lambda: replace(GOOD, batches=lambda _: [(X + next(calls), Y)]),
        "yields other batches",
    ),
    "a loss with other arguments": (lambda: replace(GOOD, loss=lambda a, b, c: a), "first step .* with TypeError"),
    "a loss that is a class": (lambda: replace(GOOD, loss=nn.CrossEntropyLoss), "write loss=CrossEntropyLoss"),
    "an evaluation that fails": (lambda: replace(GOOD, evaluate=raises), "evaluate.* failed with KeyError"),
    "an evaluation that is no number": (lambda: replace(GOOD, evaluate=lambda _: "good"), "evaluate.* failed"),
    "no steps": (lambda: replace(GOOD, steps=0), "steps is a whole number from 1 on"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_clear_error_first(name: str) -> None:
    make, text = BAD[name]
    with pytest.raises(gm.InputError, match=text):
        check(make(), None, 3, None)


@pytest.mark.parametrize("given", [{"steps": -1}, {"seeds": 0}, {"time_limit": 0}], ids=str)
def test_numbers_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(gm.InputError, match=next(iter(given))):
        gm.prescribe(GOOD, **given)


def test_unknown_words() -> None:
    with pytest.raises(gm.InputError, match="no remedy 'snake_oil'"):
        gm.prescribe(GOOD, remedies=["snake_oil"])
    with pytest.raises(gm.InputError, match="executor"):
        gm.prescribe(GOOD, executor="cloud")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "recipe",
    [
        GOOD,
        replace(GOOD, batches=lambda _: [(X, Y)]),
        replace(GOOD, batches=lambda _: SHUFFLED),
        replace(GOOD, loss=nn.CrossEntropyLoss(), evaluate=lambda _: torch.tensor(0.5)),
    ],
    ids=["endless", "finite", "a loader that shuffles by the global generator", "modules and tensors"],
)
def test_good_recipes_pass(recipe: gm.Recipe) -> None:
    check(recipe, None, 3, None)


def test_without_evaluate_the_score_is_minus_the_loss() -> None:
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    evaluate = scored(GOOD).evaluate
    assert evaluate is not None
    assert evaluate(model) == pytest.approx(-torch.log(torch.tensor(3.0)).item(), abs=1e-6)
