"""Data to train on. Digits come with scikit-learn, so that something real can be trained anywhere."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Dataset(NamedTuple):
    """Images flattened to rows, scaled to mean 0 and variance 1 over the training part, and class numbers."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int


def digits(seed: int = 0) -> Dataset:
    """The 1,797 images of handwritten digits, 8 x 8, that scikit-learn ships; four fifths to train on.

    Args:
        seed: of the split.

    Returns:
        A `Dataset` with 64 inputs and 10 classes.

    Example:
        >>> data = digits()
        >>> tuple(data.train_inputs.shape), data.classes
        ((1437, 64), 10)

    Source:
        Alpaydin and Kaynak, Optical recognition of handwritten digits (UCI, 1998).
    """
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images, dtype=torch.float32), torch.as_tensor(targets, dtype=torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    cut = len(x) * 4 // 5
    mean, std = x[:cut].mean(), x[:cut].std()
    x = (x - mean) / std
    return Dataset(x[:cut], y[:cut], x[cut:], y[cut:], 10)
