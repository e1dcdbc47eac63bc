"""Biases that begin at zero."""

from __future__ import annotations

from torch import nn

from gradiometer.remedies.anatomy import role_of
from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.draws import Draw
from gradiometer.remedies.flow import Flow


def plan(model: nn.Module, _: Flow) -> list[Draw]:
    """Zeros for the biases of weight layers, recurrent layers and attention.

    Raises:
        UnusableError: if they are zero already.
    """
    found = []
    for path, module in model.named_modules():
        if role_of(module) not in ("weights", "recurrent", "attention"):
            continue
        for name, p in module._parameters.items():
            if "bias" in name and p is not None and p.requires_grad and p.detach().any():
                found.append(Draw(path, name, nn.init.zeros_))
    if not found:
        raise UnusableError("All biases of this network begin at zero already, or it has none.")
    return found
