"""Inputs as they were written down: years, samples of sixteen bits, prices, degrees, concentrations, metres."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, bounded, regression, supervised, undisturbed
from benchmarks.gauntlet.tuned.more_tasks import generator, houses, series, standardized, trained, waves
from torch import Tensor, nn

CASES = Cases()

WILD = ("loss_spike", "nonfinite", "diverging_loss", "oscillating_loss", "dead_units", "exploding_gradient")


@CASES.sick("unscaled_inputs", also=(*WILD, "stalled_training", "rank_collapse"), good=0.6)
def houses_as_written_down(sick: bool) -> Training:
    """Years, square metres and rooms side by side, under plain gradient descent."""
    x, y = houses()
    model = nn.Sequential(nn.Linear(5, 40), nn.LeakyReLU(0.1), nn.Linear(40, 40), nn.LeakyReLU(0.1), nn.Linear(40, 1))
    data = (x if sick else standardized(x), y)
    return regression(model, torch.optim.SGD(model.parameters(), 0.05), data, 350, batch=50)


@CASES.sick("unscaled_inputs", also=(*WILD, "stalled_training"), good=0.7)
def samples_of_sixteen_bits(sick: bool) -> Training:
    """Sound as integers up to 32,767 into convolutions over time."""
    x, y = waves()
    x = (x / 3).clamp(-1, 1) * (32767 if sick else 3)
    model = nn.Sequential(
        *[nn.Conv1d(1, 8, 7, 2), nn.ReLU(), nn.Conv1d(8, 16, 5, 2), nn.ReLU()],
        *[nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 4)],
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, nesterov=True)
    score = accuracy(model, x[:400], y[:400], 4)
    return supervised(model, optimizer, (x, y), F.cross_entropy, score, 250, batch=32)


@CASES.sick("unscaled_inputs", "saturated_units", also=("vanishing_gradient", "stalled_training", "rank_collapse"))
def prices_into_a_gru(sick: bool) -> Training:
    """A price of forty thousand that moves by hundreds: every gate is shut or open for good."""
    x, y = series()

    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(1, 24), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 24)
            for value in x.split(1, 1):
                h = self.cell(value, h)
            return self.head(h)

    model = Forecast()
    data = (40_000 + 300 * x if sick else x, y)
    return regression(model, torch.optim.Adam(model.parameters(), 1e-2), data, 250, batch=64)


@CASES.sick("unscaled_inputs", also=(*WILD, "stalled_training"), good=0.6)
def degrees_in_kelvin(sick: bool) -> Training:
    """Four thermometers, 288 with a spread of six, into logistic regression: the offset is all it feels."""
    g = generator(21)
    deviation = torch.randn(900, 4, generator=g)
    y = (deviation @ torch.tensor([[1.0, 0, -1], [-1, 1, 0], [0, 1, 1], [1, -1, 0]])).argmax(1)
    x = 288 + 6 * deviation if sick else deviation
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    score = accuracy(model, x[:400], y[:400], 3)
    return supervised(model, optimizer, (x, y), F.cross_entropy, score, 300, batch=30)


@CASES.sick("unscaled_inputs", "stalled_training", also=("vanishing_gradient", "bad_initialization", "rank_collapse"))
def concentrations_in_mol(sick: bool) -> Training:
    """Twelve concentrations of a few nanomol: the first layer sees nothing but its own bias."""
    g = generator(22)
    x = torch.randn(1200, 12, generator=g)
    y = (x[:, :3].prod(1) + x[:, 3] > 0).float()[:, None]
    model = nn.Sequential(nn.Linear(12, 64), nn.SELU(), nn.Linear(64, 1))
    data = (x * 3e-9 if sick else x, y)

    def score() -> float:
        with undisturbed(model):
            return bounded(2 * ((model(data[0][:500]) > 0) == (y[:500] > 0.5)).float().mean().item() - 1)

    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return supervised(model, optimizer, data, F.binary_cross_entropy_with_logits, score, 300, batch=40)


@CASES.sick("unscaled_inputs", sites=r"^numbers", also=(*WILD, "stalled_training"), good=0.6)
def metres_beside_shares(sick: bool) -> Training:
    """A distance in metres beside shares and an embedded category, trained by RMSprop."""
    g = generator(23)
    numbers = torch.rand(1500, 4, generator=g)
    category = torch.randint(6, (1500,), generator=g)
    y = 2 * (numbers[:, 0] - numbers[:, 1]) + torch.randn(6, generator=g)[category]
    y = y + 0.4 * (6 * numbers[:, 3]).sin() + 0.1 * torch.randn(1500, generator=g)
    if sick:
        numbers[:, 3] *= 4e6

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kinds, self.numbers = nn.Embedding(6, 8), nn.Linear(4, 24)
            self.mix, self.head = nn.Linear(32, 32), nn.Linear(32, 1)

        def forward(self, numbers: Tensor, category: Tensor) -> Tensor:
            h = torch.cat([self.kinds(category), F.relu(self.numbers(numbers))], 1)
            return self.head(F.relu(self.mix(h)))[:, 0]

    model = Net()
    optimizer, draw = torch.optim.RMSprop(model.parameters(), 2e-3), generator(1)

    def loss(_: int) -> Tensor:
        i = torch.randint(1500, (64,), generator=draw)
        return F.mse_loss(model(numbers[i], category[i]), y[i])

    def score() -> float:
        with undisturbed(model):
            return bounded(1 - F.mse_loss(model(numbers, category), y).item() / y.var().item())

    return trained(model, optimizer, loss, score, 300)
