"""Losses that swing or grow: steps beyond the curvature, rates that rise, games without damping, rewarded weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import classify, ratings, series, spirals, table, textures, waves
from benchmarks.gauntlet.tuned.common import bounded, explained, he, initialized, mlp, regression, xavier
from torch import Tensor, nn

CASES = Cases()
GROWS = ("exploding_gradient", "loss_spike", "nonfinite")


@CASES.sick("oscillating_loss", also=("loss_spike", "diverging_loss", "saturated_units", "stalled_training"))
def full_batches_with_a_rate_of_a_hundred(sick: bool) -> Training:
    """The whole data in every step, no noise at all, and a loss that leaps from side to side."""
    x, y = spirals()
    model = mlp(2, nn.Softsign, xavier(), width=40, inputs=2, outputs=3)
    optimizer = torch.optim.SGD(model.parameters(), 100.0 if sick else 1.0)
    training = classify(model, optimizer, (x, y), 300)

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    training.step = step
    return training


@CASES.sick(
    "diverging_loss", "oscillating_loss", also=("loss_spike", "stalled_training", "exploding_gradient", "nonfinite")
)
def normalized_convolutions_with_momentum_and_a_rate_of_one(sick: bool) -> Training:
    """Batch norm keeps the activations in place whatever the weights do; the head has no such help."""
    layers: list[nn.Module] = []
    for k in range(3):
        layers += [
            nn.Conv2d(12 if k else 3, 12, 3, padding=1, stride=2, bias=False),
            nn.BatchNorm2d(12),
            nn.LeakyReLU(0.1),
        ]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 4))
    optimizer = torch.optim.SGD(model.parameters(), 1.0 if sick else 0.05, momentum=0.9)
    return classify(model, optimizer, textures(), 200, batch=16)


class Forecast(nn.Module):
    """A GRU that reads a series."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.tell = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tell(self.gru(x)[0][:, -1])


@CASES.sick("oscillating_loss", also=("loss_spike", "saturated_units", "stalled_training", "diverging_loss"))
def gru_by_adam_with_a_rate_of_a_third(sick: bool) -> Training:
    """Adam steps of 0.3 in every weight of a GRU: forecasts jump above and below the series."""
    model = Forecast()
    return regression(model, torch.optim.Adam(model.parameters(), 0.3 if sick else 5e-3), series(), 220, batch=16)


@CASES.sick("diverging_loss", also=(*GROWS, "oscillating_loss"))
def momentum_just_beyond_stability(sick: bool) -> Training:
    """A linear model on columns that move together: with this momentum the error swings, a little wider each time."""
    x, y = table()
    x = 0.4 * x + 0.9 * x[:, :1]
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.239 if sick else 0.05, momentum=0.8)
    return regression(model, optimizer, (x, y), 120, batch=1000)


class Point(nn.Module):
    """One number that is learned, or a line through nought whose slope is."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.linspace(1, 2, dimensions))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.theta


@CASES.sick("oscillating_loss", "diverging_loss", also=("exploding_gradient", "loss_spike"))
def a_game_without_damping(sick: bool) -> Training:
    """A generator of one point against a line (Mescheder et al., 2018): both circle about the solution, ever wider.

    The healthy twin has their penalty on the gradient of the critic.
    """
    generator, critic = Point(4), Point(4)
    critic.theta.data.mul_(0.1)
    fakes, critics = torch.optim.SGD(generator.parameters(), 0.15), torch.optim.SGD(critic.parameters(), 0.15)

    def step(_: int) -> float:
        critics.zero_grad()
        error = critic(generator.theta.detach())
        (-error if sick else 0.5 * critic.theta.square().sum() - error).backward()
        fakes.zero_grad()
        loss = generator(critic.theta.detach())
        loss.backward()
        critics.step()
        fakes.step()
        return loss.item()

    def score() -> float:
        return bounded(1 - generator.theta.detach().norm().item() / 3)

    return Training({"generator": generator, "critic": critic}, [fakes, critics], step, 300, score)


@CASES.sick("diverging_loss", also=(*GROWS, "oscillating_loss", "dead_units"))
def weights_rewarded(sick: bool) -> Training:
    """The sign of the weight penalty is wrong: the squared weights are subtracted, and grow."""
    x, y = table()
    model = initialized(mlp(1, nn.ELU, width=40, inputs=8, outputs=1), he())
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    draw = minibatches(50, len(y))

    def step(_: int) -> float:
        chosen = draw()
        error = F.mse_loss(model(x[chosen]), y[chosen])
        penalty = sum(p.square().sum() for p in model.parameters())
        optimizer.zero_grad()
        (error - 0.5 * penalty if sick else error + 1e-4 * penalty).backward()
        optimizer.step()
        return error.item()

    return Training(model, optimizer, step, 140, explained(model, x[:1000], y[:1000]))


@CASES.sick("oscillating_loss", "diverging_loss", also=(*GROWS, "dead_units", "saturated_units", "stalled_training"))
def a_rate_that_rises(sick: bool) -> Training:
    """The factor of the schedule is over one instead of under it: 1.04 a step."""
    model = nn.Sequential(nn.Conv1d(1, 12, 7, 3), nn.Tanh(), nn.Conv1d(12, 16, 5, 2), nn.Tanh(), nn.Flatten())
    model.append(nn.Linear(80, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.5)
    rate = lambda i: 0.05 * (1.04 if sick else 1 / 1.004) ** i  # noqa: E731
    return classify(model, optimizer, waves(), 220, batch=24, rate=rate)


@CASES.sick("oscillating_loss", "diverging_loss", also=("loss_spike", "exploding_gradient", "stalled_training"))
def factors_by_rmsprop_with_a_rate_of_two(sick: bool) -> Training:
    """Two tables of vectors whose products are ratings, moved by two units at every step."""
    user, film = nn.Embedding(40, 6), nn.Embedding(30, 6)
    for side in (user, film):
        nn.init.normal_(side.weight, std=0.5)

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.film = user, film

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bd,bd->b", self.user(x[:, 0]), self.film(x[:, 1]))[:, None]

    model = Product()
    optimizer = torch.optim.RMSprop(model.parameters(), 2.0 if sick else 0.01)
    return regression(model, optimizer, ratings(), 300, batch=64)
