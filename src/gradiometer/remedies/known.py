"""What the remedies of data, loss and optimization ask of a situation."""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradiometer.probe.given import call
from gradiometer.probe.outputs import tensors
from gradiometer.probe.traceless import traceless
from gradiometer.records import Finding, Task
from gradiometer.remedies.base import Situation, UnusableError

FEW = 10
"""Batches from which the scale of a data set is known well enough."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A block after which the random states are what they were."""
    numpy, python = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            np.random.set_state(numpy)
            random.setstate(python)


def objection(plan: Callable[[Situation], object]) -> Callable[[Situation], str | None]:
    """``unusable`` of a remedy whose plan raises where it cannot be made."""

    def unusable(situation: Situation) -> str | None:
        try:
            plan(situation)
        except UnusableError as error:
            return str(error)
        return None

    return unusable


def tasks(situation: Situation) -> tuple[Task, ...]:
    """What the losses of a step compare, of the newest reading that knows."""
    readings = (situation.last, situation.early, situation.birth)
    return next((reading.tasks for reading in readings if reading is not None and reading.tasks), ())


def findings(situation: Situation, kind: str, *words: str) -> list[Finding]:
    """The findings of a kind in whose cause one of these words stands; of any cause without words."""
    found = [finding for finding in situation.diagnosis if finding.kind == kind]
    return [f for f in found if not words or any(word in f.cause for word in words)]


@lru_cache(maxsize=4)
def _batches(batches: Callable[[int], Any], count: int) -> tuple[Any, ...]:
    with undisturbed():
        torch.manual_seed(0)  # a loader may shuffle by the global generator
        return tuple(islice(batches(0), count))


def first_batches(situation: Situation, count: int = FEW) -> tuple[Any, ...]:
    """The first batches of the recipe, whose statistics stand for those of the data set."""
    batches = situation.recipe.batches
    kept = _batches if isinstance(batches, Hashable) else _batches.__wrapped__
    return kept(batches, count)


def inputs_of(batch: Any) -> Any:
    """What a model gets of a batch."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def targets_of(batch: Any) -> Tensor | None:
    """The targets of a batch, if they are one tensor."""
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    return batch[1] if pair and isinstance(batch[1], Tensor) else None


def outputs_of(model: nn.Module, situation: Situation) -> Any:
    """What a network gives for the first batch; nothing of it is changed."""
    with traceless(model), torch.no_grad():
        return call(model, inputs_of(situation.batch))


NO_SIGNAL = ("label", "target", "mask", "weight")
"""In the names of keywords: what is no signal."""


def is_signal(name: str) -> bool:
    """Whether a keyword names what a network looks at."""
    return name.lower() != "y" and not any(word in name.lower() for word in NO_SIGNAL)


def signal_of(inputs: Any) -> Tensor | None:
    """The first floating-point tensor among a model's inputs."""
    if isinstance(inputs, Mapping):
        inputs = {name: value for name, value in inputs.items() if is_signal(str(name))}
    return next((x for _, x in tensors(inputs) if x.is_floating_point()), None)


def made_optimizer(situation: Situation) -> Optimizer:
    """An optimizer as the recipe makes it, of a copy of the network, to look at its options."""
    with undisturbed():
        return situation.recipe.optimizer(copy.deepcopy(situation.model).parameters())


@dataclass(frozen=True)
class OwnStep:
    """What a step of one's own was seen to do: whether it asks for the loss function that it is given, the format
    of ``torch.autocast`` around its forward pass, and whether the network is in eval mode there.
    """

    asks: bool = False
    autocast: torch.dtype | None = None
    evaluates: bool = False


def own_step(situation: Situation) -> OwnStep:
    """One step of one's own, taken by a copy of the network and looked at."""
    kept = vars(situation)  # as functools.cached_property does it
    if "_own_step" not in kept:
        kept["_own_step"] = _looked_at(situation)
    return kept["_own_step"]


def _looked_at(situation: Situation) -> OwnStep:
    recipe, seen = situation.recipe, OwnStep()
    assert recipe.step is not None

    def loss(outputs: Any, targets: Any) -> Any:
        nonlocal seen
        seen = replace(seen, asks=True)
        return recipe.loss(outputs, targets) if recipe.loss is not None else outputs

    def called(model: nn.Module, _: Any) -> None:
        nonlocal seen
        device = next((p.device.type for p in model.parameters()), "cpu")
        inside = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        seen = replace(seen, autocast=inside, evaluates=not model.training)

    with undisturbed(), contextlib.suppress(Exception):
        model = copy.deepcopy(situation.model).train()
        model.register_forward_pre_hook(called)
        recipe.step(model, recipe.optimizer(model.parameters()), loss, copy.deepcopy(situation.batch))
    return seen


def needs_own_loss(situation: Situation) -> None:
    """Raises where another loss function would change nothing.

    Raises:
        UnusableError: where the model computes its loss itself, or a step of one's own does.
    """
    recipe = situation.recipe
    if recipe.loss is None:
        raise UnusableError("the model computes its loss itself: what is to be changed there stands in its forward")
    if recipe.step is not None and not own_step(situation).asks:
        raise UnusableError(
            "the step computes its loss itself and leaves the one that it is given: change the line in front of "
            "backward() there"
        )


def ratio(situation: Situation) -> float | None:
    """The usual update-to-weight ratio of a weight matrix: the larger of the medians at the beginning and at the end.

    Vectors are left out, since biases begin at zero, and so is a reading at the foot of a warm-up by the larger one.
    """
    found = []
    for reading in (situation.early, situation.last):
        rows = reading.parameters if reading is not None else ()
        matrices = [
            p for p in rows if len(p.parameter.shape) > 1 and p.parameter.trainable and p.parameter.optimizer >= 0
        ]
        values = [p.ratio for p in matrices if p.ratio is not None and math.isfinite(p.ratio)]
        found += [median(values)] if values else []
    return max(found, default=None)


def rounded(value: float, digits: int = 3) -> float:
    """To so many significant digits, as one writes a constant.

    Example:
        >>> rounded(123456.0), rounded(0.0012345)
        (123000.0, 0.00123)
    """
    return float(f"{value:.{digits - 1}e}") if math.isfinite(value) else value


def literal(value: float | list[float]) -> str:
    """A number, or a list of them, as one writes it.

    Example:
        >>> literal([0.5, 2.0]), literal(1e-5)
        ('[0.5, 2.0]', '1e-05')
    """
    return repr([float(v) for v in value] if isinstance(value, list) else float(value))
