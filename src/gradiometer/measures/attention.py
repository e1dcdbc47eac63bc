"""How sharply a softmax attends: its entropy, and how far apart its logits lie."""

from __future__ import annotations

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar

MASKED = 5e3
"""Distance from the largest logit, in nats, beyond which a place was masked: softmax gives zero there long before, and
the smallest number in use for a mask is -1e4."""


def sharpness(logits: Tensor) -> tuple[Scalar, Scalar]:
    """Entropy of the softmax of these logits, and how far the largest of them stands above the others.

    Formula: ``mean over rows of -sum_j a_j ln a_j / ln n`` with the weights ``a = softmax(l)`` and ``n`` the places
    that are not masked (further than `MASKED` below the largest logit), and the mean over rows of
    ``max_j l_j - mean_j l_j``. Rows that see fewer than two places are left out.

    Args:
        logits: the places attended to along the last dimension.

    Returns:
        Entropy from 0 (one place has it all) to 1 (uniform; also if no row has a choice), and the distance in nats.

    Example:
        >>> sharpness(torch.tensor([[0.0, 30.0]]))
        (4.05...e-12, 15.0)

    Source:
        Zhai et al., Stabilizing transformer training by preventing attention entropy collapse (2023), section 3;
        Dehghani et al., Scaling vision transformers to 22 billion parameters (2023), section 3.1: attention logits
        that grow until the weights are one-hot.
    """
    logits = logits.detach()
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    # Masks are minus infinity, or a number of which the softmax makes zero: -1e9, or the smallest of half precision.
    open_ = logits > logits.amax(-1, keepdim=True) - MASKED
    count = open_.sum(-1)
    mean = torch.where(open_, logits, 0.0).sum(-1) / count.clamp_min(1)
    top = torch.where(open_, logits, -torch.inf).amax(-1)
    distance = torch.where(count > 1, top - mean, 0.0).sum() / (count > 1).sum().clamp_min(1)
    return _entropy(logits.softmax(-1), open_), distance.item() if distance.device.type == "cpu" else distance


def _entropy(weights: Tensor, seen: Tensor) -> Scalar:
    a = weights.detach()
    a = a if a.dtype in (torch.float32, torch.float64) else a.float()
    count = seen.sum(-1)
    rows = count > 1
    whole = -torch.xlogy(a, a).sum(-1) / count.clamp_min(2).log()
    value = torch.where(rows, whole, 0.0).sum() / rows.sum().clamp_min(1)
    value = torch.where(rows.any(), value, 1.0)
    return value.item() if value.device.type == "cpu" else value
