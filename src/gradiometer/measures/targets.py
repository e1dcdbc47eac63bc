"""The loss of a constant guess: what an answer that does not look at the input would cost."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar

FEW = 5
"""Targets for each class that was seen below which their frequencies are mostly chance."""

_ELEMENTS = 1 << 20  # that are looked at together


def class_entropy(target: Tensor, ignored: int = -100, weight: Tensor | None = None) -> Scalar:
    """Cross-entropy of the best constant answer to a classification: the entropy of the classes' frequencies.

    Formula: ``H = -sum_c p_c ln p_c + (K - 1) / 2n`` with the frequencies ``p_c`` of the ``K`` classes among the ``n``
    targets; the second term is what a sample of n misses of the entropy, to first order. Of weighted classes the
    frequencies are those of the weight, ``p_c = w_c n_c / W`` with ``W = sum_c w_c n_c``, and the second term is
    ``sum_c (1 - p_c) w_c / 2W``.

    Args:
        target: indices of classes, of any shape.
        ignored: an index that counts as no target.
        weight: of each class, for a mean that is divided by the sum of the targets' weights.

    Returns:
        Nats, above 0; NaN of one class only, and of fewer than `FEW` targets a class seen: of those the frequencies say
        nothing.

    Example:
        >>> class_entropy(torch.tensor([0, 1] * 500))  # ln 2 = 0.6931, and 1 / 2000
        0.6936...

    Source:
        Miller, Note on the bias of information estimates (1955).
    """
    kept = target.detach().reshape(-1)
    kept = kept[kept != ignored]
    seen, counts = kept.unique(return_counts=True)
    if len(counts) < 2 or kept.numel() < FEW * len(counts):
        return math.nan
    exact = torch.float64 if counts.device.type != "mps" else torch.float32
    w = torch.ones_like(counts, dtype=exact) if weight is None else weight.detach()[seen.long()].to(exact)
    total = (w * counts).sum()
    p = w * counts / total
    value = torch.special.entr(p).sum() + ((1 - p) * w).sum() / (2 * total)
    return value.item() if value.device.type == "cpu" else value


def binary_entropy(target: Tensor, weight: Tensor | None = None) -> Scalar:
    """The same of binary targets, each output on its own.

    Formula: the mean over outputs of ``-p ln p - (1-p) ln(1-p) + 1 / 2n`` with the mean ``p`` of n targets; of an
    output that had but one class ``p = (k + 1/2) / (n + 1)``, with the sum k: the other one is rare, not impossible.
    With a weight w of the ones it is ``W H(wp / W)`` with the entropy H and ``W = wp + 1 - p``, and the last term
    ``(w / p + 1 / (1 - p) - (w - 1)^2 / W) p (1 - p) / 2n``.

    Args:
        target: probabilities, examples along the first dimension.
        weight: of the ones, for all outputs or for each.

    Returns:
        Nats; NaN of fewer than `FEW` examples for each of the two classes.

    Example:
        >>> binary_entropy(torch.tensor([[0.0, 1.0], [1.0, 1.0]] * 50))  # the second output is always one
        0.3646...

    Source:
        Krichevsky and Trofimov, The performance of universal encoding (1981).
    """
    n = target.shape[0] if target.dim() else 1
    if n < 2 * FEW:
        return math.nan
    k = target.detach().float().sum(0)
    mixed = (k > 0) & (k < n)
    p = torch.where(mixed, k / n, (k + 0.5) / (n + 1))
    w = torch.ones((), device=p.device) if weight is None else weight.detach().float()
    total = w * p + 1 - p
    missed = (w * (1 - p) + p - (w - 1) ** 2 * p * (1 - p) / total) / (2 * n)
    value = (torch.special.entr(w * p) + torch.special.entr(1 - p) - torch.special.entr(total) + mixed * missed).mean()
    return value.item() if value.device.type == "cpu" else value


def soft_entropy(target: Tensor, dim: int) -> tuple[Scalar, Scalar, Scalar]:
    """The same of targets that are probabilities: what the best constant answer costs, and what the best of all does.

    Formula: ``H(m) + b`` with the mean target ``m``, and ``b = sum_c s_c^2 / 2 n m_c`` with the variance ``s_c^2`` of
    the n targets, which is what a sample misses to first order (Miller's term, where all are 0 or 1). The divergence
    of the constant answer is that less the mean entropy of the targets.

    Args:
        target: probabilities.
        dim: along which they sum to one; all other dimensions count examples.

    Returns:
        Nats for each example: ``H(m) + b``, the mean entropy of the targets, and ``b``.

    Example:
        >>> cost, rest, missed = soft_entropy(torch.tensor([[0.9, 0.1], [0.1, 0.9]] * 500), 1)
        >>> round(cost, 4), round(rest, 4)  # ln 2 and a little, and H(0.9)
        (0.6935, 0.3251)
    """
    rows = target.detach().movedim(dim, -1).reshape(-1, target.shape[dim])
    rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    n, classes = rows.shape
    mean = rows.mean(0)
    variance = rows.var(0) if n > 1 else torch.full_like(mean, math.nan)
    missed = torch.where(mean > 0, variance / (2 * n * mean), 0).sum()
    # In parts: of a vocabulary's probabilities a second copy may not fit beside them.
    parts = rows.split(max(_ELEMENTS // classes, 1))
    rest = torch.stack([torch.special.entr(part).sum() for part in parts]).sum() / n
    values = (torch.special.entr(mean).sum() + missed, rest, missed)
    return values if target.device.type != "cpu" else tuple(v.item() for v in values)  # type: ignore[return-value]


def around_center(target: Tensor, cost: Callable[[Tensor], Tensor]) -> Scalar:
    """Loss of answering each output's mean: with ``cost = square`` the variance of the targets.

    Formula: ``mean cost(t - mean t)``, the mean over the examples, times ``n / (n - 1)`` for the degree of freedom
    that the mean takes.

    Args:
        target: examples along the first dimension.
        cost: of a difference, element by element.

    Returns:
        In the loss's own unit; NaN of fewer than two examples.

    Example:
        >>> around_center(torch.tensor([1.0, 3.0]), torch.square)
        2.0
    """
    n = target.shape[0] if target.dim() else 1
    if n < 2:
        return math.nan
    t = target.detach()
    t = t if t.dtype in (torch.float32, torch.float64) else t.float()
    value = cost(t - t.mean(0)).mean() * (n / (n - 1))
    return value.item() if value.device.type == "cpu" else value
