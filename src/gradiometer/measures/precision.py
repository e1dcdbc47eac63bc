"""What a number format of few digits takes from a gradient or from an update."""

from __future__ import annotations

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar

HALF = (torch.float16, torch.bfloat16)

QUANTA = 4
"""Steps of the smallest number below which a value has lost its digits: it is off by up to an eighth of itself."""


def lost(gradient: Tensor) -> Scalar | None:
    """Share of a float16 gradient's elements that are too small for the format to hold any digits of.

    Formula: the share, among the elements that are not exactly zero, of those of at most `QUANTA` times the smallest
    number of the format (6e-8). Zeros are not counted, since most of them are an activation's; where next to nothing
    but such elements is left, as many have become zero. One if all are zero.

    Args:
        gradient: of any type.

    Returns:
        From 0 to 1; ``None`` for formats that reach as far down as float32.

    Example:
        >>> lost(torch.tensor([1e-7, 0.0, 1e-3, 0.1], dtype=torch.float16))
        0.3333...

    Source:
        Micikevicius et al., Mixed precision training (2018), section 3.2.
    """
    if gradient.dtype is not torch.float16 or not gradient.numel():
        return None
    size = gradient.detach().abs()
    there = (size > 0).sum()
    small = ((size > 0) & (size <= QUANTA * torch.finfo(torch.float16).smallest_normal / 1024)).sum()
    share = torch.where(there > 0, small / there.clamp_min(1), 1.0)
    return share.item() if share.device.type == "cpu" else share
