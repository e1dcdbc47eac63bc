"""The reference networks are those of the literature, in size and in what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradiometer.networks import convolutional, recurrent, transformer


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_sizes_are_those_of_table_6(depth: int, millions: float) -> None:
    model = convolutional(16, depth, 10, inputs=3)
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions > 1 else 0.006)
    layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules())
    assert layers == depth
    plain = convolutional(16, depth, 10, inputs=3, residual=False)
    assert sum(p.numel() for p in plain.parameters()) == count


@pytest.mark.parametrize("depth", [2, 9, 21])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="6 n"):
        convolutional(4, depth, 10)


def test_a_skip_carries_the_image_across_a_stride() -> None:
    model = convolutional(2, 8, 3, batch_norm=False)
    x = torch.randn(2, 2, 8, 8)
    block = model.block2
    assert isinstance(block.norm1, nn.Identity)
    with torch.no_grad():
        block.conv2.weight.zero_()  # type: ignore[union-attr, operator]
        out = block(x)  # type: ignore[operator]
    assert torch.equal(out[:, :2], x[:, :, ::2, ::2].relu())
    assert out[:, 2:].abs().sum() == 0
    assert model(torch.randn(5, 1, 8, 8)).shape == (5, 3)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_recurrent_networks_answer_at_the_end(cell: str) -> None:
    assert recurrent(3, 8, 2, cell, layers=2)(torch.randn(4, 9, 3)).shape == (4, 2)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_transformers_read_vectors_and_tokens(pre_norm: bool) -> None:
    model = transformer(3, 8, 2, 5, heads=2, pre_norm=pre_norm)
    assert model(torch.randn(4, 7, 3)).shape == (4, 5)
    first, second = model.encoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    assert (model.encoder.norm is not None) is pre_norm
    words = transformer(11, 8, 1, 5, heads=2, tokens=True)
    assert words(torch.randint(11, (4, 7))).shape == (4, 5)
