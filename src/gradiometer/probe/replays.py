"""The time inside fused recurrent layers: what one kernel has computed is computed once more, step by step.

In a watch the kernels stay as they are (cuDNN's, and oneDNN's of an LSTM on the CPU), and a whole sequence is one node
of autograd's graph. Of a step that gets a ledger a few examples are kept of what such a layer was given, and of the
gradients that came to its outputs. After the training's own backward the layer is replayed with them, in double
precision, without its dropout and without autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradiometer.measures import Scalar, resolve
from gradiometer.probe.cells import Gru, Lstm, Parts, Rnn, Through, Weights
from gradiometer.probe.fused import STEPS, Call, counted, keep
from gradiometer.probe.ledger.through_time import horizon
from gradiometer.records import Recurrence

_CALLS = 8


class _Replayed(NamedTuple):
    """One recurrence, whose numbers may still lie on a device."""

    call: Call
    weight: Tensor
    name: str
    through: Through


class Replays:
    """Keeps samples of the calls of fused recurrent layers, replays them, and reads what a replay comes to."""

    def __init__(self, guard: Callable[..., Any]) -> None:
        """``guard(where, act, *args)`` calls what is done in the middle of the training's own backward."""
        self.guard = guard
        self.listening = False
        """Whether the backward that runs is the one that is traced."""
        self._calls: list[Call] = []
        self._made: list[_Replayed] = []
        self._done = False

    def called(self, module: nn.Module, args: Any, kwargs: Any, output: Any, model: str, site: str) -> None:
        """Keeps of a call what a replay needs, if it is one that can be replayed."""
        call = None if self._done else keep(module, args, kwargs, output, model, site, self._hear)
        if call is None:
            return
        if len(self._calls) == _CALLS:  # those of an evaluation that forgot `no_grad` come first and get no gradient
            self._calls.pop(0).remove()
        self._calls.append(call)

    def _hear(self, act: Callable[..., None], gradient: Tensor) -> None:
        if self.listening:
            self.guard("recurrence", act, gradient)

    def replay(self) -> None:
        """Replays, now that the backward has ended, the calls to which gradients have come."""
        self.listening, self._done = False, True
        calls, self._calls = self._calls, []
        for call in calls:
            call.remove()
            if call.gradients and not call.stale() and not counted():
                with torch.no_grad():
                    self._made += _replayed(call)

    def read(self, parameters: Mapping[int, str]) -> tuple[Recurrence, ...]:
        """The recurrences of the step that ends; ``parameters`` maps ``id`` to a parameter's name."""
        made, self._made, self._done = self._made, [], False
        found = (_read(replayed, parameters) for replayed in made)
        return tuple(r for r in found if r is not None)

    def drop(self) -> None:
        """Lets go of everything."""
        for call in self._calls:
            call.remove()
        self._calls, self._made = [], []
        self.listening = self._done = False


def _replayed(call: Call) -> list[_Replayed]:
    """All layers of a call, forward on the examples that were kept, and back with the gradients that came to them."""
    layer, x, start = call.layer, call.x, call.start
    ways = 2 if layer.bidirectional else 1
    early = max(len(x) - STEPS, 0)
    if early:
        start, x = _fast_forward(call, x[:early]), x[early:]
    cells: list[Lstm | Gru | Rnn] = []
    lasts: list[Parts] = []
    for ws, names in zip(call.weights, call.names, strict=True):
        at = {name.split("_l")[0]: w.detach().double() for name, w in zip(names, ws, strict=True)}
        biases = at.get("bias_ih"), at.get("bias_hh")
        cells.append(
            _cell(layer.mode, Weights(at["weight_ih"], at["weight_hh"], *biases, at.get("weight_hr"), names[1]))
        )
    for first in range(0, len(cells), ways):
        outputs: list[Tensor] = []
        for way, cell in enumerate(cells[first : first + ways]):
            y, last = cell.forward(_turned(x, way), tuple(part[first + way] for part in start))
            outputs.append(_turned(y, way))
            lasts.append(last)
        x = torch.cat(outputs, -1)
    gradient = call.gradients.get(0)
    gradient = torch.zeros_like(x) if gradient is None else gradient
    made: list[_Replayed] = []
    for first in range(len(cells) - ways, -1, -ways):
        sums: list[Tensor] = []
        for way, g in reversed(list(enumerate(gradient.chunk(ways, -1)))):
            nr = first + way
            last = tuple(
                torch.zeros_like(part) if k not in call.gradients else call.gradients[k][nr]
                for k, part in enumerate(lasts[nr], 1)
            )
            d_input, through = cells[nr].backward(_turned(g, way), last)
            sums.append(_turned(d_input, way))
            if call.weights[nr][1].requires_grad:
                made.append(_Replayed(call, call.weights[nr][1], call.names[nr][1], through))
        gradient = sums[0] if ways == 1 else sums[0] + sums[1]
    return made[::-1]


def _turned(x: Tensor, way: int) -> Tensor:
    """In the order in which a layer goes through it: the second direction from the end."""
    return x.flip(0) if way else x


def _cell(mode: str, weights: Weights) -> Lstm | Gru | Rnn:
    if mode == "LSTM":
        return Lstm(weights)
    return Gru(weights) if mode == "GRU" else Rnn(weights, mode.removeprefix("RNN_").lower())


def _fast_forward(call: Call, x: Tensor) -> Parts:
    """The state after the first part of a sequence, in one kernel and so in the format of the weights."""
    layer, flat = call.layer, [w.detach() for ws in call.weights for w in ws]
    x, *start = (part.to(flat[0].dtype) for part in (x, *call.start))
    given = start if layer.mode == "LSTM" else start[0]
    run = getattr(torch._VF, layer.mode.lower())
    with torch.autocast(x.device.type, enabled=False):
        _, *state = run(x, given, flat, layer.bias, layer.num_layers, 0.0, False, False, False)
    return tuple(part.double() for part in state)


def _read(replayed: _Replayed, parameters: Mapping[int, str]) -> Recurrence | None:
    through = replayed.through
    steps = len(through.gradients)
    reached = through.gradients[1:] > 0  # of steps that no gradient comes to nothing can be said
    means = [torch.where(reached, part.change, 0.0).sum() / reached.sum().clamp_min(1) for part in through.parts]
    wanted: list[Scalar] = [*through.gradients, *through.gains, *means]
    values = resolve(wanted)
    gradients, gains = values[:steps], values[steps : 2 * steps - 1]
    if not any(gradients) or not all(map(math.isfinite, gradients)):  # where NaN comes from is told elsewhere
        return None
    name = parameters.get(id(replayed.weight), f"{replayed.call.site}.{replayed.name}")
    by: dict[str, float] = {}
    for part, change in zip(through.parts, values[2 * steps - 1 :], strict=True):
        label = name if part.label == replayed.name else part.label
        by[label] = by.get(label, 0.0) + change
    return Recurrence(
        site=replayed.call.site,
        parameter=name,
        steps=steps,
        gradients=tuple(gradients),
        gains=tuple(gains),
        horizon=horizon(gains),
        by={label: change for label, change in by.items() if change},
        bound=1.0 if replayed.call.layer.mode.startswith("RNN") else None,  # the largest slope of tanh and of ReLU
        model=replayed.call.model,
    )
