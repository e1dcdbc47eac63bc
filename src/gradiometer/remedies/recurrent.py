"""Recurrent layers that begin by carrying their state on: forget gates, and the identity."""

from __future__ import annotations

from torch import nn

from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.draws import Draw, carry_out, named, written
from gradiometer.remedies.flow import Flow
from gradiometer.remedies.whole import GATES

SMALL = 0.001
"""Standard deviation of the weights from the input: section 2 of the paper."""


def forget_plan(model: nn.Module, _: Flow) -> list[Draw]:
    """Biases of one in the forget gates of LSTMs and the update gates of GRUs, which both are the second block.

    Raises:
        UnusableError: if there is none.
    """
    found = []
    for path, module in model.named_modules():
        if not isinstance(module, tuple(GATES)):
            continue
        count = 4 if isinstance(module, (nn.LSTM, nn.LSTMCell)) else 3
        for name, p in module._parameters.items():
            if p is None or not p.requires_grad or not name.startswith("bias"):
                continue
            size = len(p) // count
            function = nn.init.ones_ if name.startswith("bias_ih") else nn.init.zeros_
            found.append(Draw(path, name, function, rows=(size, 2 * size)))
    if not found:
        raise UnusableError(
            "This network has no nn.LSTM or nn.GRU with biases. In a cell of your own, let the bias of the gate that "
            "multiplies the old state begin at 1."
        )
    return found


def layers(model: nn.Module) -> dict[str, nn.RNN | nn.RNNCell]:
    """The plain recurrent layers.

    Raises:
        UnusableError: if there is none.
    """
    found = {path: m for path, m in model.named_modules() if isinstance(m, (nn.RNN, nn.RNNCell))}
    if not found:
        raise UnusableError(
            "This network has no nn.RNN. In a cell of your own, let the recurrent weight begin as nn.init.eye_, the "
            "bias as zero, and put relu in the place of tanh."
        )
    return found


def plan(model: nn.Module) -> list[Draw]:
    """Identity over time, small weights from the input, biases zero; Glorot's between the layers of a stack."""
    draws = []
    for path, module in layers(model).items():
        for name, p in module._parameters.items():
            if p is None or not p.requires_grad:
                continue
            if name.startswith("weight_hh"):
                draws.append(Draw(path, name, nn.init.eye_))
            elif name.startswith("weight_ih") and name.removeprefix("weight_ih") in ("", "_l0", "_l0_reverse"):
                draws.append(Draw(path, name, nn.init.normal_, (("std", SMALL),)))
            elif name.startswith("weight"):
                draws.append(Draw(path, name, nn.init.xavier_uniform_))
            else:
                draws.append(Draw(path, name, nn.init.zeros_))
    return draws


def change(model: nn.Module, _: Situation) -> nn.Module:
    """Puts ReLU in the place of tanh, and draws."""
    for module in layers(model).values():
        module.nonlinearity = "relu"
        if isinstance(module, nn.RNN):
            module.mode = "RNN_RELU"
    carry_out(model, plan(model))
    return model


def code(situation: Situation) -> Code:
    """The same as a user would write it."""
    lines = []
    for path, module in layers(situation.model).items():
        lines.append(f'{named(path)}.nonlinearity = "relu"')
        if isinstance(module, nn.RNN):
            lines.append(f'{named(path)}.mode = "RNN_RELU"')
    return Code(model="\n".join([*lines, written(plan(situation.model))]))


def unusable(situation: Situation) -> str | None:
    """Why there is nothing to draw."""
    try:
        layers(situation.model)
    except UnusableError as error:
        return str(error)
    return None
