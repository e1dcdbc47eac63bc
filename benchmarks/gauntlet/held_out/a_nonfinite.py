"""NaN and Inf."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.held_out.common_a import (
    HELD,
    clamped,
    dense_stack,
    evaluating,
    looped,
    right_answers,
    seeded,
    table,
    variance_explained,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("nonfinite", also=("stalled_training",), good=0.6)
def distance_of_an_image_to_itself(sick: bool) -> Training:
    """The root of a squared distance, whose slope is infinite at zero: the sampler may pair an image with itself."""
    x, y = digits()
    seen, labels = x[HELD:], y[HELD:]
    model = dense_stack([64, 64, 64, 8], nn.SiLU)
    g = seeded(81)
    eps = 0.0 if sick else 1e-8

    def loss(chosen: Tensor) -> Tensor:
        pool = (labels[chosen, None] == labels).float()
        friends = torch.multinomial(pool, 1, generator=g)[:, 0]
        others = chosen[torch.randperm(len(chosen), generator=g)]
        anchor, near, far = model(seen[chosen]), model(seen[friends]), model(seen[others])
        positive = ((anchor - near).square().sum(1) + eps).sqrt()
        negative = ((anchor - far).square().sum(1) + 1e-8).sqrt()
        different = labels[chosen] != labels[others]
        return F.relu(positive - negative + 1)[different].mean()

    def score() -> float:
        with evaluating(model):
            codes, bank = model(x[:HELD]), model(seen)
            nearest = labels[torch.cdist(codes, bank).argmin(1)]
        return clamped(((nearest == y[:HELD]).float().mean().item() - 0.1) / 0.9)

    return looped(model, torch.optim.Adam(model.parameters(), 2e-3), loss, len(labels), 200, score)


class Pool(nn.Module):
    """Attention pooling over sequences of several lengths, some of them empty."""

    def __init__(self, careful: bool) -> None:
        super().__init__()
        self.embed, self.score = nn.Embedding(30, 24, padding_idx=0), nn.Linear(24, 1)
        self.head = nn.Linear(24, 5)
        self.careful = careful

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        logits = self.score(h).squeeze(2)
        logits = logits.masked_fill(x == 0, -1e9 if self.careful else -math.inf)
        return self.head((logits.softmax(1)[:, :, None] * h).sum(1))


@CASES.sick("nonfinite", also=("stalled_training",), good=0.6)
def softmax_over_an_empty_sequence(sick: bool) -> Training:
    """One document in eight hundred is empty; all of its attention logits are minus infinity."""
    g = seeded(82)
    y = torch.randint(5, (2400,), generator=g)
    x = torch.randint(1, 30, (2400, 12), generator=g)
    about = torch.randint(5, (2400, 12), generator=g) + 5 * y[:, None] + 1  # words of its own topic
    x = torch.where(torch.rand(2400, 12, generator=g) < 0.6, about, x)
    lengths = torch.randint(4, 13, (2400, 1), generator=g)
    lengths[700:2000:800] = 0
    x = x * (torch.arange(12) < lengths)
    model = Pool(careful=not sick)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    loss = lambda chosen: F.cross_entropy(model(x[chosen]), y[chosen])  # noqa: E731
    return looped(model, optimizer, loss, 2000, 250, right_answers(model, x[2000:], y[2000:], 5))


class Counts(nn.Module):
    """A network for counts, which takes the logarithm of those above zero."""

    def __init__(self, careful: bool) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(8))
        self.body = dense_stack([8, 64, 1], nn.Tanh)
        self.careful = careful

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.offset.exp()
        positive = torch.where(x > 0, x, torch.ones_like(x)) if self.careful else x
        return self.body(torch.where(x > 0, positive.log(), torch.zeros_like(x)))


@CASES.sick("nonfinite", also=("stalled_training",), good=0.6)
def logarithm_behind_a_where(sick: bool) -> Training:
    """``where(x > 0, log(x), 0)``: fine forward, zero over zero backward, and the scales of the inputs are NaN."""
    g = seeded(83)
    x = torch.poisson(torch.rand(2000, 8, generator=g) * 4, generator=g)
    y = (x + 1).log() @ torch.randn(8, 1, generator=g)
    y = (y - y.mean()) / y.std()
    model = Counts(careful=not sick)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    loss = lambda chosen: F.mse_loss(model(x[chosen]), y[chosen])  # noqa: E731
    score = variance_explained(model, lambda: model(x[1600:]), y[1600:])
    return looped(model, optimizer, loss, 1600, 250, score)


class Contrast(nn.Module):
    """Brings every image to mean zero and deviation one before a small convolutional network."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.body = nn.Sequential(
            *[nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
            *[nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)],
        )

    def forward(self, x: Tensor) -> Tensor:
        spread = x.std((1, 2, 3), keepdim=True) + self.eps
        return self.body((x - x.mean((1, 2, 3), keepdim=True)) / spread)


@CASES.sick("nonfinite", also=("stalled_training",), good=0.6)
def blank_image_divided_by_its_contrast(sick: bool) -> Training:
    """Two blank scans among fourteen hundred have a standard deviation of zero, and nothing is added to it."""
    x, y = images()
    seen, labels = x[HELD:].clone(), y[HELD:]
    seen[[333, 999]] = 0.0
    model = Contrast(0.0 if sick else 1e-3)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    loss = lambda chosen: F.cross_entropy(model(seen[chosen]), labels[chosen])  # noqa: E731
    return looped(model, optimizer, loss, len(labels), 200, right_answers(model, x[:HELD], y[:HELD]), batch=32)


@CASES.sick("nonfinite", also=("stalled_training",), good=0.6)
def one_reading_of_a_sensor_is_missing(sick: bool) -> Training:
    """One NaN in a table of two thousand rows; the twin has the column's mean there."""
    x, y = table()
    x = x.clone()
    x[777, 3] = math.nan if sick else 0.0
    model = nn.Sequential(nn.Linear(8, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.NAdam(model.parameters(), 3e-3)
    loss = lambda chosen: F.mse_loss(model(x[chosen]), y[chosen])  # noqa: E731
    score = variance_explained(model, lambda: model(x[2000:]), y[2000:])
    return looped(model, optimizer, loss, 2000, 250, score)
