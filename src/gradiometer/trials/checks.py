"""What a recipe must be, told before minutes are spent on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import nn

from gradiometer.errors import InputError
from gradiometer.probe.outputs import tensors
from gradiometer.remedies.recipe import Recipe, loss_of
from gradiometer.trials.training import Batches, RandomStates, Training, autocast, endless

OTHER = 7919
"""Added to a seed for batches that no training sees; prime, so that nobody's own seeds are likely to be hit."""

BATCHES = 4
"""Batches that a loss is judged on where there is no ``evaluate``."""

T = TypeVar("T")


def check(recipe: Any, steps: int | None, seeds: int, time_limit: float | None) -> None:
    """Refuses what cannot be tried, with the one thing to change; takes one step of a training that is thrown away."""
    if not isinstance(recipe, Recipe):
        raise InputError(
            f"prescribe needs a gradiometer.Recipe and got {type(recipe).__name__}. Write "
            "gm.Recipe(model=..., optimizer=..., loss=..., batches=...), each a function that builds its part anew."
        )
    _counts("steps", recipe.steps if steps is None else steps)
    _counts("seeds", seeds)
    if time_limit is not None and not (isinstance(time_limit, Real) and time_limit > 0):
        raise InputError(f"time_limit is in seconds, above 0, and not {time_limit!r}.")
    _functions(recipe)
    _built_anew(recipe)
    _same_batches(recipe)
    _one_step(recipe)


def scored(recipe: Recipe) -> Recipe:
    """The recipe with a score: its own, or minus the loss on batches of another seed.

    It is the loss of this recipe also for a twin that trains with another: otherwise they could not be compared.
    """
    if recipe.evaluate is not None:
        return recipe

    def evaluate(model: nn.Module) -> float:
        device = next((p.device.type for p in model.parameters()), "cpu")
        batches: Iterator[Any] = endless(recipe, OTHER)
        with autocast(recipe, device), torch.no_grad():
            losses = [float(loss_of(model, recipe.loss, next(batches))) for _ in range(BATCHES)]
        return -math.fsum(losses) / BATCHES

    return replace(recipe, evaluate=evaluate)


def _counts(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is a whole number from 1 on, and not {value!r}.")


def _functions(recipe: Recipe) -> None:
    for name in ("model", "optimizer", "batches"):
        given = getattr(recipe, name)
        if isinstance(given, nn.Module):
            raise InputError(
                f"{name} is a function that builds the network, and not the network itself: it is trained several "
                f"times from the beginning. Write {name}=lambda: {type(given).__name__}(...)."
            )
        if not callable(given):
            argument = {"optimizer": "parameters", "batches": "seed"}.get(name, "")
            raise InputError(
                f"{name} is a function that builds its part anew, and not {type(given).__name__}: "
                f"write {name}=lambda{' ' if argument else ''}{argument}: ..."
            )
    for name in ("loss", "evaluate", "step", "schedule"):
        given = getattr(recipe, name)
        if isinstance(given, type) and name == "loss":
            raise InputError(f"loss is a function, and not a class: write loss={given.__name__}().")
        if given is not None and not callable(given):
            raise InputError(f"{name} is a function, and not {getattr(given, '__name__', type(given).__name__)}.")


def _built_anew(recipe: Recipe) -> None:
    first, second = _made("model", recipe.model), _made("model", recipe.model)
    if not isinstance(first, nn.Module):
        raise InputError(f"model() must return a torch.nn.Module and returned {type(first).__name__}.")
    if not list(first.parameters()):
        raise InputError(f"{type(first).__name__} has no parameters, so nothing of it can be trained.")
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    if first is second or shared:
        raise InputError(
            "model() returns the same network twice, so that one training would go on where another ended. Build "
            "it inside of the function."
        )
    optimizers = [_made("optimizer", lambda m=m: recipe.optimizer(m.parameters())) for m in (first, second)]
    if not isinstance(optimizers[0], torch.optim.Optimizer):
        raise InputError(
            f"optimizer(parameters) must return a torch.optim.Optimizer and returned {type(optimizers[0]).__name__}."
        )
    if optimizers[0] is optimizers[1]:
        raise InputError("optimizer(parameters) returns the same optimizer twice. Build it inside of the function.")


def _same_batches(recipe: Recipe) -> None:
    made = [_made("batches", lambda: recipe.batches(0)) for _ in range(2)]
    for one in made:
        if not hasattr(one, "__iter__"):
            raise InputError(f"batches(seed) must return something to iterate over, and returned {type(one).__name__}.")
    if made[0] is made[1] and iter(made[0]) is made[0]:
        raise InputError(
            "batches(seed) returns the same iterator twice, so that the second training would begin where the first "
            "one stopped. Make it inside of the function, from the seed."
        )
    first, second = (next(Batches(recipe, 0)) for _ in range(2))
    alike = zip(tensors(first), tensors(second), strict=False)
    if not all(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for (_, a), (_, b) in alike):
        raise InputError(
            "batches(0) yields other batches when it is called again, so that two trainings could not be compared. "
            "Draw them from a generator that is made from the seed: torch.Generator().manual_seed(seed)."
        )


def _one_step(recipe: Recipe) -> None:
    training = Training(recipe, 0)
    training.advance(1)
    if isinstance(training.error, InputError):
        raise training.error
    if training.error is not None:
        raise InputError(
            f"the first step of a training failed with {training.failure}. The model is called with the inputs of a "
            "batch, and loss with (outputs, targets); a loop of another kind can be given as step=."
        ) from training.error
    if recipe.evaluate is not None:
        try:
            with RandomStates(), torch.no_grad():
                float(recipe.evaluate(training.model.eval()))
        except Exception as error:
            raise InputError(
                f"evaluate(model) failed with {type(error).__name__}: {error}. It gets the model in eval mode, and "
                "returns one number, higher is better."
            ) from error


def _made(name: str, build: Callable[[], T]) -> T:
    try:
        return build()
    except Exception as error:
        raise InputError(f"{name}(...) of the recipe failed with {type(error).__name__}: {error}") from error
