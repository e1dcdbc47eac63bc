"""Targets that the outputs cannot reach, or that the loss does not expect."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.practice.output_common import balanced, table
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, convolutions, explained, he, mlp, supervised, xavier
from torch import Tensor, nn

CASES = Cases()


class Totals(nn.Module):
    """Two recurrent layers that read a sequence and say one number."""

    def __init__(self, head: bool) -> None:
        super().__init__()
        self.first = nn.GRU(3, 32, batch_first=True)
        self.second = nn.GRU(32, 16 if head else 1, batch_first=True)
        self.head = nn.Linear(16, 1) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)[0])[0][:, -1])[:, 0]


@CASES.sick("output_mismatch", "saturated_units", also=("stalled_training", "vanishing_gradient"))
def hidden_state_taken_for_the_answer(sick: bool) -> Training:
    """A hidden state, which tanh keeps below one, is itself the prediction of sums around five."""
    x = torch.randn(1500, 10, 3, generator=torch.Generator().manual_seed(3))
    y = 5 + x[:, -6:, 0].sum(1)
    model = Totals(head=not sick)
    if not sick:
        nn.init.constant_(model.head.bias, 5.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return supervised(model, optimizer, (x, y), F.mse_loss, explained(model, x[:500], y[:500]), 250)


@CASES.sick("output_mismatch", "dead_units", sites=r"^[45]\b", also=("stalled_training", "vanishing_gradient"))
def log_concentrations_behind_a_relu(sick: bool) -> Training:
    """A concentration is never negative, so the output got a ReLU; its logarithm, the target, always is."""
    x, y = table()
    y = -4 + 0.8 * y.clamp(-4, 4)
    body = mlp(2, nn.Tanh, xavier(), inputs=6, outputs=1)
    model = nn.Sequential(*body, nn.ReLU()) if sick else body
    nn.init.constant_(body[4].bias, 0.1)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.mse_loss(a[:, 0], b)

    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return supervised(model, optimizer, (x, y), loss, explained(model, x[:1000], y[:1000]), 300)


class Steering(nn.Module):
    """A convolution over readings, and an angle within ``reach`` of straight on."""

    def __init__(self, reach: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(1, 16, 5), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 20, 32), nn.ReLU())
        self.out = nn.Linear(32, 1)
        self.squash = nn.Tanh()
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        return self.reach * self.squash(self.out(self.body(x)))[:, 0]


@CASES.sick("output_mismatch", "saturated_units", also=("stalled_training", "vanishing_gradient"))
def steering_in_degrees_for_an_output_in_radians(sick: bool) -> Training:
    """The wheel turns by a tanh of up to one radian; the recorded angles are in degrees."""
    g = torch.Generator().manual_seed(4)
    place = torch.rand(1500, 1, generator=g) * 2 - 1
    lane = torch.exp(-((torch.linspace(-1, 1, 24) - 0.8 * place) ** 2) / 0.03)
    x = (lane - lane.mean()) / lane.std() + 0.2 * torch.randn(1500, 24, generator=g)
    degrees = 45 * place[:, 0]
    y = degrees if sick else degrees * math.pi / 180
    model = Steering(1.0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    score = explained(model, x[:500, None], y[:500])
    return supervised(model, optimizer, (x[:, None], y), F.mse_loss, score, 200)


@CASES.sick("output_mismatch", "diverging_loss", also=("exploding_gradient", "stalled_training", "saturated_units"))
def masks_of_0_and_255(sick: bool) -> Training:
    """Binary segmentation; the masks come from image files and were not divided by 255."""
    clean, _ = images()
    g = torch.Generator().manual_seed(5)
    x = clean + 0.3 * torch.randn(clean.shape, generator=g)
    mask = (clean > 0.5).float()
    model = nn.Sequential(*convolutions([1, 16, 16]), nn.Conv2d(16, 1, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    score = balanced(model, x[:400], mask[:400], lambda out: out > 0)
    y = 255 * mask if sick else mask
    return supervised(model, optimizer, (x, y), F.binary_cross_entropy_with_logits, score, 150, batch=32)


@CASES.sick("output_mismatch", also=("stalled_training", "dead_units"))
def hinge_loss_with_labels_zero_and_one(sick: bool) -> Training:
    """The hinge loss wants labels of -1 and 1: with 0 the loss is one whatever is said, and so "yes" is always best."""
    x, digit = digits()
    y = (digit % 2).float()
    model = mlp(2, nn.ReLU, he(), outputs=1)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        labels = b if sick else 2 * b - 1
        return (1 - labels * a[:, 0]).clamp(min=0).mean()

    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    score = balanced(model, x[:500], y[:500], lambda out: out > 0)
    return supervised(model, optimizer, (x, y), loss, score, 200)


@CASES.sick("output_mismatch")
def five_stars_for_five_outputs(sick: bool) -> Training:
    """Ratings from one to five are used as class indices, of which five outputs have none called five."""
    g = torch.Generator().manual_seed(6)
    words = torch.randint(200, (3000, 12), generator=g)
    feeling = torch.randn(200, generator=g)[words].sum(1) / math.sqrt(12)
    stars = 1 + torch.bucketize(feeling, torch.tensor([-1.2, -0.3, 0.5, 2.2]))
    y = stars if sick else stars - 1
    model = nn.Sequential(nn.EmbeddingBag(200, 32, mode="mean"), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    score = accuracy(model, words[:500], y[:500], 5)
    return supervised(model, optimizer, (words, y), F.cross_entropy, score, 250, batch=16)


@CASES.sick("output_mismatch", "saturated_units", sites=r"^decoder\b", also=("stalled_training", "vanishing_gradient"))
def autoencoder_with_tanh_for_raw_pixels(sick: bool) -> Training:
    """The decoder ends in tanh; the pixels to rebuild run from 0 to 16 and were scaled for the encoder alone."""
    x, _ = digits()
    low, high = x.min(), x.max()
    scaled = 2 * (x - low) / (high - low) - 1

    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 16))
            self.decoder = nn.Sequential(nn.Linear(16, 48), nn.Tanh(), nn.Linear(48, 64), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.encoder(x))

    model = Autoencoder()
    for part in (model.encoder, model.decoder):
        for layer in part:
            if isinstance(layer, nn.Linear):
                xavier()(layer.weight)
    y = 8 * (scaled + 1) if sick else scaled
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return supervised(model, optimizer, (scaled, y), F.mse_loss, explained(model, scaled[:500], y[:500]), 300)
