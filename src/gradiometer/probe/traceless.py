"""Runs a model and leaves it, and everything else, as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

_CONTAINERS = ("_buffers", "_parameters", "_modules", "_non_persistent_buffers_set")


@contextmanager
def traceless(*modules: nn.Module) -> Iterator[None]:
    """Restores gradients, buffers, plain attributes and random states when the block ends, however it ends."""
    with ExitStack() as undo:
        undo.callback(_random_states())
        for module in {id(m): m for root in modules for m in root.modules()}.values():
            undo.callback(_attributes(module))
        gradients = [(p, p.grad) for root in modules for p in root.parameters()]
        for p, _ in gradients:
            p.grad = None
        undo.callback(_restore_gradients, gradients)
        yield


def _restore_gradients(gradients: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> None:
    for p, gradient in gradients:
        p.grad = gradient


def _attributes(module: nn.Module) -> Callable[[], None]:
    """Counters and caches that a forward pass sets anew come back; buffers get their values back in place."""
    plain = dict(module.__dict__)
    held = {name: dict(plain[name]) for name in _CONTAINERS if isinstance(plain.get(name), dict)}
    values = [(b, b.detach().clone()) for b in module._buffers.values() if b is not None]

    def restore() -> None:
        module.__dict__.clear()
        module.__dict__.update(plain)
        for name, entries in held.items():
            module.__dict__[name].clear()
            module.__dict__[name].update(entries)
        with torch.no_grad():
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)

    return restore


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
def without_reentrant_checkpoints() -> Iterator[None]:
    """While it lasts a reentrant checkpoint keeps what it computes: its own graph is out of sight of the loss."""
    missing = "apply" not in vars(CheckpointFunction)
    held: Any = vars(CheckpointFunction).get("apply")

    def apply(run: Callable[..., Any], preserve: bool, *args: Any) -> Any:  # noqa: ARG001 - torch calls it so
        return run(*args)

    CheckpointFunction.apply = staticmethod(apply)  # type: ignore[method-assign]
    try:
        yield
    finally:
        if missing:
            del CheckpointFunction.apply
        else:
            CheckpointFunction.apply = held
