"""Inputs as they were written down: bytes, years, prices, degrees, concentrations, metres."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import learning
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.tuned.common import mlp
from benchmarks.gauntlet.tuned.more_tasks import houses, series, standardized, waves
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


def raw(x: Tensor) -> Tensor:
    """Standardized pixels as bytes."""
    low, high = x.min(), x.max()
    return ((x - low) / (high - low) * 255).round()


@CASES.sick("unscaled_inputs", "exploding_gradient", "nonfinite", "dead_units")
def bytes_into_an_mlp(sick: bool) -> Recipe:
    """Pixels from 0 to 255, nobody divided by 255."""
    x, y = digits()
    return learning(lambda: mlp(2, width=192), lambda p: SGD(p, 0.1), (raw(x) if sick else x, y), 300)


@CASES.sick("unscaled_inputs", "dead_units", "nonfinite", "oscillating_loss")
def bytes_into_convolutions(sick: bool) -> Recipe:
    """The same before convolutions, trained with momentum."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
            self.fc = nn.Linear(512, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.flatten(F.relu(self.conv2(F.relu(self.conv1(x)))), 1))

    x, y = images()
    return learning(Net, lambda p: SGD(p, 0.02, momentum=0.9), (raw(x) if sick else x, y), 250, batch=32)


@CASES.sick("unscaled_inputs", "saturated_units", "vanishing_gradient")
def bytes_into_tanh(sick: bool) -> Recipe:
    """Raw pixels saturate the first tanh layer; what is behind it sees signs only."""
    x, y = digits()
    return learning(lambda: mlp(3, nn.Tanh), lambda p: SGD(p, 0.05), (40 * raw(x) if sick else x, y), 250)


@CASES.sick("unscaled_inputs", "nonfinite", "diverging_loss", "dead_units", "exploding_gradient")
def houses_as_written_down(sick: bool) -> Recipe:
    """Years, square metres and rooms side by side, under plain gradient descent."""
    x, y = houses()
    data = (x if sick else standardized(x), y)
    return learning(lambda: mlp(2, lambda: nn.LeakyReLU(0.1), inputs=5, outputs=1), lambda p: SGD(p, 0.05), data, 400)


@CASES.sick("unscaled_inputs", "nonfinite", "dead_units", "exploding_gradient")
def samples_of_sixteen_bits(sick: bool) -> Recipe:
    """Sound as integers up to 32,767 into convolutions over time."""

    def model() -> nn.Module:
        convs = [nn.Conv1d(1, 8, 7, 2), nn.ReLU(), nn.Conv1d(8, 16, 5, 2), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*convs, nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 4))

    x, y = waves()
    x = (x / 3).clamp(-1, 1) * (32767 if sick else 3)
    return learning(model, lambda p: SGD(p, 0.03, momentum=0.9, nesterov=True), (x, y), 300, batch=32)


@CASES.sick("unscaled_inputs", "saturated_units", "stalled_training", "vanishing_gradient")
def prices_into_a_gru(sick: bool) -> Recipe:
    """A price of forty thousand that moves by hundreds: every gate is shut or open for good."""

    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(1, 24), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 24)
            for value in x.split(1, 1):
                h = self.cell(value, h)
            return self.head(h)

    x, y = series()
    return learning(Forecast, lambda p: Adam(p, 1e-2), (40_000 + 300 * x if sick else x, y), 250)


@CASES.sick("unscaled_inputs", "oscillating_loss", "diverging_loss")
def degrees_in_kelvin(sick: bool) -> Recipe:
    """Four thermometers, 288 with a spread of six, into logistic regression: the offset is all it feels."""
    deviation = torch.randn(900, 4, generator=torch.Generator().manual_seed(21))
    y = (deviation @ torch.tensor([[1.0, 0, -1], [-1, 1, 0], [0, 1, 1], [1, -1, 0]])).argmax(1)
    x = 288 + 6 * deviation if sick else deviation
    return learning(lambda: nn.Linear(4, 3), lambda p: SGD(p, 0.05), (x, y), 300, batch=30)


@CASES.sick("unscaled_inputs", "stalled_training", "vanishing_gradient")
def concentrations_in_mol(sick: bool) -> Recipe:
    """Twelve concentrations of a few nanomol: the first layer sees nothing but its own bias."""
    x = torch.randn(1600, 12, generator=torch.Generator().manual_seed(22))
    y = (x[:, 0] * x[:, 1] + x[:, 2] + x[:, 3])[:, None]
    data = (x * 3e-9 if sick else x, y)
    return learning(
        lambda: nn.Sequential(nn.Linear(12, 64), nn.SELU(), nn.Linear(64, 1)), lambda p: Adam(p, 5e-3), data, 500
    )


@CASES.sick("unscaled_inputs", "loss_spike", "oscillating_loss", "exploding_gradient")
def metres_beside_shares(sick: bool) -> Recipe:
    """A distance in metres beside shares and an embedded category: two inputs, one of them class numbers."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kinds, self.numbers = nn.Embedding(6, 8), nn.Linear(4, 24)
            self.mix, self.head = nn.Linear(32, 32), nn.Linear(32, 1)

        def forward(self, numbers: Tensor, category: Tensor) -> Tensor:
            h = torch.cat([self.kinds(category), F.relu(self.numbers(numbers))], 1)
            return self.head(F.relu(self.mix(h)))[:, 0]

    g = torch.Generator().manual_seed(23)
    numbers, category = torch.rand(1800, 4, generator=g), torch.randint(6, (1800,), generator=g)
    y = 2 * (numbers[:, 0] - numbers[:, 1]) + torch.randn(6, generator=g)[category]
    y = y + 0.4 * (6 * numbers[:, 3]).sin() + 0.1 * torch.randn(1800, generator=g)
    if sick:
        numbers[:, 3] *= 4e6
    return learning(Net, lambda p: RMSprop(p, 2e-3), ((numbers, category), y), 350)


@CASES.sick("unscaled_inputs", "output_mismatch", "stalled_training", "diverging_loss", "exploding_gradient")
def targets_in_cents(sick: bool) -> Recipe:
    """Prices of about three hundred thousand euros as targets: at its rate the head would need a million steps."""
    x, y = houses()
    data = (standardized(x), 300_000 + 80_000 * y if sick else y)
    return learning(lambda: mlp(2, nn.GELU, inputs=5, outputs=1), lambda p: Adam(p, 3e-3), data, 350)
