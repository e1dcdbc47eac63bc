"""Runs a model and leaves it, and everything else, as it was."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from gradiometer.probe.graph import leaves

_PLAIN = frozenset((bool, int, float, str, tuple, type(None)))


@contextmanager
def traceless(*modules: nn.Module) -> Iterator[None]:
    """Restores everything of some modules, and the random states, when the block ends, however it ends.

    That is gradients, parameters and buffers with their values and flags, hooks, attributes, and what attributes hold:
    lists, dictionaries, sets, tensors, random generators. What lies deeper (an object that counts) stays.
    """
    with ExitStack() as undo:
        undo.callback(_random_states())
        for module in {id(m): m for root in modules for m in root.modules()}.values():
            undo.callback(_attributes(module))
        tensors = {id(t): t for m in modules for t in (*m.parameters(), *m.buffers())}
        undo.callback(_values(list(tensors.values())))
        undo.callback(_gradients(list(tensors.values())))
        yield


def _gradients(tensors: list[Tensor]) -> Callable[[], None]:
    """Puts gradients and flags back; apart from the values, so that nothing that goes wrong there can cost them."""
    held = [(t, t.grad, t.requires_grad) for t in tensors if t.is_leaf]
    for t, _, _ in held:
        t.grad = None

    def restore() -> None:
        for t, gradient, flag in held:
            t.grad = gradient
            t.requires_grad_(flag)

    return restore


def _values(tensors: list[Tensor]) -> Callable[[], None]:
    """Puts values that have changed back, and the count of changes too: a backward pass still to come asks for it.

    What is no plain piece of memory (sparse, nested, on the meta device) stays as it is.
    """
    plain = [t for t in tensors if t.layout is torch.strided and not t.is_nested and t.device.type != "meta"]
    versions = [None if t.is_inference() else t._version for t in plain]
    kept = [t.detach().clone() for t in plain]

    def restore() -> None:
        for t, value, version in zip(plain, kept, versions, strict=True):
            # Both: batch normalization and `.data` do not count what they change, and what is counted need not change.
            if version is None or (t._version == version and _same(t.detach(), value)):
                continue
            with torch.no_grad():
                t.copy_(value)
            _set_version(t, version)

    return restore


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def _set_version(t: Tensor, version: int) -> None:
    """By the context manager of torch that keeps a count, whose way of keeping it differs from version to version."""
    keeper: Any = torch.autograd._unsafe_preserve_version_counter(t)
    keeper.prev_version, keeper.prev_versions = version, (version,)
    keeper.__exit__()


def _attributes(module: nn.Module) -> Callable[[], None]:
    """Counters and caches, those that a forward pass sets anew and those that it changes in place, and hooks."""
    plain = dict(module.__dict__)
    undo = [act for value in plain.values() if (act := _held(value)) is not None]

    def restore() -> None:
        module.__dict__.clear()
        module.__dict__.update(plain)
        for act in undo:
            act()

    return restore


def _held(value: Any) -> Callable[[], object] | None:
    """How to bring the content of one attribute back, ``None`` if it has none that can change."""
    if type(value) in _PLAIN:
        return None
    if isinstance(value, (dict, set)):
        return partial(_refill, value, value.copy(), value.update)
    if isinstance(value, (list, deque)):
        return partial(_refill, value, list(value), value.extend)
    if isinstance(value, Tensor):
        return _values([value])
    if isinstance(value, np.ndarray):
        return partial(np.copyto, value, value.copy())
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", copy.deepcopy(value.bit_generator.state))
    return None


def _refill(container: Any, content: Any, fill: Callable[[Any], object]) -> None:
    container.clear()
    fill(content)


def _random_states() -> Callable[[], None]:
    cpu, numpy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []

    def restore() -> None:
        torch.set_rng_state(cpu)
        np.random.set_state(numpy)
        random.setstate(python)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    return restore


@contextmanager
def unfused() -> Iterator[None]:
    """While it lasts recurrent layers run step by step, so that every step has its nodes in autograd's graph."""
    mkldnn = torch._C._get_mkldnn_enabled()
    cudnn = torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(mkldnn)
        torch._C._set_cudnn_enabled(cudnn)


@contextmanager
def without_reentrant_checkpoints(inputs: Container[int]) -> Iterator[None]:
    """While it lasts a reentrant checkpoint keeps what it computes: its own graph is out of sight of the loss.

    One that only gets the network's inputs (``inputs`` holds their ``id``) passes no gradient on in a training, where
    these have none; so it does here.
    """
    missing = "apply" not in vars(CheckpointFunction)
    held: Any = vars(CheckpointFunction).get("apply")

    def apply(run: Callable[..., Any], preserve: bool, *args: Any) -> Any:  # noqa: ARG001 - torch calls it so
        asked = [x for x in args if isinstance(x, Tensor) and x.requires_grad]
        with torch.set_grad_enabled(any(id(leaf) not in inputs for x in asked for leaf in leaves(x))):
            return run(*args)

    CheckpointFunction.apply = staticmethod(apply)  # type: ignore[method-assign]
    try:
        yield
    finally:
        if missing:
            del CheckpointFunction.apply
        else:
            CheckpointFunction.apply = held
