"""What is looked at of a large tensor."""

from __future__ import annotations

from torch import Tensor

BLOCKS = 16


def spread(x: Tensor, size: int) -> Tensor:
    """A tensor itself up to ``size`` elements; of a larger one a view of `BLOCKS` blocks, ``size`` elements in all.

    Blocks and not single elements: a strided sample costs a cache line an element. The blocks keep a golden
    section of an example (of a unit, in a weight) apart from a whole number of them. At a whole number, which is what
    ``x.numel() // 16`` comes to for batches of 16, 32, ..., each of them would begin in the same channel.

    Args:
        x: any tensor. One with gaps or overlaps in memory (expanded, sliced) is not sampled but taken whole.
        size: a multiple of `BLOCKS`.

    Returns:
        A view of ``x``.

    Example:
        >>> import torch
        >>> spread(torch.arange(4000).view(20, 200), 32).shape, spread(torch.ones(3, 2), 32).shape
        (torch.Size([16, 2]), torch.Size([3, 2]))
    """
    n = x.numel()
    if n <= size or not _dense(x):
        return x
    block, whole = size // BLOCKS, max(x.stride())
    apart = (n - block) // (BLOCKS - 1)
    shifted = apart - min((apart - int(part * whole)) % whole for part in (0.382, 0.618))
    # Where an example is not much longer than a block there is nothing to be missed, and blocks would overlap.
    return x.as_strided((BLOCKS, block), (shifted if shifted >= block else apart, 1))


def _dense(x: Tensor) -> bool:
    """Whether the elements fill one piece of memory, in whatever order of dimensions (channels last, transposed)."""
    if x.is_contiguous():
        return True
    filled = 1
    for stride, length in sorted(zip(x.stride(), x.shape, strict=True)):
        if length > 1:
            if stride != filled:
                return False
            filled *= length
    return True
