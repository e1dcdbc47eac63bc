"""Losses that hardly move, or stop far from fitted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.held_out.b_networks import Block, SmallGPT, dense, small_cnn
from benchmarks.gauntlet.held_out.common_b import accuracy, chains, explained, fit, language, tidy_houses
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("stalled_training", good=0.6)
def language_model_whose_warm_up_counts_in_epochs(sick: bool) -> Training:
    """The warm-up of 20 was meant in steps and is read as epochs of ten thousand: the rate stays near nothing."""
    model = SmallGPT()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    warm = 200_000 if sick else 20
    return language(model, optimizer, 200, rate=lambda i: min(1.0, (i + 1) / warm))


@CASES.sick("stalled_training", good=0.6)
def step_decay_called_every_batch(sick: bool) -> Training:
    """A decay by ten every five epochs, whose scheduler is stepped in the loop over batches."""
    x, y = digits()
    model = dense(64, 64, 64, 10, activation=nn.SiLU)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.1)
    passed = iter(range(1, 10_000))

    def after() -> None:
        if sick or next(passed) % 28 == 0:
            schedule.step()

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    score = accuracy(model, x[:500], y[:500])
    plain = fit(model, optimizer, loss, len(x), 220, score)

    def step(i: int) -> float:
        value = plain.step(i)
        after()
        return value

    return Training(model, optimizer, step, plain.steps, score)


@CASES.sick("stalled_training", also=("rank_collapse", "vanishing_gradient"))
def cnn_under_a_weight_decay_of_two(sick: bool) -> Training:
    """A decay of 2 (a slip for 2e-4) pulls all weights to zero, and the loss stays at the logarithm of ten."""
    x, y = images()
    model = small_cnn(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=2.0 if sick else 2e-4)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 220, accuracy(model, x[:500], y[:500]))


class Classifier(nn.Module):
    """Embedded symbols with positions, attention, the mean over time, a head."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.symbols, self.positions = nn.Embedding(12, 32), nn.Parameter(0.1 * torch.randn(24, 32))
        self.blocks = nn.Sequential(Block(32, 4), Block(32, 4))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.symbols(tokens) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


@CASES.sick("stalled_training")
def transformer_classifier_with_sgd_at_a_ten_thousandth(sick: bool) -> Training:
    """The rate 1e-5 of recipes that fine-tune with AdamW is given to SGD and a network from scratch."""
    x, y = chains()
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), 1e-5 if sick else 0.03, momentum=0.9)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 200, accuracy(model, x[:500], y[:500], 4), batch=32)


@CASES.sick("stalled_training")
def features_and_prices_shuffled_apart(sick: bool) -> Training:
    """Rows of features and of targets are shuffled with different permutations: there is nothing to learn."""
    x, y = tidy_houses()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(8))
    features, prices = x[order], y[order.flip(0)] if sick else y[order]
    model = dense(6, 32, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(features[chosen]), prices[chosen])

    return fit(model, optimizer, loss, len(x), 250, explained(model, x[:500], y[:500], model), batch=64)
