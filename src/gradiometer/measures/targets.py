"""The loss of a constant guess: what an answer that does not look at the input would cost."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar

FEW = 5
"""Targets for each class that was seen below which their frequencies are mostly chance."""


def class_entropy(target: Tensor, ignored: int = -100) -> Scalar:
    """Cross-entropy of the best constant answer to a classification: the entropy of the classes' frequencies.

    Formula: ``H = -sum_c p_c ln p_c + (K - 1) / 2n`` with the frequencies ``p_c`` of the ``K`` classes among the ``n``
    targets; the second term is what a sample of n misses of the entropy, to first order.

    Args:
        target: indices of classes, of any shape.
        ignored: an index that counts as no target.

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
    _, counts = kept.unique(return_counts=True)
    if len(counts) < 2 or kept.numel() < FEW * len(counts):
        return math.nan
    p = counts.double() / kept.numel() if counts.device.type != "mps" else counts.float() / kept.numel()
    value = -(p * p.log()).sum() + (len(counts) - 1) / (2 * kept.numel())
    return value.item() if value.device.type == "cpu" else value


def binary_entropy(target: Tensor) -> Scalar:
    """The same of binary targets, each output on its own.

    Formula: the mean over outputs of ``-p ln p - (1-p) ln(1-p) + 1 / 2n`` with the mean ``p`` of n targets; of an
    output that had but one class ``p = (k + 1/2) / (n + 1)``, with the sum k: the other one is rare, not impossible.

    Args:
        target: probabilities, examples along the first dimension.

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
    value = (-torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p) + mixed / (2 * n)).mean()
    return value.item() if value.device.type == "cpu" else value


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
