"""Recurrent layers of plain tanh or ReLU units become gated ones, for callers that notice nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import connection as cases
from gradiometer.remedies.placing import aliases, like, moved, objection, put, run
from gradiometer.remedies.wiring import Wiring


class QuietLSTM(nn.LSTM):
    """An LSTM that is called as an ``nn.RNN`` is: its cells begin empty and stay inside."""

    def forward(self, input, hx=None):
        """Outputs and the last hidden state."""
        state = None if hx is None else (hx, torch.zeros_like(hx))
        output, (hidden, _) = super().forward(input, state)
        return output, hidden


class QuietLSTMCell(nn.LSTMCell):
    """An LSTM cell that is called as an ``nn.RNNCell`` is: the hidden state carries that of the cell along."""

    def forward(self, input: torch.Tensor, hx: torch.Tensor | None = None):  # type: ignore[override]
        """The next hidden state."""
        if hx is None:
            hx = input.new_zeros(*input.shape[:-1], self.hidden_size)
        cell = getattr(hx, "cell", torch.zeros_like(hx))
        hidden, cell = super().forward(input, (hx, cell))
        hidden.cell = cell  # type: ignore[attr-defined]
        return hidden


def remember(recurrent, steps):
    """Sets the biases of the gates so that units of an LSTM or a GRU keep what they have for 1 to ``steps`` steps."""
    size = recurrent.hidden_size
    lstm = isinstance(recurrent, (nn.LSTM, nn.LSTMCell))
    for name, bias in recurrent.named_parameters():
        if name.startswith("bias_"):
            kept = torch.zeros(size)
            if name.startswith("bias_ih"):
                kept = torch.empty(size).uniform_(1, max(steps - 1, 2)).log()
            with torch.no_grad():
                bias[size : 2 * size] = kept
                if lstm:
                    bias[:size] = -kept
    return recurrent


def _options(module: Any) -> tuple[str, dict[str, Any]]:
    """Sizes of a recurrent layer or cell, as written and as values; what is a default is left out."""
    values: dict[str, Any] = {}
    if isinstance(module, nn.RNN):
        names = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        values = {name: getattr(module, name) for name, usual in names.items() if getattr(module, name) != usual}
    elif not module.bias:
        values = {"bias": False}
    text = ", ".join([str(module.input_size), str(module.hidden_size), *(f"{k}={v!r}" for k, v in values.items())])
    return text, values


def _lstm(module: Any) -> tuple[str, Callable[[], nn.Module]]:
    text, values = _options(module)
    kind = QuietLSTM if isinstance(module, nn.RNN) else QuietLSTMCell
    return f"{kind.__name__}({text})", lambda: kind(module.input_size, module.hidden_size, **values)


def _gru(module: Any) -> tuple[str, Callable[[], nn.Module]]:
    text, values = _options(module)
    kind = nn.GRU if isinstance(module, nn.RNN) else nn.GRUCell
    return f"nn.{kind.__name__}({text})", lambda: kind(module.input_size, module.hidden_size, **values)


def _steps(model: nn.Module, situation: Situation) -> dict[int, int]:
    """For each recurrent module the time steps that it is taken through in one pass."""
    steps: dict[int, int] = {}

    def count(module: nn.Module, args: Any, kwargs: Any) -> None:
        x = args[0] if args else kwargs["input"]
        if isinstance(module, nn.RNNCell):
            length = steps.get(id(module), 0) + 1
        elif isinstance(x, PackedSequence):
            length = len(x.batch_sizes)
        else:
            length = x.shape[1 if getattr(module, "batch_first", False) and x.ndim == 3 else 0]
        steps[id(module)] = max(length, steps.get(id(module), 0))

    plain = [m for m in model.modules() if isinstance(m, (nn.RNN, nn.RNNCell))]
    handles = [m.register_forward_pre_hook(count, with_kwargs=True) for m in plain]
    try:
        run(model, situation)
    finally:
        for handle in handles:
            handle.remove()
    return steps


def _plan(model: nn.Module, situation: Situation) -> Mapping[str, nn.Module]:
    found = {path: m for path, m in model.named_modules() if isinstance(m, (nn.RNN, nn.RNNCell))}
    if not found:
        wiring = Wiring(model, situation.batch)
        looped = next((one.path for one in wiring.layers() if wiring.calls(one.module) > 1), None)
        if any(isinstance(m, (nn.RNNBase, nn.RNNCellBase)) for m in model.modules()):
            raise UnusableError("its recurrent layers are gated already, or of a kind of their own.")
        if looped is not None:
            raise UnusableError(
                f"{looped} is called once a time step: what is written by hand around it cannot be replaced from "
                "outside. Use nn.GRU or nn.GRUCell in its place."
            )
        raise UnusableError("it has no nn.RNN and no nn.RNNCell, nor a layer that is called once a time step.")
    return found


def _keeps_cells(model: nn.Module, situation: Situation) -> None:
    """Raises if a cell is given, step after step, a hidden state that is no longer the tensor that it returned."""
    lost: list[str] = []
    calls: dict[int, int] = {}

    def see(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            hx = args[1] if len(args) > 1 else kwargs.get("hx")
            calls[id(module)] = calls.get(id(module), 0) + 1
            if calls[id(module)] > 1 and hx is not None and not hasattr(hx, "cell"):
                lost.append(path)

        return hook

    cells = [(path, m) for path, m in model.named_modules() if isinstance(m, QuietLSTMCell)]
    handles = [m.register_forward_pre_hook(see(path), with_kwargs=True) for path, m in cells]
    try:
        run(model, situation)
    finally:
        for handle in handles:
            handle.remove()
    if lost:
        raise UnusableError(
            f"the hidden state that {lost[0]} returns is changed before it comes back (masked, sliced, detached), so "
            "the state of an LSTM's cell cannot travel with it. rnn_to_gru needs none; or carry both in the loop."
        )


def _row(name: str, title: str, source: str, kind: Callable[..., Any], proofs: tuple[Proof, ...]) -> Remedy:
    def treat(model: nn.Module, situation: Situation) -> nn.Module:
        found = _plan(model, situation)
        steps = _steps(model, situation)
        for path, module in found.items():
            made = remember(kind(module)[1](), steps.get(id(module), 1))
            model = put(model, path, like(made, module))
        _keeps_cells(model, situation)
        return model

    def code(situation: Situation) -> Code:
        lines, own = [], set()
        found = _plan(situation.model, situation)
        steps = _steps(situation.model, situation)
        for path, module in found.items():
            text = kind(module)[0]
            own |= {one for one in (QuietLSTM, QuietLSTMCell) if text.startswith(f"{one.__name__}(")}
            text = f"remember({text}, {steps.get(id(module), 1)})" + moved(module)
            lines.append(f'model.set_submodule("{path}", {text})' if path else f"model = {text}")
        classes = (*sorted(own, key=lambda one: one.__name__), remember)
        return Code(classes=classes, model="\n".join(lines) + aliases(situation.model, found))

    return Remedy(
        name=name,
        title=title,
        group="connection",
        treats=(
            "vanishing_gradient",
            "exploding_gradient",
            "saturated_units",
            "stalled_training",
            "rank_collapse",
            "nonfinite",
            "diverging_loss",
        ),
        changes_function=True,
        source=source,
        code=code,
        model=treat,
        unusable=objection(lambda model, situation: treat(copy.deepcopy(model), situation)),
        proofs=proofs,
    )


GATED = (
    _row(
        "rnn_to_lstm",
        "LSTM for plain recurrent layers",
        "Hochreiter and Schmidhuber, Long short-term memory (1997); Tallec and Ollivier, Can recurrent neural networks "
        "warp time? (2018), on the biases of the gates",
        _lstm,
        cases.RNN_TO_LSTM,
    ),
    _row(
        "rnn_to_gru",
        "GRU for plain recurrent layers",
        "Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine translation "
        "(2014), equations 5 to 8; Tallec and Ollivier, Can recurrent neural networks warp time? (2018), on the biases",
        _gru,
        cases.RNN_TO_GRU,
    ),
)
