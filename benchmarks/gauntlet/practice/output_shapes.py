"""Outputs and targets whose axes do not meet: broadcast, reshaped, reduced or normalized over the wrong one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import characters, images
from benchmarks.gauntlet.practice.output_common import balanced, table
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, convolutions, explained, mlp, supervised, undisturbed
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("output_mismatch", also=("stalled_training", "rank_collapse"))
def frequencies_broadcast_over_the_batch(sick: bool) -> Training:
    """Predictions ``(N, 1)`` and targets ``(N,)``: every one is compared with all, and the mean is the best answer."""
    g = torch.Generator().manual_seed(8)
    y = 1 + 5 * torch.rand(1500, generator=g)
    phase = 2 * math.pi * torch.rand(1500, 1, generator=g)
    x = (2 * math.pi * y[:, None] * torch.linspace(0, 1, 48) + phase).sin()
    x = x + 0.1 * torch.randn(x.shape, generator=g)
    model = nn.Sequential(
        nn.Conv1d(1, 16, 7, 2), nn.ReLU(), nn.Conv1d(16, 32, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 9, 1)
    )

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.mse_loss(a if sick else a[:, 0], b)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    score = explained(model, x[:500, None], y[:500])
    return supervised(model, optimizer, (x[:, None], y), loss, score, 250)


@CASES.sick("output_mismatch", also=("stalled_training", "frozen_parameters", "vanishing_gradient", "saturated_units"))
def softmax_over_one_unit(sick: bool) -> Training:
    """One output unit with a softmax, which is one for every image, before the binary cross-entropy."""
    x, digit = images()
    y = (digit >= 5).float()
    model = nn.Sequential(
        *convolutions([1, 16, 16]),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
        nn.Softmax(1) if sick else nn.Sigmoid(),
    )

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.binary_cross_entropy(a[:, 0], b)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    score = balanced(model, x[:500], y[:500], lambda out: out > 0.5)
    return supervised(model, optimizer, (x, y), loss, score, 150, batch=32)


@CASES.sick("output_mismatch", also=("stalled_training",))
def class_maps_reshaped_instead_of_permuted(sick: bool) -> Training:
    """Logits ``(N, C, H, W)`` become rows of classes by ``reshape(-1, C)``, which mixes pixels with classes."""
    x, _ = images()
    y = torch.bucketize(F.avg_pool2d(x, 3, 1, 1)[:, 0], torch.tensor([-0.5, 0.0, 0.6]))
    model = nn.Sequential(*convolutions([1, 24, 24]), nn.Conv2d(24, 4, 1))

    def loss(a: Tensor, b: Tensor) -> Tensor:
        rows = a.reshape(-1, 4) if sick else a.permute(0, 2, 3, 1).reshape(-1, 4)
        return F.cross_entropy(rows, b.flatten())

    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def score() -> float:
        with undisturbed(model):
            right = (model(x[:300]).argmax(1) == y[:300]).float().mean().item()
        return bounded((right - 0.25) / 0.75)

    return supervised(model, optimizer, (x, y), loss, score, 150, batch=32)


@CASES.sick("output_mismatch", also=("stalled_training", "rank_collapse"))
def residuals_averaged_before_squaring(sick: bool) -> Training:
    """The square of the mean error, which is zero as soon as the mean of a batch is met."""
    x, y = table()
    model = mlp(3, nn.SiLU, inputs=6, outputs=1)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        error = a[:, 0] - b
        return error.mean().square() if sick else error.square().mean()

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    return supervised(model, optimizer, (x, y), loss, explained(model, x[:1000], y[:1000]), 200, batch=1000)


class Tagger(nn.Module):
    """A bidirectional recurrent network that says one of six tags for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(25, 32)
        self.recurrent = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0])


def tagged(count: int = 1200, length: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Sentences padded with token 24, their tags (of a token and the one before it), and where they have ended."""
    g = torch.Generator().manual_seed(9)
    text = characters()[: count * length].view(count, length)
    before = F.pad(text, (1, 0))[:, :-1]
    tags = (text // 4 + before // 12) % 6
    ended = torch.arange(length) >= torch.randint(4, length + 1, (count, 1), generator=g)
    return text.masked_fill(ended, 24), tags, ended


def tagging(padding: int, ignored: int, *, transposed: bool = True) -> Training:
    """Trains the tagger; padded places get the tag ``padding`` and the loss leaves ``ignored`` out."""
    tokens, tags, ended = tagged()
    targets = tags.masked_fill(ended, padding)
    model = Tagger()

    def loss(a: Tensor, b: Tensor) -> Tensor:
        logits = a.transpose(1, 2) if transposed else a.reshape(len(a), 6, -1)
        return F.cross_entropy(logits, b, ignore_index=ignored)

    def score() -> float:
        with undisturbed(model):
            right = (model(tokens[:200]).argmax(2) == tags[:200])[~ended[:200]].float().mean().item()
        return bounded((right - 1 / 6) / (5 / 6))

    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return supervised(model, optimizer, (tokens, targets), loss, score, 150, batch=32)


@CASES.sick("output_mismatch")
def tags_of_padding_not_ignored(sick: bool) -> Training:
    """Padding has the tag -1, and the loss was not told to ignore it."""
    return tagging(-1, -100 if sick else -1)


@CASES.sick("output_mismatch", also=("stalled_training",))
def tag_scores_viewed_instead_of_transposed(sick: bool) -> Training:
    """Scores ``(N, T, C)`` become ``(N, C, T)`` by a view, which deals them out to other tokens and tags."""
    return tagging(-100, -100, transposed=not sick)
