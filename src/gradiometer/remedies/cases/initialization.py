"""Sick recipes that another initialization cures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.remedies.cases.activation import chain, classifier, drawn, sgd
from gradiometer.remedies.recipe import Recipe

adam = partial(torch.optim.Adam, lr=2e-3)


def layers(model: nn.Module) -> list[nn.Linear]:
    """Its linear layers."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def small_relu() -> Recipe:
    """Ten ReLU layers with half of He's scale: signal and gradient vanish."""
    return classifier(lambda: drawn(chain(48, 10, nn.ReLU), 0.5), sgd, 250)


def large_relu() -> Recipe:
    """Eight ReLU layers with four times He's scale: the first loss is in the thousands."""
    return classifier(lambda: drawn(chain(48, 8, nn.ReLU), 5.0), sgd, 250)


def saturated_tanh() -> Recipe:
    """Eight tanh layers with unit normal weights."""
    return classifier(lambda: drawn(chain(64, 8, nn.Tanh), 8.0), sgd, 250)


def loud_selu() -> Recipe:
    """Eight SELU layers with three times LeCun's scale."""
    return classifier(lambda: drawn(chain(48, 8, nn.SELU), 3.0), sgd, 250)


def uneven_scales() -> Recipe:
    """Twelve ReLU layers, each drawn at a scale of its own, from a tenth of He's to a third."""

    def model() -> nn.Module:
        made = chain(48, 12, nn.ReLU)
        for i, layer in enumerate(layers(made)):
            drawn(layer, 0.15 * (1 + i % 3))
        return made

    return classifier(model, sgd, 250)


def ordered_tanh() -> Recipe:
    """Sixteen tanh layers deep in the ordered phase."""
    return classifier(lambda: drawn(chain(64, 16, nn.Tanh), 0.5), sgd, 200)


def low_biases() -> Recipe:
    """Six ReLU layers with weights as He has them and biases so low that no unit ever fires."""
    return classifier(lambda: drawn(chain(48, 6, nn.ReLU), 2**0.5, bias=-3.0), adam, 200)


def born_dead() -> Recipe:
    """Six ReLU layers of eight units, whose weights lean to the negative side: all units are dead at birth."""

    def model() -> nn.Module:
        made = drawn(chain(12, 6, nn.ReLU), 1.0)
        with torch.no_grad():
            for layer in layers(made)[1:-1]:
                layer.weight.sub_(0.7)
        return made

    return classifier(model, adam, 300)


def constant_weights() -> Recipe:
    """All weights the same, and biases zero: each layer is one unit."""

    def model() -> nn.Module:
        made = drawn(chain(48, 3, nn.ReLU), 1.0)
        for layer in layers(made):
            nn.init.constant_(layer.weight, 0.02)
        return made

    return classifier(model, adam, 150)


def zero_weights() -> Recipe:
    """Two hidden layers of zeros, so that not even their gradient is anything else."""

    def model() -> nn.Module:
        made = chain(48, 2, nn.ReLU)
        for layer in layers(made):
            nn.init.zeros_(layer.weight)
        return made

    return classifier(model, adam, 150)


def loud_output() -> Recipe:
    """An output layer three hundred times too large: the network is sure of answers it has not learned."""

    def model() -> nn.Module:
        made = drawn(chain(48, 3, nn.Tanh), 1.0)
        drawn(layers(made)[-1], 300.0)
        return made

    return classifier(model, partial(torch.optim.SGD, lr=0.03), 300)


class Images(nn.Module):
    """A chain of convolutions of one width on images, with tanh behind each."""

    def __init__(self, width: int, depth: int) -> None:
        """``depth`` convolutions."""
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, stride=2), nn.Tanh())
        for _ in range(depth - 1):
            self.body.append(nn.Conv2d(width, width, 3, padding=1)).append(nn.Tanh())
        self.head = nn.Linear(width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Digits as rows."""
        return self.head(self.body(x.view(-1, 1, 8, 8)).flatten(1))


def faint_convolutions() -> Recipe:
    """Ten convolutions with half the scale that tanh asks for."""
    return classifier(lambda: drawn(Images(8, 10), 0.4), partial(torch.optim.SGD, lr=0.05, momentum=0.9), 120)


def recalled(seed: int, length: int, size: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Sequences of noise whose first entry says which of four classes it is."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield _recall(generator, length, size)


def _recall(generator: torch.Generator, length: int, size: int) -> tuple[Tensor, Tensor]:
    x = 0.1 * torch.randn(size, length, 4, generator=generator)
    y = torch.randint(4, (size,), generator=generator)
    x[:, 0] += 2 * F.one_hot(y, 4)
    return x, y


class Recall(nn.Module):
    """A recurrent layer, and an output layer behind its last step."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        """``layer`` is batch first."""
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """The four classes."""
        return self.head(self.layer(x)[0][:, -1])


def recall(model: nn.Module, length: int) -> float:
    """Share of held-out sequences that are told right."""
    x, y = _recall(torch.Generator().manual_seed(10_000), length, 256)
    return float((model(x).argmax(1) == y).float().mean())


def remembering(model: Callable[[], nn.Module], lr: float, length: int, steps: int) -> Recipe:
    """A recipe that has to carry the first entry to the end."""
    return Recipe(
        model=model,
        optimizer=partial(torch.optim.Adam, lr=lr),
        loss=F.cross_entropy,
        batches=partial(recalled, length=length),
        evaluate=partial(recall, length=length),
        steps=steps,
    )


def shut_gates() -> Recipe:
    """An LSTM whose forget gates begin shut, so that nothing of the first entry arrives."""

    def model() -> nn.Module:
        made = Recall(nn.LSTM(4, 16, batch_first=True), 16)
        nn.init.constant_(made.layer.all_weights[0][2].detach()[16:32], -4.0)
        return made

    return remembering(model, 1e-2, 10, 300)


def forgetful_recurrence() -> Recipe:
    """A recurrent layer whose weights over time are small: the first entry is gone after a few steps."""

    def model() -> nn.Module:
        made = Recall(nn.RNN(4, 16, batch_first=True), 16)
        nn.init.normal_(made.layer.all_weights[0][1], std=0.1)
        return made

    return remembering(model, 3e-3, 40, 150)


class Attention(nn.Module):
    """One block of attention over the rows of a digit."""

    def __init__(self) -> None:
        """Width 16, two heads."""
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.position = nn.Parameter(0.1 * torch.randn(8, 16))
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Digits as rows."""
        h = self.embed(x.view(-1, 8, 8)) + self.position
        h = self.attend(h, h, h, need_weights=False)[0]
        return self.head(torch.tanh(self.down(torch.relu(self.up(h)))).flatten(1))


def loud_attention() -> Recipe:
    """Attention and what lies around it drawn so large that each query sees one key, and tanh saturates."""

    def model() -> nn.Module:
        made = drawn(Attention(), 6.0)
        nn.init.normal_(made.attend.in_proj_weight, std=2.0)
        return made

    return classifier(model, partial(torch.optim.SGD, lr=0.05, momentum=0.9), 200)
