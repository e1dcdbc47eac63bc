"""Transformer encoders over sequences of tokens or of vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """An encoder: what is read is brought to the width, positions are added, and blocks follow."""

    def __init__(self, read: nn.Module, width: int, length: int, encoder: nn.TransformerEncoder, outputs: int) -> None:
        """Positions are learned and begin at N(0, 0.02^2)."""
        super().__init__()
        self.read = read
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.encoder = encoder
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs for the mean over the positions."""
        h = self.read(x)
        return self.output(self.encoder(h + self.positions[: h.shape[1]]).mean(1))


def transformer(
    inputs: int,
    width: int,
    depth: int,
    outputs: int,
    *,
    length: int = 64,
    heads: int = 4,
    tokens: bool = False,
    pre_norm: bool = True,
) -> Transformer:
    """An encoder of ``depth`` blocks of attention and a ReLU layer of four times the width, without dropout.

    Formula: pre-norm ``x + F(norm(x))``, with a norm behind the last block; post-norm ``norm(x + F(x))``.

    Args:
        inputs: size of the vectors, or of the vocabulary if these are ``tokens``.
        width, depth, outputs: size of the stream, number of blocks, number of outputs.
        length: longest sequence.
        heads: of attention, in each block.
        tokens: whether sequences are of token numbers and not of vectors.
        pre_norm: whether branches read the stream normalized.

    Returns:
        A module with ``read``, ``positions``, ``encoder`` and ``output``.

    Raises:
        AssertionError: for a width that ``heads`` does not divide.

    Example:
        >>> transformer(8, 32, 6, 10)(torch.randn(4, 8, 8)).shape
        torch.Size([4, 10])

    Source:
        Vaswani et al., Attention is all you need (2017), figure 1; Xiong et al., On layer normalization in the
        transformer architecture (2020), figure 1.
    """
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=pre_norm)
    norm = nn.LayerNorm(width) if pre_norm else None
    encoder = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)
    for block in encoder.layers:  # they are copies of one, which is no way to begin
        for p in block.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)
    read = nn.Embedding(inputs, width) if tokens else nn.Linear(inputs, width)
    return Transformer(read, width, length, encoder, outputs)
