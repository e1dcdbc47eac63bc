"""Sick recipes that another activation cures, and what the other groups' cases are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.datasets import Dataset, digits
from gradiometer.remedies.recipe import Recipe

M = TypeVar("M", bound=nn.Module)


@cache
def data() -> Dataset:
    """The digits, loaded once."""
    return digits()


def batches(seed: int, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of digits drawn with a seed."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = data().train_inputs, data().train_targets
    while True:
        chosen = torch.randint(len(inputs), (size,), generator=generator)
        yield inputs[chosen], targets[chosen]


def accuracy(model: nn.Module) -> float:
    """Share of held-out digits that are told right."""
    return float((model(data().test_inputs).argmax(1) == data().test_targets).float().mean())


def classifier(model: Callable[[], nn.Module], optimizer: Callable[..., torch.optim.Optimizer], steps: int) -> Recipe:
    """A recipe that tells digits."""
    return Recipe(
        model=model,
        optimizer=optimizer,
        loss=F.cross_entropy,
        batches=batches,
        evaluate=accuracy,
        steps=steps,
    )


def drawn(model: M, scale: float, bias: float = 0.0) -> M:
    """Weights of its linear and convolutional layers with variance ``scale^2 / fan_in``, and biases all the same."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=scale / module.weight[0].numel() ** 0.5)
            if module.bias is not None:
                nn.init.constant_(module.bias, bias)
    return model


def chain(width: int, depth: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between, for digits."""
    layers: list[nn.Module] = [nn.Linear(64, width), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)


def sigmoid_chain() -> Recipe:
    """Eight sigmoid layers with weights of a scale that suits other activations: the gradient vanishes."""
    return classifier(lambda: drawn(chain(48, 8, nn.Sigmoid), 1.35), sgd, 250)


class Functional(nn.Module):
    """A network whose activations are functions in its ``forward``."""

    def __init__(self) -> None:
        """Eight layers."""
        super().__init__()
        self.first = nn.Linear(64, 48)
        self.body = nn.ModuleList(nn.Linear(48, 48) for _ in range(7))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Sigmoid behind each of them."""
        h = torch.sigmoid(self.first(x))
        for layer in self.body:
            h = layer(h).sigmoid()
        h = F.dropout(h, 0.1, training=self.training)
        return F.log_softmax(self.head(h), 1)


def sigmoid_functions() -> Recipe:
    """The same with functions in ``forward``, a dropout that looks at the mode, and a softmax that must stay."""
    return replace(classifier(lambda: drawn(Functional(), 1.35), sgd, 250), loss=F.nll_loss)


def dead_chain() -> Recipe:
    """Six ReLU layers whose biases are so low that no unit ever fires."""
    return classifier(lambda: drawn(chain(48, 6, nn.ReLU), 1.2, bias=-0.5), partial(torch.optim.Adam, lr=2e-3), 250)
