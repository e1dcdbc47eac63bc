"""What there is in the process, whether anybody has told us of it or not."""

from __future__ import annotations

import gc
from typing import Any

import torch


def alive(kind: type) -> list[Any]:
    """All objects of a class that are alive."""
    # type(), not isinstance(): a proxy's __class__ may run somebody's code.
    return [o for o in gc.get_objects() if issubclass(type(o), kind)]


def optimizers() -> list[torch.optim.Optimizer]:
    """All optimizers of the process that are alive."""
    return alive(torch.optim.Optimizer)
