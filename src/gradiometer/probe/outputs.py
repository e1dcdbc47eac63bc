"""Finds the tensors in whatever a module returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


def tensors(output: Any, suffix: str = "", depth: int = 3) -> Iterator[tuple[str, Tensor]]:
    """The tensors in an output, each with what to write behind the site's name to tell it from the others.

    The first of a tuple has no suffix, so that ``lstm`` is the output sequence and ``lstm[1]`` the state.

    Example:
        >>> [name for name, _ in tensors({"logits": torch.ones(1), "cache": (torch.ones(1), torch.ones(1))})]
        ['[logits]', '[cache]', '[cache][1]']
    """
    if isinstance(output, Tensor):
        yield suffix, output
    elif depth == 0:
        return
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from tensors(value, f"{suffix}[{key}]", depth - 1)
    elif isinstance(output, (tuple, list)):
        for i, value in enumerate(output):
            place = "" if i == 0 and isinstance(value, Tensor) else f"[{i}]"
            yield from tensors(value, suffix + place, depth - 1)
    elif is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            yield from tensors(getattr(output, field.name), f"{suffix}[{field.name}]", depth - 1)


def measurable(x: Any) -> bool:
    """Whether a value is a dense tensor of numbers that may be looked at from here."""
    return (
        isinstance(x, Tensor)
        and (x.is_floating_point() or x.is_complex())
        and x.layout is torch.strided
        and not x.is_nested
        and x.device.type != "meta"
        and not is_functorch_wrapped_tensor(x)
        and x.numel() > 0
    )
