"""Trainings that stand still: rates, schedules, decays and epsilons that leave no step, and targets without a cause."""

from __future__ import annotations

import torch
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import classify, ratings, reviews, series, spirals, table, textures, waves
from benchmarks.gauntlet.tuned.common import classifier, he, initialized, mlp, pooled_head, regression
from torch import Tensor, nn

CASES = Cases()


@CASES.sick(
    "stalled_training", also=("vanishing_gradient", "rank_collapse", "bad_initialization", "dead_units"), good=0.6
)
def decoupled_decay_of_a_hundred(sick: bool) -> Training:
    """AdamW with a decay of a hundred and a rate of 3e-3: each step takes three tenths of every weight."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3), nn.GELU(), nn.Conv2d(12, 12, 3, stride=2), nn.GELU(), nn.Conv2d(12, 24, 3), nn.GELU()),
        *pooled_head(24, 4),
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=100.0 if sick else 0.01)
    return classify(model, optimizer, textures(), 250, batch=32)


@CASES.sick("stalled_training", also=("oscillating_loss",), good=0.5)
def targets_shuffled_against_inputs(sick: bool) -> Training:
    """The table was sorted and its targets were not: the loss falls to their variance and stays."""
    x, y = table(20_000)
    if sick:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(41))]
    model = nn.Sequential(nn.Linear(8, 32), nn.Mish(), nn.Linear(32, 32), nn.Mish(), nn.Linear(32, 1))
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), (x, y), 400, batch=128)


@CASES.sick("stalled_training")
def cosine_over_twelve_steps(sick: bool) -> Training:
    """A cosine that ends after twelve steps, where epochs were meant, leaves a rate of nought."""
    model = nn.Sequential(nn.Conv1d(1, 16, 7, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 24, 5, 2))
    model.extend([nn.BatchNorm1d(24), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)])
    optimizer = torch.optim.SGD(model.parameters(), 2e-3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12 if sick else 240)

    def after() -> None:
        if schedule.last_epoch < schedule.T_max - 1:
            schedule.step()
        else:
            optimizer.param_groups[0]["lr"] = 0.0

    return classify(model, optimizer, waves(), 240, batch=16, between=after)


@CASES.sick("stalled_training", also=("vanishing_gradient",))
def warm_up_over_a_million_steps(sick: bool) -> Training:
    """A rate that rises evenly for a million steps, in a training of three hundred."""
    model = nn.GRU(1, 24, 2, batch_first=True)
    head = nn.Linear(24, 1)

    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = model, head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x)[0][:, -1])

    whole = Forecast()
    rate = lambda i: 5e-3 * min(1.0, i / (1_000_000 if sick else 20))  # noqa: E731
    return regression(whole, torch.optim.Adam(whole.parameters(), 5e-3), series(), 150, batch=24, rate=rate)


@CASES.sick("stalled_training", also=("vanishing_gradient",))
def adadelta_with_a_rate_for_adam(sick: bool) -> Training:
    """Adadelta, which wants a rate of one, with one of 1e-3."""
    model = initialized(mlp(2, nn.PReLU, inputs=2, outputs=3, width=80), he())
    optimizer = torch.optim.Adadelta(model.parameters(), 1e-3 if sick else 1.0)
    return classify(model, optimizer, spirals(), 500, batch=128)


class Sides(nn.Module):
    """Ratings from vectors and biases of both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.film = nn.Embedding(40, 12), nn.Embedding(30, 12)
        for side in (self.user, self.film):
            nn.init.normal_(side.weight, std=0.4)
        self.mean = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.user(x[:, 0]) * self.film(x[:, 1])).sum(1, keepdim=True) + self.mean


@CASES.sick("stalled_training", also=("vanishing_gradient",))
def epsilon_of_a_hundred(sick: bool) -> Training:
    """Adam with an epsilon of 1e2, a sign lost from 1e-2: the steps are gradients times 5e-5."""
    model = Sides()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, eps=1e2 if sick else 1e-2)
    return regression(model, optimizer, ratings(), 400, batch=256)


@CASES.sick("stalled_training", also=("vanishing_gradient",))
def halved_at_every_step(sick: bool) -> Training:
    """A plateau rule with a patience of nought and a threshold never met halves the rate at every step."""
    model = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(108, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=0 if sick else 100, threshold=0.9 if sick else 1e-4
    )
    training = classifier(model, optimizer, 250, data=images(), batch=50)
    inner = training.step

    def step(i: int) -> float:
        loss = inner(i)
        schedule.step(loss)
        return loss

    training.step = step
    return training


@CASES.sick("stalled_training", also=("oscillating_loss", "vanishing_gradient"))
def labels_of_the_batch_before(sick: bool) -> Training:
    """Words come with the labels of the batch before them: nothing can be learned but how often each is."""
    model = nn.Sequential(nn.EmbeddingBag(120, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    before: list[Tensor] = []

    def change(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        before.append(y)
        return x, (before[-2] if sick and len(before) > 1 else y)

    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return classify(model, optimizer, reviews(), 250, batch=64, change=change)
