"""Units of one layer that begin as copies of each other and stay so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.held_out.common_a import (
    digit_classifier,
    looped,
    seeded,
    variance_explained,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


class Factors(nn.Module):
    """Ratings as products of factors of users and items."""

    def __init__(self, users: int, items: int, rank: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, rank), nn.Embedding(items, rank)

    def forward(self, pairs: Tensor) -> Tensor:
        return (self.users(pairs[:, 0]) * self.items(pairs[:, 1])).sum(1)


@CASES.sick("symmetric_units", "bad_initialization", also=("stalled_training", "rank_collapse"), good=0.6)
def recommender_whose_factors_begin_equal(sick: bool) -> Training:
    """All eight factors of all users and items begin at 0.3: the eight stay one."""
    g = seeded(61)
    users, items = torch.randn(80, 4, generator=g), torch.randn(60, 4, generator=g)
    pairs = torch.stack([torch.randint(80, (5000,), generator=g), torch.randint(60, (5000,), generator=g)], 1)
    ratings = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(1) / 2 + 0.1 * torch.randn(5000, generator=g)
    model = Factors(80, 60, 8)
    for part in (model.users, model.items):
        if sick:
            nn.init.constant_(part.weight, 0.3)
        else:
            nn.init.normal_(part.weight, std=0.3)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    loss = lambda chosen: F.mse_loss(model(pairs[chosen]), ratings[chosen])  # noqa: E731
    score = variance_explained(model, lambda: model(pairs[4000:]), ratings[4000:])
    return looped(model, optimizer, loss, 4000, 300, score, batch=256)


class Reader(nn.Module):
    """A GRU that reads the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


@CASES.sick(
    "symmetric_units", "bad_initialization", also=("stalled_training", "rank_collapse", "saturated_units"), good=0.7
)
def gru_filled_with_one_number(sick: bool) -> Training:
    """``constant_`` for every weight of a GRU and of its head: 48 units, all the same one."""
    model = Reader()
    if sick:
        for weight in model.parameters():
            nn.init.constant_(weight, 0.05)
    return digit_classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 250, shape=(8, 8))


@CASES.sick("symmetric_units", "bad_initialization", also=("stalled_training", "rank_collapse"), good=0.7)
def widened_convolutions_without_noise(sick: bool) -> Training:
    """A net of one channel, widened to sixteen by copying it (Chen et al., 2016) without noise to tell them apart."""
    model = nn.Sequential(
        *[nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(16, 16, 3, padding=1), nn.SiLU()],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)],
    )
    if sick:
        for part in (model[0], model[4], model[8]):
            part.weight.data.copy_(part.weight.data[:1, :1].clone())
            part.bias.data.zero_()
        model[12].weight.data.copy_(model[12].weight.data[:, :1].clone())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return digit_classifier(model, optimizer, 150, shape=(1, 8, 8), batch=32)
