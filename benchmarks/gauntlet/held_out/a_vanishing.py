"""Gradients that vanish by depth or by time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.held_out.common_a import (
    dense_stack,
    digit_classifier,
    he_,
    looped,
    reconstruction,
    right_answers,
    seeded,
    waveforms,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"), good=0.35)
def deep_autoencoder_of_sigmoids(sick: bool) -> Training:
    """Fourteen layers of sigmoids around a small code, trained at once and not layer by layer."""
    half = [64, 56, 48, 40, 32, 24, 16, 10]
    model = dense_stack([*half, *half[-2::-1]], nn.Sigmoid if sick else nn.ELU)
    for part in model:
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            nn.init.zeros_(part.bias)
    return reconstruction(model, torch.optim.Adam(model.parameters(), 2e-3), 300)


class Elman(nn.Module):
    """A plain recurrent network that answers after the last step."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(inputs, width, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@CASES.sick("vanishing_gradient", "bad_initialization", also=("stalled_training", "rank_collapse"), good=0.6)
def elman_network_asked_for_its_first_symbol(sick: bool) -> Training:
    """Forty steps back through a recurrent matrix far inside the unit circle; the twin's is orthogonal."""
    g = seeded(31)
    y = torch.randint(4, (1600,), generator=g)
    x = 0.1 * torch.randn(1600, 40, 4, generator=g)
    x[:, 0] += F.one_hot(y, 4)
    model = Elman(4, 32, 4)
    if sick:
        nn.init.normal_(model.rnn.weight_hh_l0, std=0.4 / 32**0.5)
    else:
        nn.init.orthogonal_(model.rnn.weight_hh_l0)
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-3)
    loss = lambda chosen: F.cross_entropy(model(x[chosen]), y[chosen])  # noqa: E731
    score = right_answers(model, x[1300:], y[1300:], 4)
    return looped(model, optimizer, loss, 1300, 200, score, batch=32, clip=1.0)


class Gated(nn.Module):
    """A gated convolution, ``tanh(a) * sigmoid(b)``."""

    def __init__(self, channels: int, skip: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 2 * channels, 3, padding=1)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, 1)
        y = torch.tanh(a) * torch.sigmoid(b)
        return x + y if self.skip else y


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse", "bad_initialization"))
def gated_convolutions_without_skips(sick: bool) -> Training:
    """Fourteen gated layers of a waveform classifier, each half closed, without the connections around them."""
    x, y = waveforms()
    body = [Gated(16, skip=not sick) for _ in range(14)]
    head = [nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 4)]
    model = nn.Sequential(nn.Conv1d(1, 16, 5, padding=2), *body, *head)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    loss = lambda chosen: F.cross_entropy(model(x[chosen]), y[chosen])  # noqa: E731
    score = right_answers(model, x[1200:], y[1200:], 4)
    return looped(model, optimizer, loss, 1200, 200, score, batch=32)


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"), good=0.6)
def plain_convolutions_with_sigmoids(sick: bool) -> Training:
    """Nine convolutions with the sigmoid of old between them, by stochastic gradient descent."""
    activation = nn.Sigmoid if sick else nn.ReLU
    layers: list[nn.Module] = []
    for k in range(9):
        layers += [nn.Conv2d(16 if k else 1, 16, 3, padding=1, stride=2 if k == 4 else 1), activation()]
    model = he_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20)
    return digit_classifier(model, optimizer, 200, shape=(1, 8, 8), batch=32, schedule=schedule)
