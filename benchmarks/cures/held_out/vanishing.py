"""Gradients that vanish by depth or by time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, accuracy, digit_recipe, drawn, explained
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.a_vanishing import Elman, Gated
from benchmarks.gauntlet.held_out.common_a import dense_stack, he_, seeded, waveforms
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("vanishing_gradient", "rank_collapse", "stalled_training")
def deep_autoencoder_of_sigmoids(sick: bool) -> Recipe:
    """Fourteen layers of sigmoids around a small code, trained at once and not layer by layer."""
    x = digits()[0]
    half = [64, 56, 48, 40, 32, 24, 16, 10]

    def model() -> nn.Module:
        made = dense_stack([*half, *half[-2::-1]], nn.Sigmoid if sick else nn.ELU)
        for part in made:
            if isinstance(part, nn.Linear):
                nn.init.xavier_normal_(part.weight)
                nn.init.zeros_(part.bias)
        return made

    return Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 2e-3),
        loss=F.mse_loss,
        batches=drawn(x[HELD:], x[HELD:]),
        evaluate=explained(x[:HELD], x[:HELD]),
        steps=300,
    )


@CASES.sick("vanishing_gradient", "bad_initialization")
def elman_network_asked_for_its_first_symbol(sick: bool) -> Recipe:
    """Forty steps back through a recurrent matrix far inside the unit circle; the twin's is orthogonal."""
    g = seeded(31)
    y = torch.randint(4, (1600,), generator=g)
    x = 0.1 * torch.randn(1600, 40, 4, generator=g)
    x[:, 0] += F.one_hot(y, 4)

    def model() -> nn.Module:
        made = Elman(4, 32, 4)
        if sick:
            nn.init.normal_(made.rnn.weight_hh_l0, std=0.4 / 32**0.5)
        else:
            nn.init.orthogonal_(made.rnn.weight_hh_l0)
        return made

    return Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.RMSprop(parameters, 5e-4),
        loss=F.cross_entropy,
        batches=drawn(x[:1300], y[:1300], 32),
        evaluate=accuracy(x[1300:], y[1300:], 4),
        steps=300,
        clip=1.0,
    )


@CASES.sick("vanishing_gradient", "bad_initialization", "rank_collapse")
def gated_convolutions_without_skips(sick: bool) -> Recipe:
    """Fourteen gated layers of a waveform classifier, each half closed, without the connections around them."""
    x, y = waveforms()
    return Recipe(
        model=lambda: nn.Sequential(
            nn.Conv1d(1, 16, 5, padding=2),
            *[Gated(16, skip=not sick) for _ in range(14)],
            *[nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 4)],
        ),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 2e-3),
        loss=F.cross_entropy,
        batches=drawn(x[:1200], y[:1200], 32),
        evaluate=accuracy(x[1200:], y[1200:], 4),
        steps=200,
    )


@CASES.sick("vanishing_gradient", "rank_collapse")
def plain_convolutions_with_sigmoids(sick: bool) -> Recipe:
    """Nine convolutions with the sigmoid of old between them, by stochastic gradient descent."""
    activation = nn.Sigmoid if sick else nn.ReLU

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for k in range(9):
            layers += [nn.Conv2d(16 if k else 1, 16, 3, padding=1, stride=2 if k == 4 else 1), activation()]
        return he_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)))

    return digit_recipe(
        model,
        lambda parameters: torch.optim.SGD(parameters, 0.02, momentum=0.9),
        200,
        shape=(1, 8, 8),
        batch=32,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20),
    )
