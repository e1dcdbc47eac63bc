"""What the sick recipes of data, loss and optimization are made of: healthy ones, of which one thing is spoiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.datasets import Dataset, digits
from gradiometer.remedies.recipe import Recipe

Change = Callable[[Tensor], Tensor]


@cache
def images() -> Dataset:
    """The digits, loaded once."""
    return digits()


@cache
def curve() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A smooth function of eight numbers, of mean 0 and deviation 1: inputs and values to learn from, and held out."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2500, 8, generator=generator)
    y = torch.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3].tanh() + 0.5 * x[:, 3:4]
    y = (y - y.mean()) / y.std()
    return x[:2000], y[:2000], x[2000:], y[2000:]


def same(x: Tensor) -> Tensor:
    """As it is."""
    return x


def drawn(x: Tensor, y: Tensor, seed: int, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of these examples, drawn with a seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(x), (size,), generator=generator)
        yield x[chosen], y[chosen]


def layers(
    inputs: int, outputs: int, width: int = 32, depth: int = 1, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Linear layers with an activation between, as torch draws them."""
    made: list[nn.Module] = []
    for i in range(depth):
        made += [nn.Linear(inputs if i == 0 else width, width), activation()]
    return nn.Sequential(*made, nn.Linear(width, outputs))


sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
adam = partial(torch.optim.Adam, lr=3e-3)
quick = partial(torch.optim.Adam, lr=1e-2)


def plain_network() -> nn.Module:
    """One hidden layer, for digits."""
    return layers(64, 10)


def curved_network() -> nn.Module:
    """One hidden layer, for a function of eight numbers."""
    return layers(8, 1, activation=nn.Tanh)


def telling_digits(
    model: Callable[[], nn.Module] = plain_network,
    optimizer: Callable[..., torch.optim.Optimizer] = sgd,
    steps: int = 200,
    *,
    inputs: Change = same,
    targets: Change = same,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    right: Callable[[Tensor, Tensor], Tensor] = lambda outputs, targets: outputs.argmax(1) == targets,
) -> Recipe:
    """Digits told apart, scored by the share of held-out ones that are told right."""
    data = images()

    def accuracy(network: nn.Module) -> float:
        return float(right(network(inputs(data.test_inputs)), data.test_targets).float().mean())

    return Recipe(
        model=model,
        optimizer=optimizer,
        loss=loss,
        batches=lambda seed: drawn(inputs(data.train_inputs), targets(data.train_targets), seed),
        evaluate=accuracy,
        steps=steps,
    )


def fitting_a_curve(
    model: Callable[[], nn.Module] = curved_network,
    optimizer: Callable[..., torch.optim.Optimizer] = quick,
    steps: int = 250,
    *,
    inputs: Change = same,
    targets: Change = same,
    loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss,
) -> Recipe:
    """A function of eight numbers, scored by the share of its variance that is explained on held-out ones."""
    x, y, new_x, new_y = curve()

    def explained(network: nn.Module) -> float:
        truth = targets(new_y)
        error = (network(inputs(new_x)).reshape(truth.shape) - truth).square().mean()
        return float(1 - error / truth.var())

    return Recipe(
        model=model,
        optimizer=optimizer,
        loss=loss,
        batches=lambda seed: drawn(inputs(x), targets(y), seed),
        evaluate=explained,
        steps=steps,
    )
