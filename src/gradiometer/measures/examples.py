"""What a batch of examples looks like, feature by feature."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradiometer.measures.magnitude import Scalar


class Features(NamedTuple):
    """Scale and offset of the features of a batch; see `features`."""

    rms: Scalar
    offset: Scalar
    spread: Scalar
    feature: Scalar
    number: int


def features(x: Tensor) -> Features | None:
    """How the features of a batch are scaled and centred.

    Formula: with mean ``m_f`` and standard deviation ``s_f`` of feature f over the batch (and places):
    ``offset = mean m_f^2 / mean s_f^2``, ``spread = max s_f / median s_f`` over the features that vary. Both make the
    first layer ill-conditioned: the eigenvalues of ``E[x x^T]`` that they set differ by ``offset * features`` and
    ``spread^2``.

    Args:
        x: examples first; features along the last dimension, of four and more dimensions along the second.

    Returns:
        `Features`; ``None`` of fewer than two examples or of no floating-point numbers.

    Example:
        >>> found = features(torch.tensor([[0.0, 100.0], [2.0, 102.0]]))
        >>> round(float(found.offset), 1), float(found.spread)
        (5101.0, 1.0)

    Source:
        LeCun, Bottou, Orr and Müller, Efficient BackProp (1998), section 4.3.
    """
    if x.dim() < 2 or x.shape[0] < 2 or not x.is_floating_point() or not x.numel():
        return None
    x = x.detach()
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    flat = x.movedim(1, -1).flatten(0, -2) if x.dim() >= 4 else x.flatten(0, -2)
    flat = flat.to(wide)
    mean, std = flat.mean(0), flat.std(0, correction=0)
    alive = std > 1e-6 * (mean.abs() + flat.square().mean().sqrt())
    typical = torch.where(alive, std, torch.nan).nanmedian()
    square, variance = mean.square().mean(), std.square().mean()
    return Features(
        flat.square().mean().sqrt(),
        (square / variance).nan_to_num(0.0, posinf=torch.inf),
        (std.amax() / typical).nan_to_num(1.0),
        std.argmax(),
        flat.shape[1],
    )
