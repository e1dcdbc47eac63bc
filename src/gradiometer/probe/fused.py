"""Calls of fused recurrent layers, a whole sequence in one kernel: what is kept of them, to be replayed later."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.probe.cells import Parts
from gradiometer.probe.ledger.recurrence import SHORTEST
from gradiometer.probe.outputs import measurable

STEPS = 256
"""The last steps of a longer sequence, which are those that are replayed: one that keeps 98 % of the gradient a step
has lost two decades by then. Those before run forward only, in one kernel."""

EXAMPLES = 8
"""Examples of a batch that are replayed, evenly spread. The norm over eight is that over all to about 1/sqrt(8) where
examples differ by as much as they are large, so to 0.15 decades, and rules ask for two."""

_ELEMENTS = 1 << 21
"""Of the sample of one input: 16 MB in double precision, beyond which fewer examples are kept."""

_KINDS = (nn.LSTM, nn.GRU, nn.RNN)
_NEAR = 16
"""Nodes behind an output within which a fused kernel lies: a transposition, a stack or concatenation, a dropout."""


@dataclass(slots=True, eq=False)
class Call:
    """One call of a fused layer, as far as a replay needs it."""

    model: str
    site: str
    layer: Any
    x: Tensor
    start: Parts
    names: list[list[str]]
    weights: list[list[Tensor]]
    versions: list[list[int]]
    share: float
    """Examples of the batch over those kept."""
    gradients: dict[int, Tensor] = field(default_factory=dict)
    """What came to output, hidden state and cell (0, 1, 2), time or layers first; of the output to the last `STEPS`."""
    handles: list[Any] = field(default_factory=list)

    def stale(self) -> bool:
        """Whether the weights are no longer what the layer was run with (an optimizer that steps in the backward)."""
        return any(
            w._version != v or w.untyped_storage().nbytes() == 0
            for ws, vs in zip(self.weights, self.versions, strict=True)
            for w, v in zip(ws, vs, strict=True)
        )

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self.handles:
            handle.remove()
        self.handles = []


def keep(
    module: nn.Module, args: Any, kwargs: Any, output: Any, model: str, site: str, hear: Callable[..., None]
) -> Call | None:
    """Keeps of a call what a replay needs, ``None`` if it is none that can be replayed.

    ``hear(act, gradient)`` is called in the middle of the training's backward, with a gradient that comes to an output
    and what then is to be done.
    """
    if type(module) not in _KINDS or _altered(module) or counted() or not _is_fused(output):
        return None
    made = _sampled(module, args, kwargs, model, site)
    if made is None:
        return None
    call, pick = made
    for nr, y in enumerate(_flat(output)):
        _listen(call, nr, y, partial(pick, time_first=nr > 0), hear)
    return call


def _listen(call: Call, nr: int, y: Tensor, pick: Callable[[Tensor], Tensor], hear: Callable[..., None]) -> None:
    """Keeps of the gradient that comes to an output what belongs to the chosen examples.

    At the node and not at the tensor: hooks of the user's on the tensor, which come first, may change the gradient.
    """
    place = y.output_nr

    def act(gradient: Tensor) -> None:
        with torch.no_grad():
            call.gradients[nr] = pick(gradient)[-STEPS:] * math.sqrt(call.share)

    def arrived(gradients: tuple[Any, ...]) -> None:
        if gradients[place] is not None and nr not in call.gradients:
            hear(act, gradients[place])

    if y.grad_fn is not None:
        call.handles.append(y.grad_fn.register_prehook(arrived))


def _altered(module: nn.Module) -> bool:
    """Whether hooks may have changed what the layer was given or what came of it."""
    held = (module._forward_hooks, module._forward_pre_hooks, module._backward_pre_hooks)
    return any(held) or bool(nn.modules.module._has_any_global_hook())


def counted() -> bool:
    """Whether somebody counts the operations that are run, below torch's functions: ours would be among them."""
    return torch._C._len_torch_dispatch_stack() > 0


def _flat(output: Any) -> list[Tensor]:
    """Output, hidden state and, of an LSTM, cell."""
    y, state = output
    return [y, *(state if isinstance(state, tuple) else (state,))]


def _is_fused(output: Any) -> bool:
    """Whether a kernel for whole sequences has made an output, as its node tells."""
    if not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor)):
        return False  # a packed sequence
    stack, seen = [y.grad_fn for y in _flat(output) if isinstance(y, Tensor)], set()
    while stack and len(seen) < _NEAR:
        node = stack.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        if "Rnn" in node.name():  # MkldnnRnnLayer, CudnnRnn, MiopenRnn
            return True
        stack.extend(target for target, _ in node.next_functions)
    return False


def _sampled(module: Any, args: Any, kwargs: Any, model: str, site: str) -> tuple[Call, Callable[..., Tensor]] | None:
    """The call with a few examples of its input, and how to take the same of a tensor like its outputs."""
    given = dict(zip(("input", "hx"), args, strict=False)) | kwargs
    x, hx = given.get("input"), given.get("hx")
    starts = () if hx is None else tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
    weights = [[getattr(module, name) for name in names] for names in module._all_weights]
    flat = [w for ws in weights for w in ws]
    if not _plain((x, *starts, *flat)) or not any(w.requires_grad for w in flat):
        return None
    if any(a is not b for a, b in zip(flat, module._flat_weights, strict=True)):
        return None
    single, first = x.dim() == 2, module.batch_first and x.dim() == 3
    batch = 1 if single else x.shape[0 if first else 1]
    steps = x.shape[1 if first else 0]
    if steps < SHORTEST or (steps > STEPS and module.bidirectional):
        return None
    count = max(1, min(EXAMPLES, batch, _ELEMENTS // max(1, x.numel() // batch)))
    chosen = slice(0, count * (batch // count), batch // count)

    def pick(y: Tensor, *, time_first: bool) -> Tensor:
        y = y.detach()
        y = y.unsqueeze(1) if single else y.transpose(0, 1) if first and not time_first else y
        return y[:, chosen].to(torch.float64, copy=True)

    x = pick(x, time_first=False)
    if starts:
        start = tuple(pick(s, time_first=True) for s in starts)
    else:
        zero = x.new_zeros(len(weights), count, module.proj_size or module.hidden_size)
        cell = x.new_zeros(len(weights), count, module.hidden_size)
        start = (zero, cell) if module.mode == "LSTM" else (zero,)
    versions = [[w._version for w in ws] for ws in weights]
    return Call(model, site, module, x, start, module._all_weights, weights, versions, batch / count), pick


def _plain(tensors: tuple[Any, ...]) -> bool:
    """Whether all are tensors of numbers in memory that is theirs alone: no subclass, and none of inference mode."""
    return all(
        measurable(t)
        and type(t) in (Tensor, nn.Parameter)
        and not t.is_inference()
        and t.device.type in ("cpu", "cuda")
        and t.is_floating_point()
        for t in tensors
    )
