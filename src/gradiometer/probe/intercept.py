"""The patches on torch, in one place, shared by all watches of the process, each there only while it is needed.

| what | while | why |
|---|---|---|
| ``torch.autograd.backward`` | a watch is on | the loss, and where a pass ends |
| ``torch.amp.GradScaler.scale`` | a watch is on | the loss before it is scaled |
| step hooks of all optimizers | a watch is on (the hook before the step: a window is open) | counting steps |
| ``nn.Module.__call__`` | a window is open | which module is running |
| ``torch.autograd.grad`` | a window is open | gradients that are not those of the training |
| ``CheckpointFunction.backward`` | a window is open | what a reentrant checkpoint computes again |

A patch on the class and not a hook on each module: installing it costs nothing however deep the model is, and
the attention modules of torch.nn look for hooks and compute differently (fused or not) when they find one.

A compiler must not trace any of this. All of it steps aside while one is at work (an optimizer's step that is compiled
is therefore not counted), a compiled module is called with the patch on modules taken away, and ``backward``, which
is never a part of compiled code, is kept from being compiled by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.checkpoint import CheckpointFunction

from gradiometer.probe.operations import is_compiled

if TYPE_CHECKING:
    from gradiometer.probe.engine import Probe
    from gradiometer.probe.sites import SiteTracker


class Bystander(Protocol):
    """Whatever module calls can be led through while a window is open."""

    thread: int
    sites: SiteTracker

    def wants(self, module: nn.Module) -> bool:
        """Whether a module's call is led through here."""
        ...

    def call(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Stands in for the call."""
        ...

    def stepping(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """An optimizer is about to step."""
        ...


_watching: list[Probe] = []
_windows: list[Bystander] = []
_undo_watching: list[Callable[[], None]] = []
_undo_windows: list[Callable[[], None]] = []
_late: list[Any] = []
_scaled: list[tuple[Any, Tensor]] = []  # nodes of the graph that multiply with a scale, and the scale
_HOPS = 8


def start(probe: Probe) -> None:
    """Tells a probe of every backward and every optimizer step from now on."""
    _watching.append(probe)
    if len(_watching) == 1:
        _patch(_undo_watching, torch.autograd, "backward", _backward)
        _patch(_undo_watching, torch.amp.GradScaler, "scale", _scale)
        _hook(_undo_watching, register_optimizer_step_post_hook, _stepped)


def stop(probe: Probe) -> None:
    """Ends what `start` began."""
    if probe in _watching:
        _watching.remove(probe)
    if not _watching:
        _undo(_undo_watching)
        _scaled.clear()


def open_window(probe: Bystander) -> None:
    """Leads every module call through a probe from now on."""
    _windows.append(probe)
    if len(_windows) == 1:
        _patch(_undo_windows, nn.Module, "__call__", _call)
        _patch(_undo_windows, torch.autograd, "grad", _grad)
        _patch(_undo_windows, CheckpointFunction, "backward", _recompute)
        _hook(_undo_windows, register_optimizer_step_pre_hook, _stepping)


def close_window(probe: Bystander) -> None:
    """Ends what `open_window` began."""
    if probe in _windows:
        _windows.remove(probe)
    if not _windows:
        _undo(_undo_windows)


@contextmanager
def alone(probe: Bystander) -> Iterator[None]:
    """While it lasts module calls are led through this one only, and no watch hears of anything: a pass apart."""
    watching, windows = _watching[:], _windows[:]
    for other in windows:
        close_window(other)
    _watching.clear()
    open_window(probe)
    try:
        yield
    finally:
        close_window(probe)
        _watching.extend(watching)
        for other in windows:
            open_window(other)


@contextmanager
def without_others(probe: Probe | None) -> Iterator[None]:
    """While it lasts no other watch of the process hears of anything: what runs is not theirs."""
    watching, windows = [p for p in _watching if p is not probe], [p for p in _windows if p is not probe]
    for other in windows:
        close_window(other)
    for other in watching:
        stop(other)
    try:
        yield
    finally:
        for other in watching:
            start(other)
        for other in windows:
            open_window(other)


def grad(*args: Any, **kwargs: Any) -> Any:
    """``torch.autograd.grad`` as torch has it, for gradients that are ours to see."""
    plain = torch.autograd.grad
    return getattr(plain, "__wrapped__", plain)(*args, **kwargs)


def remove_late() -> None:
    """Removes what could not be removed while it ran; see `_hook`."""
    while _late:
        _late.pop().remove()


def scale_of(root: Tensor) -> Tensor | float:
    """The factor by which a gradient scaler has multiplied what backward is called on, 1 if none has.

    The scaled loss itself, or what is made of it in a few operations: divided by the number of batches, summed up.
    """
    if not _scaled:
        return 1.0
    scaled, nodes = dict(_scaled), [root.grad_fn]
    _scaled.clear()  # they hold on to their graphs
    for _ in range(_HOPS):
        for node in nodes:
            if node in scaled:
                return scaled[node]
        nodes = [parent for node in nodes if node is not None for parent, _ in node.next_functions][:_HOPS]
    return 1.0


# -- the replacements ---------------------------------------------------------------------------------------------


@cache  # the same object for every window, since compiled code is thrown away when what it was made with has changed
def _make(original: Callable[..., Any], name: str, replacement: Callable[..., Any]) -> Callable[..., Any]:
    def patched(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if is_compiling() else replacement(original, *args, **kwargs)

    out: Any = torch.compiler.disable(patched) if replacement is _backward else patched
    out.__name__, out.__qualname__, out.__doc__ = name, original.__qualname__, original.__doc__
    out.__wrapped__ = original
    return out


def _patch(undo: list[Callable[[], None]], owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    held = vars(owner)[name]
    setattr(owner, name, _make(getattr(owner, name), name, replacement))
    undo.append(lambda: setattr(owner, name, held))


def _hook(undo: list[Callable[[], None]], register: Callable[..., Any], act: Callable[..., None]) -> None:
    """Registers a hook on all optimizers.

    Torch goes through its hooks while they run, and stumbles over one that removes itself and is not the last. Such a
    one (after a fault) stays, with nothing to do, until the block of the watch ends and calls `remove_late`.
    """

    def run(*args: Any) -> None:
        nonlocal running
        if not is_compiling():
            running = True
            try:
                act(*args)
            finally:
                running = False

    running, handle = False, register(run)
    undo.append(lambda: _late.append(handle) if running else handle.remove())


def _undo(actions: list[Callable[[], None]]) -> None:
    while actions:
        actions.pop()()


def _here(probe: Bystander) -> bool:
    # Backward has threads of its own on an accelerator, where a checkpoint then calls its modules again.
    return probe.thread == threading.get_ident() or probe.sites.backward > 0


def _call(original: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not is_compiled(module):
        return _lead(original, module, args, kwargs)
    patched, nn.Module.__call__ = nn.Module.__call__, original
    try:
        return _lead(original, module, args, kwargs)
    finally:
        if _windows:  # else the window was closed in there
            nn.Module.__call__ = patched


def _lead(original: Any, module: nn.Module, args: Any, kwargs: Any) -> Any:
    for probe in _windows:
        if _here(probe) and probe.wants(module):
            return probe.call(original, module, args, kwargs)
    return original(module, *args, **kwargs)


def _backward(original: Any, *args: Any, **kwargs: Any) -> Any:
    # Every probe hears of it, whatever the thread: the loop may run in another one than the watch was made in.
    roots = args[0] if args else kwargs.get("tensors")
    probes = tuple(_watching)
    for probe in probes:
        probe.backward_begins(roots)
    failed = True
    try:
        result = original(*args, **kwargs)
        failed = False
    finally:
        for probe in probes:
            probe.backward_ends(failed)
    return result


def _grad(original: Any, *args: Any, **kwargs: Any) -> Any:
    probes = tuple(_windows)
    for probe in probes:
        probe.sites.foreign += 1
    try:
        return original(*args, **kwargs)
    finally:
        for probe in probes:
            probe.sites.foreign -= 1


def _recompute(original: Any, *args: Any) -> Any:
    with ExitStack() as looking:
        for probe in tuple(_windows):
            looking.enter_context(probe.sites.looking())
        return original(*args)


def _scale(original: Any, self: Any, outputs: Any) -> Any:
    scaled = original(self, outputs)
    if self.is_enabled() and self._scale is not None:
        for y in (scaled,) if isinstance(scaled, Tensor) else tuple(scaled):
            if isinstance(y, Tensor) and y.grad_fn is not None and len(_scaled) < _HOPS:
                _scaled.append((y.grad_fn, self._scale.clone()))
    return scaled


def _stepping(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    closure = args[1] if len(args) > 1 else kwargs.get("closure")  # the first is the optimizer itself
    for probe in tuple(_windows):
        probe.stepping(optimizer, closure is not None)


def _stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for probe in tuple(_watching):
        probe.stepped(optimizer)
