"""Each neuron's own learning speed."""

from __future__ import annotations

import torch
from torch import Tensor

UNITS_LIMIT = 512
"""Layers with up to this many output units keep every unit's gradient norm; wider ones keep quantiles."""


def unit_norms(gradient: Tensor, unit_dim: int = 0) -> Tensor:
    """Gradient norm of each output unit of a parameter.

    Formula: ``s_j = sqrt(sum_i (dC/dw_ji)^2)``; for a vector (a bias) ``s_j = |dC/db_j|``.

    Args:
        gradient: of a parameter, one dimension of which counts output units.
        unit_dim: which: the first, as in linear layers and convolutions, or 1, as in transposed convolutions.

    Returns:
        A vector, one norm for each unit, in float32 or wider. On the CPU it is summed in float32 if the gradient is, so
        that squares of what is below 1e-19 or above 1e19 are lost; hand over ``gradient.double()`` for those.

    Example:
        >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([5., 1.])

    Source:
        Nielsen, Neural Networks and Deep Learning (2015), chapter 5: the bars of the learning speed of neurons.
    """
    gradient = gradient.detach()
    # float64 costs nothing on an accelerator, and three to thirty times as much on the CPU.
    narrow = gradient.device.type in ("cpu", "mps") and gradient.dtype not in (torch.float64, torch.complex128)
    wide = torch.float32 if narrow else torch.float64
    if gradient.dim() <= 1:
        return gradient.abs().to(wide).reshape(-1)
    if unit_dim:
        gradient = gradient.movedim(unit_dim, 0)
    flat = gradient if gradient.dim() == 2 else gradient.flatten(1)
    if flat.is_complex():
        flat = flat.abs()
    return torch.linalg.vector_norm(flat, dim=1, dtype=wide)
