"""The patches on torch, in one place, shared by all watches of the process, each there only while it is needed.

| what | while | why |
|---|---|---|
| ``torch.autograd.backward`` | a watch is on | the loss, and where a pass ends |
| ``torch.amp.GradScaler.scale`` | a watch is on | the loss before it is scaled |
| step hooks of all optimizers | a watch is on (the hook before the step: a window is open) | counting steps |
| ``nn.Module.__call__`` | a window is open | which module is running |
| ``torch.autograd.grad`` | a window is open | gradients that are not those of the training |

A patch on the class and not a hook on each module: installing it costs nothing however deep the model is, and
the attention modules of torch.nn look for hooks and compute differently (fused or not) when they find one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

if TYPE_CHECKING:
    from gradiometer.probe.engine import Probe

_watching: list[Probe] = []
_windows: list[Probe] = []
_undo_watching: list[Callable[[], None]] = []
_undo_windows: list[Callable[[], None]] = []
_scaled: dict[int, tuple[weakref.ref[Tensor], Tensor, Tensor]] = {}


def start(probe: Probe) -> None:
    """Tells a probe of every backward and every optimizer step from now on."""
    _watching.append(probe)
    if len(_watching) == 1:
        _patch(_undo_watching, torch.autograd, "backward", _backward)
        _patch(_undo_watching, torch.amp.GradScaler, "scale", _scale)
        _undo_watching.append(register_optimizer_step_post_hook(_stepped).remove)


def stop(probe: Probe) -> None:
    """Ends what `start` began."""
    if probe in _watching:
        _watching.remove(probe)
    if not _watching:
        _undo(_undo_watching)
        _scaled.clear()


def open_window(probe: Probe) -> None:
    """Leads every module call through a probe from now on."""
    _windows.append(probe)
    if len(_windows) == 1:
        _patch(_undo_windows, nn.Module, "__call__", _call)
        _patch(_undo_windows, torch.autograd, "grad", _grad)
        _undo_windows.append(register_optimizer_step_pre_hook(_stepping).remove)


def close_window(probe: Probe) -> None:
    """Ends what `open_window` began."""
    if probe in _windows:
        _windows.remove(probe)
    if not _windows:
        _undo(_undo_windows)


def loss_before_scaling(root: Tensor) -> tuple[Tensor, Tensor] | None:
    """The unscaled loss and the scale, if this tensor came out of a gradient scaler."""
    noted = _scaled.pop(id(root), None)
    if noted is None or noted[0]() is not root:
        return None
    return noted[1], noted[2]


# -- the replacements ---------------------------------------------------------------------------------------------


def _make(owner: Any, name: str, replacement: Callable[..., Any]) -> Callable[..., Any]:
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    patched.__name__, patched.__qualname__, patched.__doc__ = name, original.__qualname__, original.__doc__
    patched.__wrapped__ = original  # type: ignore[attr-defined]
    return patched


def _patch(undo: list[Callable[[], None]], owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, _make(owner, name, replacement))
    undo.append(lambda: setattr(owner, name, original))


def _undo(actions: list[Callable[[], None]]) -> None:
    while actions:
        actions.pop()()


def _here(probe: Probe) -> bool:
    return probe.thread == threading.get_ident()


def _call(original: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
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
    try:
        return original(*args, **kwargs)
    finally:
        for probe in probes:
            probe.backward_ends()


def _grad(original: Any, *args: Any, **kwargs: Any) -> Any:
    probes = tuple(_windows)
    for probe in probes:
        probe.sites.foreign += 1
    try:
        return original(*args, **kwargs)
    finally:
        for probe in probes:
            probe.sites.foreign -= 1


def _scale(original: Any, self: Any, outputs: Any) -> Any:
    scaled = original(self, outputs)
    if isinstance(scaled, Tensor) and isinstance(outputs, Tensor) and self.is_enabled() and self._scale is not None:
        if len(_scaled) > 64:  # losses that were scaled and never used
            _scaled.clear()
        _scaled[id(scaled)] = (weakref.ref(scaled), outputs.detach(), self._scale.clone())
    return scaled


def _stepping(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for probe in tuple(_windows):
        probe.stepping(optimizer, closure=bool(args) or kwargs.get("closure") is not None)


def _stepped(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for probe in tuple(_watching):
        probe.stepped(optimizer)
