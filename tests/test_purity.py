"""The observer changes nothing: whatever is trained, with and without a watch, is the same bit for bit."""

from __future__ import annotations

import random
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.checkpoint import CheckpointFunction

import gradiometer as gm
from trainings import KINDS, Training

STEPS = 6
WATCHES = {
    "every step": {"every": 1},
    "default budget": {},
    "parameters": {"every": 1, "level": "parameters"},
    "every third": {"every": 3},
}


def places() -> dict[str, Any]:
    """What the instrument may replace while it needs to."""
    return {
        "call": nn.Module.__call__,
        "backward": torch.autograd.backward,
        "grad": torch.autograd.grad,
        "recompute": CheckpointFunction.backward,
        "scale": torch.amp.GradScaler.scale,
        "before step": dict(_global_optimizer_pre_hooks),
        "after step": dict(_global_optimizer_post_hooks),
    }


UNTOUCHED = places()


def modules(training: Training) -> list[nn.Module]:
    return training.model if isinstance(training.model, list) else [training.model]


def assert_untouched(training: Training) -> None:
    assert places() == UNTOUCHED
    for module in (m for model in modules(training) for m in model.modules()):
        held = [name for name, hooks in vars(module).items() if name.endswith("_hooks") and hooks]
        assert not held, f"{type(module).__name__} has {held}"
    for optimizer in training.optimizers:
        held = [name for name, hooks in vars(optimizer).items() if name.endswith("_hooks") and hooks]
        assert not held, f"{type(optimizer).__name__} has {held}"
    assert not [p for model in modules(training) for p in model.parameters() if p._backward_hooks]
    assert torch.overrides._get_current_function_mode() is None


def leaves(value: Any) -> list[Any]:
    """All that is in a nested state, in order."""
    if isinstance(value, dict):
        return [leaf for key, v in value.items() for leaf in (str(key), *leaves(v))]
    if isinstance(value, Tensor) and value.is_sparse:
        value = [value._indices(), value._values()]
    return [leaf for v in value for leaf in leaves(v)] if isinstance(value, (list, tuple)) else [value]


def train(name: str, options: dict[str, Any] | None) -> tuple[Training, list[Any], gm.watch | None]:
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    torch._dynamo.reset()
    training = KINDS[name]()
    watch = None if options is None else gm.watch(training.model, training.optimizers or None, **options)
    with watch or nullcontext(), warnings.catch_warnings():
        if name.startswith("compiled"):  # the compiler's own; what it says of code that is ours stays an error
            warnings.filterwarnings("ignore")
            warnings.filterwarnings("error", message="Dynamo ")
        seen = [training.step(i) for i in range(STEPS)]
    state = [
        seen,
        [m.state_dict() for m in modules(training)],
        [[p.grad for p in m.parameters()] for m in modules(training)],
        [o.state_dict() for o in training.optimizers],
        [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64)), random.getstate()],
    ]
    return training, leaves(state), watch


@pytest.fixture(scope="module")
def unwatched() -> dict[str, list[Any]]:
    return {}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("how", WATCHES)
@pytest.mark.parametrize("name", KINDS)
def test_training_is_the_same_to_the_bit(name: str, how: str, unwatched: dict[str, list[Any]]) -> None:
    if name not in unwatched:
        unwatched[name] = train(name, None)[1]
    training, watched, watch = train(name, WATCHES[how])
    assert_untouched(training)
    assert len(watched) == len(unwatched[name])
    for a, b in zip(unwatched[name], watched, strict=True):
        if isinstance(a, Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        else:
            assert a == b
    assert watch is not None
    run = watch.run
    assert run.notes == ()
    assert run.finished
    assert any(p.grad_rms is not None for r in run.readings for p in r.parameters)
    full = training.sites and how != "parameters"
    assert any(s.grad_rms is not None for r in run.readings for s in r.sites) == full


def test_between_sampled_steps_there_is_only_the_counter() -> None:
    torch.manual_seed(3)
    training = KINDS["perceptron"]()
    with gm.watch(training.model, training.optimizers, every=1000):
        while_sampled = places()
        training.step(0)
        for i in range(3):
            between = places()
            changed = {what for what in between if between[what] != UNTOUCHED[what]}
            assert changed == {"backward", "scale", "after step"}
            assert len(between["after step"]) == 1
            training.step(i + 1)
    assert {what for what in while_sampled if while_sampled[what] != UNTOUCHED[what]} == set(UNTOUCHED)
    assert_untouched(training)


def test_two_watches_at_once_leave_nothing_behind() -> None:
    torch.manual_seed(3)
    first, second = KINDS["perceptron"](), KINDS["gan"]()
    with gm.watch(first.model, first.optimizers, every=2) as a:
        first.step(0)
        with gm.watch(second.model, second.optimizers, every=1) as b:
            for i in range(4):
                first.step(i)
                second.step(i)
        first.step(5)
    for training in (first, second):
        assert_untouched(training)
    assert (a.run.steps, [r.step for r in a.run.readings], a.run.notes) == (6, [0, 2, 4], ())
    assert (b.run.steps, len(b.run.readings), b.run.notes) == (4, 8, ())
    assert all(s.grad_rms is not None for r in a.run.readings for s in r.sites)
