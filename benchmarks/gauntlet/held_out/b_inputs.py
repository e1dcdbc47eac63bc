"""Inputs in the units they were measured in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.held_out.b_networks import dense, small_cnn
from benchmarks.gauntlet.held_out.common_b import accuracy, explained, fit, houses, tidy_houses, weather
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.sick(
    "unscaled_inputs",
    also=(
        "stalled_training",
        "exploding_gradient",
        "oscillating_loss",
        "dead_units",
        "loss_spike",
        "bad_initialization",
    ),
    good=0.7,
)
def house_prices_from_a_register_as_it_is(sick: bool) -> Training:
    """Years, incomes and metres enter a network of ReLUs as numbers up to a hundred thousand."""
    (x, y) = houses() if sick else tidy_houses()
    model = dense(6, 64, 64, 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 300, explained(model, x[:500], y[:500], model))


class Forecast(nn.Module):
    """A GRU over a window, a linear head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@CASES.sick(
    "unscaled_inputs", "saturated_units", also=("stalled_training", "vanishing_gradient", "rank_collapse"), good=0.6
)
def temperatures_in_kelvin(sick: bool) -> Training:
    """A GRU reads temperatures of 285 kelvin, give or take four: its gates see the offset alone."""
    x, y = weather()
    x = x if sick else (x - x.mean()) / x.std()
    model = Forecast()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 200, explained(model, x[:400], y[:400], model), batch=32)


@CASES.sick(
    "unscaled_inputs",
    also=("stalled_training", "exploding_gradient", "oscillating_loss", "dead_units", "loss_spike", "diverging_loss"),
    good=0.7,
)
def bytes_into_a_cnn_under_sgd(sick: bool) -> Training:
    """Pixels from 0 to 255 enter a small convolutional network at a rate that suits standardized ones."""
    x, y = images()
    if sick:
        x = ((x - x.min()) / (x.max() - x.min()) * 255).round()
    model = small_cnn(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 250, accuracy(model, x[:500], y[:500]), batch=64)


@CASES.sick(
    "unscaled_inputs",
    also=("stalled_training", "exploding_gradient", "oscillating_loss", "loss_spike", "saturated_units"),
    good=0.7,
)
def one_column_in_cents_among_standardized_ones(sick: bool) -> Training:
    """Of eight measured columns one was left in cents, a thousand times the others, and drowns them."""
    g = torch.Generator().manual_seed(17)
    x = torch.randn(2000, 8, generator=g)
    y = ((x[:, 0] + x[:, 1] * x[:, 2] + 0.8 * x[:, 3] - 0.5 * x[:, 7]) > 0).long()
    if sick:
        x = torch.cat([x[:, :7], 2000 * x[:, 7:] + 8000], 1)
    model = dense(8, 48, 48, 2, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 350, accuracy(model, x[:500], y[:500], 2))
