"""Sick recipes that normalization cures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.networks import transformer
from gradiometer.remedies.base import Proof
from gradiometer.remedies.cases.activation import batches, chain, classifier, data, drawn
from gradiometer.remedies.recipe import Recipe

momentum = partial(torch.optim.SGD, momentum=0.9)


def sigmoid_tower() -> Recipe:
    """Ten sigmoid layers at the scale of Xavier: the gradient vanishes."""
    return classifier(lambda: drawn(chain(48, 10, nn.Sigmoid), 1.0), partial(momentum, lr=0.1), 150)


def saturated_tanh() -> Recipe:
    """Six tanh layers whose weights are so large that no unit leaves its flat part."""
    return classifier(lambda: drawn(chain(48, 6, nn.Tanh), 10.0), partial(momentum, lr=0.05), 150)


def exploding_relu() -> Recipe:
    """Eight ReLU layers at three times the scale of He: the first loss is 18,000 and the third is none."""
    return classifier(lambda: drawn(chain(48, 8, nn.ReLU), 4.0), partial(momentum, lr=0.05), 120)


def positive_weights() -> Recipe:
    """Six ReLU layers whose weights are all positive: every unit of a layer says the same."""

    def model() -> nn.Module:
        network = drawn(chain(48, 6, nn.ReLU), 1.4)
        with torch.no_grad():
            for layer in network.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.abs_()
        return network

    return classifier(model, partial(momentum, lr=0.05), 150)


def _moved(scale: float, offset: float, lr: float) -> Recipe:
    def moved(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((scale * x + offset, y) for x, y in batches(seed))

    def accuracy(model: nn.Module) -> float:
        guess = model(scale * data().test_inputs + offset).argmax(1)
        return float((guess == data().test_targets).float().mean())

    recipe = classifier(lambda: chain(48, 2, nn.ReLU), partial(momentum, lr=lr), 150)
    return replace(recipe, batches=moved, evaluate=accuracy)


def inputs_with_an_offset() -> Recipe:
    """Inputs that vary by one around a hundred."""
    return _moved(1.0, 100.0, 0.01)


def inputs_in_thousands() -> Recipe:
    """Inputs that vary by a thousand."""
    return _moved(1000.0, 0.0, 0.1)


KEYS, VALUES = 6, 4


def lookups(seed: int, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Sequences of a key that is asked for and pairs of a key and a value; its value is the target."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        asked = torch.randint(KEYS, (size,), generator=generator)
        keys = torch.rand(size, KEYS, generator=generator).argsort(1)
        values = torch.randint(VALUES, (size, KEYS), generator=generator)
        pairs = torch.cat([F.one_hot(keys, KEYS), F.one_hot(values, VALUES)], -1)
        question = F.pad(F.one_hot(asked, KEYS), (0, VALUES))
        place = (keys == asked.unsqueeze(1)).long().argmax(1)
        yield torch.cat([question.unsqueeze(1), pairs], 1).float(), values[torch.arange(size), place]


@cache
def _held_out() -> tuple[Tensor, Tensor]:
    return next(lookups(12345, 512))


class Reader(nn.Module):
    """One layer of attention, from the question to the pairs."""

    def __init__(self, width: int = 16) -> None:
        """Two heads."""
        super().__init__()
        self.read = nn.Linear(KEYS + VALUES, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, VALUES)

    def forward(self, x: Tensor) -> Tensor:
        """The value that is asked for."""
        h = self.read(x)
        return self.head(self.attention(h[:, :1], h, h, need_weights=False)[0][:, 0])


class WrittenReader(Reader):
    """The same with a head written by hand."""

    def __init__(self, width: int = 16) -> None:
        """One head."""
        super().__init__(width)
        del self.attention
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """The value that is asked for."""
        h = self.read(x)
        logits = self.to_q(h[:, :1]) @ self.to_k(h).transpose(1, 2) / h.shape[-1] ** 0.5
        return self.head((logits.softmax(-1) @ self.to_v(h))[:, 0])


def _reader(kind: type[Reader]) -> Recipe:
    def model() -> nn.Module:
        network = kind()
        with torch.no_grad():
            if isinstance(network, WrittenReader):
                network.to_q.weight *= 100
                network.to_k.weight *= 100
            else:
                network.attention.in_proj_weight[:32] *= 100
        return network

    def accuracy(model: nn.Module) -> float:
        inputs, targets = _held_out()
        return float((model(inputs).argmax(1) == targets).float().mean())

    return Recipe(
        model=model,
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        loss=F.cross_entropy,
        batches=lookups,
        evaluate=accuracy,
        steps=250,
    )


def sharp_attention() -> Recipe:
    """Queries and keys a hundred times too large: attention looks at one place and no gradient moves it."""
    return _reader(Reader)


def sharp_attention_by_hand() -> Recipe:
    """The same in attention that is written by hand."""
    return _reader(WrittenReader)


def rows(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Digits as sequences of their rows."""
    return ((x.view(-1, 8, 8), y) for x, y in batches(seed, 32))


def row_accuracy(model: nn.Module) -> float:
    """Share of held-out digits, read row by row, that are told right."""
    return float((model(data().test_inputs.view(-1, 8, 8)).argmax(1) == data().test_targets).float().mean())


def post_norm_transformer() -> Recipe:
    """Six post-norm blocks and a rate that they would need a warm-up for."""
    return Recipe(
        model=lambda: transformer(8, 16, 6, 10, length=8, heads=2, pre_norm=False),
        optimizer=partial(torch.optim.Adam, lr=1.5e-2),
        loss=F.cross_entropy,
        batches=rows,
        evaluate=row_accuracy,
        steps=110,
    )


class PostNorm(nn.Module):
    """A post-norm block written by hand."""

    def __init__(self, width: int) -> None:
        """One head, a ReLU layer of four times the width."""
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Attention, and the layer for each token."""
        logits = self.q(x) @ self.k(x).transpose(1, 2) / x.shape[-1] ** 0.5
        x = self.norm1(x + self.out(logits.softmax(-1) @ self.v(x)))
        return self.norm2(x + self.mlp(x))


class Written(nn.Module):
    """A transformer written by hand."""

    def __init__(self, depth: int = 6, width: int = 16) -> None:
        """Post-norm blocks."""
        super().__init__()
        self.read = nn.Linear(8, width)
        self.positions = nn.Parameter(0.02 * torch.randn(8, width))
        self.blocks = nn.ModuleList(PostNorm(width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The classes of a sequence."""
        x = self.read(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def post_norm_by_hand() -> Recipe:
    """The same in blocks that are written by hand."""
    return replace(post_norm_transformer(), model=Written, optimizer=partial(torch.optim.Adam, lr=2e-2), steps=120)


_SATURATED = Proof(saturated_tanh, 0.7)
_EXPLODING = Proof(exploding_relu, 0.6)
_POSITIVE = Proof(positive_weights, 0.7)

BATCH_NORM = (Proof(sigmoid_tower, 0.6), _SATURATED, _EXPLODING)
LAYER_NORM = (_SATURATED, _POSITIVE, _EXPLODING)
GROUP_NORM = (_SATURATED, _POSITIVE)
RMS_NORM = (_SATURATED, _EXPLODING)
INPUT_NORM = (Proof(inputs_with_an_offset, 0.6), Proof(inputs_in_thousands, 0.6))
WEIGHT_STANDARDIZATION = (_SATURATED, _POSITIVE)
QK_NORM = (Proof(sharp_attention, 0.8), Proof(sharp_attention_by_hand, 0.8))
PRE_NORM = (Proof(post_norm_transformer, 0.35), Proof(post_norm_by_hand, 0.3))
