"""Sick recipes that other connections cure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.networks import convolutional, recurrent
from gradiometer.remedies.base import Proof
from gradiometer.remedies.cases.activation import batches, chain, classifier, data, drawn
from gradiometer.remedies.cases.normalization import momentum, post_norm_transformer, sigmoid_tower
from gradiometer.remedies.recipe import Recipe


def quiet_relu() -> Recipe:
    """Twenty ReLU layers at half of He's scale: the gradient vanishes."""
    return classifier(lambda: drawn(chain(48, 20, nn.ReLU), 0.7), partial(torch.optim.SGD, lr=0.05), 150)


def normalized_tower() -> Recipe:
    """Fifty layers with batch normalization and no skip: the gradient explodes (Yang et al., 2019)."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for i in range(50):
            layers += [nn.Linear(32 if i else 64, 32), nn.BatchNorm1d(32), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(32, 10))

    return classifier(model, partial(torch.optim.SGD, lr=0.05), 80)


def plain_convolutions() -> Recipe:
    """Fifty-six layers, nearly all of them convolutions, and no skip (He et al., 2016)."""

    def images(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.view(-1, 1, 8, 8), y) for x, y in batches(seed, 32))

    def accuracy(model: nn.Module) -> float:
        guess = model(data().test_inputs.view(-1, 1, 8, 8)).argmax(1)
        return float((guess == data().test_targets).float().mean())

    return Recipe(
        model=lambda: convolutional(4, 56, 10, residual=False),
        optimizer=partial(momentum, lr=0.03),
        loss=F.cross_entropy,
        batches=images,
        evaluate=accuracy,
        steps=50,
    )


CLASSES = 4


def distant(seed: int, size: int = 32, steps: int = 60) -> Iterator[tuple[Tensor, Tensor]]:
    """Noise of 60 steps whose first ten hold a pattern, one of four."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(CLASSES, 4, generator=torch.Generator().manual_seed(99)) * 1.5
    while True:
        targets = torch.randint(CLASSES, (size,), generator=generator)
        inputs = 0.5 * torch.randn(size, steps, 4, generator=generator)
        inputs[:, :10] += patterns[targets].unsqueeze(1)
        yield inputs, targets


@cache
def _held_out() -> tuple[Tensor, Tensor]:
    return next(distant(12345, 256))


class Stepwise(nn.Module):
    """A recurrent cell in a loop of one's own."""

    def __init__(self) -> None:
        """Tanh units."""
        super().__init__()
        self.cell = nn.RNNCell(4, 24)
        self.output = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """The classes of a sequence."""
        h = x.new_zeros(len(x), 24)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.output(h)


def _sequences(model: type[nn.Module] | partial[nn.Module], steps: int) -> Recipe:
    def accuracy(model: nn.Module) -> float:
        inputs, targets = _held_out()
        return float((model(inputs).argmax(1) == targets).float().mean())

    return Recipe(
        model=model,
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        loss=F.cross_entropy,
        batches=distant,
        evaluate=accuracy,
        steps=steps,
    )


def vanilla_rnn() -> Recipe:
    """Tanh units that would have to remember over fifty steps: the gradient vanishes on the way back."""
    return _sequences(partial(recurrent, 4, 24, CLASSES), 100)


def vanilla_cells() -> Recipe:
    """The same, a cell in a loop of one's own."""
    return _sequences(Stepwise, 60)


_SIGMOID = Proof(sigmoid_tower, 0.6)
_QUIET = Proof(quiet_relu, 0.6)
_TOWER = Proof(normalized_tower, 0.6)
_VANILLA = (Proof(vanilla_rnn, 0.8), Proof(vanilla_cells, 0.8))

RESIDUAL = (_TOWER, _SIGMOID, _QUIET)
RESIDUAL_REZERO = (Proof(plain_convolutions, 0.5), _SIGMOID, _TOWER)
RESIDUAL_SKIPINIT = (_QUIET, _TOWER)
RESIDUAL_FIXUP = (_QUIET, _SIGMOID)
DENSE = (_SIGMOID, _QUIET)
DEEPNORM = (Proof(post_norm_transformer, 0.35),)
RNN_TO_LSTM = _VANILLA
RNN_TO_GRU = _VANILLA
