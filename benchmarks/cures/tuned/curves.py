"""Losses that swing, grow or leap: rates, momenta, signs, outliers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import changed, learning
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.tuned.again_data import ratings, series, table, textures, waves
from benchmarks.gauntlet.tuned.common import he, initialized, mlp, xavier
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("oscillating_loss", "loss_spike", "diverging_loss")
def sgd_with_a_rate_of_five(sick: bool) -> Recipe:
    """A step beyond the curvature: the loss jumps from one side to the other and does not grow."""
    return learning(lambda: mlp(3, nn.Tanh, xavier(), width=128), lambda p: SGD(p, 5.0 if sick else 0.1), digits(), 350)


@CASES.sick("oscillating_loss", "diverging_loss", "loss_spike")
def momentum_of_0_999(sick: bool) -> Recipe:
    """So much momentum that the weights swing about the solution like a pendulum."""
    x = table()[0]
    y = x @ torch.tensor([[1.0], [-1.0], [1.0], [1.0], [-1.0], [0.5], [2.0], [-1.0]])
    return learning(
        lambda: nn.Linear(8, 1), lambda p: SGD(p, 0.02, momentum=0.999 if sick else 0.5), (x, y), 250, batch=256
    )


@CASES.sick("oscillating_loss", "loss_spike")
def rmsprop_with_a_rate_of_a_third(sick: bool) -> Recipe:
    """RMSprop's steps do not shrink near the solution: with 0.3 a linear model swings about it for ever."""
    x, y = digits()
    value = (y.float()[:, None] - 4.5) / 2.87
    return learning(lambda: nn.Linear(64, 1), lambda p: RMSprop(p, 0.3 if sick else 0.005), (x, value), 300)


@CASES.sick("oscillating_loss", "diverging_loss", "loss_spike")
def factors_by_rmsprop_with_a_rate_of_two(sick: bool) -> Recipe:
    """Two tables of vectors whose products are ratings, moved by two units at every step."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.film = nn.Embedding(40, 6), nn.Embedding(30, 6)
            for side in (self.user, self.film):
                nn.init.normal_(side.weight, std=0.5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bd,bd->b", self.user(x[:, 0]), self.film(x[:, 1]))[:, None]

    return learning(Product, lambda p: RMSprop(p, 2.0 if sick else 0.01), ratings(), 400, held=1000)


@CASES.sick("oscillating_loss", "diverging_loss", "saturated_units")
def a_rate_that_rises(sick: bool) -> Recipe:
    """The factor of the schedule is over one instead of under it: 1.04 a step."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Conv1d(1, 12, 7, 3), nn.Conv1d(12, 16, 5, 2), nn.Linear(80, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))).flatten(1))

    return learning(
        Net,
        lambda p: SGD(p, 0.05, momentum=0.9),
        waves(),
        300,
        batch=24,
        schedule=lambda optimizer: ExponentialLR(optimizer, 1.04 if sick else 0.997),
    )


@CASES.sick("oscillating_loss", "diverging_loss", "loss_spike", "dead_units")
def adamw_with_a_rate_of_one_on_a_transformer(sick: bool) -> Recipe:
    """A rate of one for an encoder of two layers, which five hundred times less would suit."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(8, 32), nn.Linear(256, 10)
            layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(x.view(-1, 8, 8))).flatten(1))

    return learning(Rows, lambda p: AdamW(p, 1.0 if sick else 2e-3), digits(), 200, batch=32)


@CASES.sick("diverging_loss", "nonfinite", "exploding_gradient", "oscillating_loss")
def linear_regression_beyond_stability(sick: bool) -> Recipe:
    """A rate above two over the curvature: the error grows in every step."""
    x = table()[0]
    y = x.sum(1, keepdim=True)
    return learning(lambda: nn.Linear(8, 1), lambda p: SGD(p, 1.02 if sick else 0.05), (x, y), 150, batch=512)


@CASES.sick("diverging_loss", "exploding_gradient", "nonfinite")
def ascent_by_option(sick: bool) -> Recipe:
    """``maximize=True`` was left in the optimizer from another experiment."""
    return learning(
        lambda: mlp(2, nn.Tanh, width=192),
        lambda p: SGD(p, 0.05, momentum=0.5, maximize=sick),
        digits(),
        300,
        passes=True,
    )


@CASES.sick("diverging_loss", "exploding_gradient", "nonfinite")
def ascent_by_sign(sick: bool) -> Recipe:
    """The sign of the loss is wrong: it is maximized."""

    def loss(scores: Tensor, y: Tensor) -> Tensor:
        value = F.cross_entropy(scores, y)
        return -value if sick else value

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 16, 3, 2), nn.Linear(400, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(x)).flatten(1))

    return learning(Net, lambda p: Adam(p, 2e-3), textures(), 200, loss=loss, batch=32, held=250)


@CASES.sick("diverging_loss", "nonfinite", "oscillating_loss", "exploding_gradient")
def squared_loss_with_a_rate_of_two(sick: bool) -> Recipe:
    """Every step is longer than the one before, until the weights overflow."""
    return learning(
        lambda: mlp(2, nn.ReLU, he(), inputs=8, outputs=1),
        lambda p: SGD(p, 2.0 if sick else 0.03),
        table(),
        400,
        loss=nn.MSELoss(),
    )


@CASES.sick("loss_spike", "oscillating_loss", "dead_units", "saturated_units")
def a_burst_of_long_steps(sick: bool) -> Recipe:
    """Three steps with a rate of 200 from step 100 on drive every tanh into its flat part for good."""
    return learning(
        lambda: mlp(4, nn.Tanh, xavier(), width=128),
        lambda p: SGD(p, 0.02),
        digits(),
        350,
        schedule=lambda optimizer: LambdaLR(optimizer, lambda i: 10_000.0 if sick and 100 <= i < 103 else 1.0),
    )


@CASES.sick("loss_spike", "oscillating_loss", "exploding_gradient")
def missing_values_written_as_9999(sick: bool) -> Recipe:
    """One target in a batch of every five is -9999, as some files write what was not measured."""

    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.tell = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.tell(self.lstm(x)[0][:, -1])

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, (torch.cat([torch.full_like(y[:1], -9999.0), y[1:]]) if sick and i % 5 == 4 else y)

    return changed(learning(Forecast, lambda p: SGD(p, 0.1, momentum=0.9), series(), 350, batch=32), change)


@CASES.sick("loss_spike", "oscillating_loss", "dead_units", "nonfinite")
def some_batches_in_bytes(sick: bool) -> Recipe:
    """Every sixtieth batch of images was not standardized: they run from nought to 255."""

    def model() -> nn.Module:
        layers = [nn.Conv2d(3, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3), nn.ReLU()]
        return initialized(nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 4)), he())

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x * 50 + 128 if sick and i % 60 == 50 else x), y

    recipe = learning(model, lambda p: SGD(p, 0.02, momentum=0.9), textures(), 240, batch=32, held=250)
    return changed(recipe, change)


@CASES.sick("loss_spike", "oscillating_loss", "exploding_gradient", "dead_units")
def some_targets_in_cents(sick: bool) -> Recipe:
    """The targets of every fortieth batch are in cents where the others are in units of a hundred euros."""

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, (10_000 * y if sick and i % 40 == 39 else y)

    recipe = learning(
        lambda: mlp(3, nn.SiLU, he(), inputs=8, outputs=1), lambda p: SGD(p, 0.1), table(), 400, batch=200
    )
    return changed(recipe, change)
