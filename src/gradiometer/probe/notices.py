"""What the instrument says to the person in front of it while the training goes on."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Any

from torch import Tensor, nn

from gradiometer.errors import GradiometerWarning


def say(text: str) -> None:
    """Warns; where warnings are errors it prints instead, since nothing of ours may end a training."""
    try:
        warnings.warn(text, GradiometerWarning, stacklevel=3)
    except Exception:
        with contextlib.suppress(Exception):
            print(text, file=sys.stderr)


def check_devices(module: nn.Module, args: Any) -> None:
    """Warns of a batch that lies on another device than the model, before the forward pass fails for it."""
    weight = next(module.parameters(), None)
    for x in args:
        if weight is not None and isinstance(x, Tensor) and x.dim() and x.device != weight.device:
            say(
                f"the batch is on {x.device} and {type(module).__name__} on {weight.device}: the forward pass "
                f"will fail. Move one to the other, for example batch.to({str(weight.device)!r})."
            )
