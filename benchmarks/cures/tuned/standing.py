"""Trainings that stand still: rates, schedules, decays and epsilons that leave no step, and clipping that binds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import learning
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.tuned.again_data import ratings, series, spirals, table, textures, waves
from benchmarks.gauntlet.tuned.common import Residual, he, initialized, mlp, pooled_head
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("stalled_training", "vanishing_gradient")
def learning_rate_1e_7_adam(sick: bool) -> Recipe:
    """Adam with a rate meant for another decade."""
    return learning(lambda: mlp(3, width=128), lambda p: Adam(p, 1e-7 if sick else 1e-3), digits(), 300)


@CASES.sick("stalled_training")
def learning_rate_1e_6(sick: bool) -> Recipe:
    """A step so short that nothing moves, under a convolutional network."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2)
            self.fc = nn.Linear(32 * 9, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv2(self.conv1(x).relu()).relu().flatten(1))

    return learning(Net, lambda p: SGD(p, 1e-6 if sick else 0.05, momentum=0.9), images(), 250, batch=32)


@CASES.sick("stalled_training", "rank_collapse", "vanishing_gradient")
def weight_decay_of_ten(sick: bool) -> Recipe:
    """Weight decay of ten: every step takes half of the weights away."""
    return learning(
        lambda: mlp(3, nn.ReLU, he(), width=160),
        lambda p: SGD(p, 0.05, weight_decay=10.0 if sick else 1e-4),
        digits(),
        300,
    )


@CASES.sick("stalled_training", "rank_collapse", "vanishing_gradient", "dead_units")
def decoupled_decay_of_a_hundred(sick: bool) -> Recipe:
    """AdamW with a decay of a hundred and a rate of 3e-3: each step takes three tenths of every weight."""

    def model() -> nn.Module:
        convs = [nn.Conv2d(3, 12, 3), nn.GELU(), nn.Conv2d(12, 12, 3, stride=2), nn.GELU(), nn.Conv2d(12, 24, 3)]
        return nn.Sequential(*convs, nn.GELU(), *pooled_head(24, 4))

    return learning(
        model, lambda p: AdamW(p, 3e-3, weight_decay=100.0 if sick else 0.01), textures(), 250, batch=32, held=250
    )


@CASES.sick("stalled_training")
def schedule_counted_in_batches(sick: bool) -> Recipe:
    """The rate shrinks by a tenth per batch, where per epoch was meant."""
    return learning(
        lambda: mlp(3),
        lambda p: SGD(p, 0.05),
        digits(),
        500,
        passes=True,
        schedule=lambda optimizer: ExponentialLR(optimizer, 0.9 if sick else 0.9 ** (1 / 100)),
    )


@CASES.sick("stalled_training")
def warm_up_over_a_million_steps(sick: bool) -> Recipe:
    """A rate that rises evenly for a million steps, in a training of two hundred."""

    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(1, 24, 2, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x)[0][:, -1])

    def schedule(optimizer: Optimizer) -> LambdaLR:
        return LambdaLR(optimizer, lambda i: min(1.0, i / (1_000_000 if sick else 20)))

    return learning(Forecast, lambda p: Adam(p, 5e-3), series(), 200, batch=24, schedule=schedule)


@CASES.sick("stalled_training")
def cosine_over_twelve_steps(sick: bool) -> Recipe:
    """A cosine that ends after twelve steps, where epochs were meant, leaves a rate of nought."""

    def model() -> nn.Module:
        first = [nn.Conv1d(1, 16, 7, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 24, 5, 2), nn.BatchNorm1d(24)]
        return nn.Sequential(*first, nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))

    def schedule(optimizer: Optimizer) -> LambdaLR:
        end = 12 if sick else 300
        return LambdaLR(optimizer, lambda i: float(1 + torch.tensor(torch.pi * min(i / end, 1)).cos()) / 2)

    return learning(model, lambda p: SGD(p, 2e-3, momentum=0.9), waves(), 300, batch=16, schedule=schedule)


@CASES.sick("stalled_training")
def adadelta_with_a_rate_for_adam(sick: bool) -> Recipe:
    """Adadelta, which wants a rate of one, with one of 1e-3."""

    def model() -> nn.Module:
        return initialized(mlp(2, nn.PReLU, inputs=2, outputs=3, width=80), he())

    return learning(model, lambda p: Adadelta(p, 1e-3 if sick else 1.0), spirals(), 500, batch=128)


@CASES.sick("stalled_training")
def epsilon_of_a_hundred(sick: bool) -> Recipe:
    """Adam with an epsilon of 1e2, a sign lost from 1e-2: the steps are gradients times 1e-4."""

    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.film = nn.Embedding(40, 12), nn.Embedding(30, 12)
            for side in (self.user, self.film):
                nn.init.normal_(side.weight, std=0.4)
            self.mean = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return (self.user(x[:, 0]) * self.film(x[:, 1])).sum(1, keepdim=True) + self.mean

    return learning(Sides, lambda p: Adam(p, 1e-2, eps=1e2 if sick else 1e-2), ratings(), 500, batch=256, held=1000)


@CASES.sick("clipping_bound", "stalled_training")
def norm_clipped_at_1e_4(sick: bool) -> Recipe:
    """All gradients are scaled down to a total norm of 1e-4."""
    return learning(
        lambda: mlp(3, nn.ReLU, he(), width=160), lambda p: SGD(p, 0.1), digits(), 300, clip=1e-4 if sick else 10.0
    )


@CASES.sick("clipping_bound", "stalled_training")
def convolutions_clipped_at_5e_4(sick: bool) -> Recipe:
    """Momentum SGD on convolutions, and a norm held at 5e-4."""

    def model() -> nn.Module:
        convs = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()]
        return nn.Sequential(*convs, nn.Flatten(), nn.Linear(512, 10))

    clip = 5e-4 if sick else 5.0
    return learning(model, lambda p: SGD(p, 0.02, momentum=0.9), images(), 200, batch=32, clip=clip)


def clipped(between: Callable[[nn.Module], object]) -> Callable[..., Tensor]:
    """A step of one's own with something between the backward pass and the update."""

    def step(model: nn.Module, optimizer: Optimizer, loss: Any, batch: Any) -> Tensor:
        inputs, targets = batch
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        between(model)
        optimizer.step()
        return value.detach()

    return step


@CASES.sick("clipping_bound", "stalled_training")
def every_value_at_most_1e_5(sick: bool) -> Recipe:
    """Values clipped at 1e-5 under Nesterov's momentum, before convolutions over time, in a step of one's own."""

    def model() -> nn.Module:
        convs = [nn.Conv1d(1, 16, 7, 3), nn.Hardswish(), nn.Conv1d(16, 16, 5, 2), nn.Hardswish()]
        return nn.Sequential(*convs, nn.Flatten(), nn.Linear(80, 4))

    def clip(model: nn.Module) -> None:
        nn.utils.clip_grad_value_(model.parameters(), 1e-5 if sick else 1.0)

    optimizer = lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True)  # noqa: E731
    return learning(model, optimizer, waves(), 300, batch=24, step=clipped(clip))


@CASES.sick("clipping_bound", "stalled_training")
def each_parameter_on_its_own(sick: bool) -> Recipe:
    """A loop that clips the norm of every parameter at a thousandth."""

    def clip(model: nn.Module) -> None:
        for p in model.parameters():
            nn.utils.clip_grad_norm_(p, 1e-3 if sick else 10.0)

    return learning(
        lambda: mlp(2, nn.Mish, inputs=8, outputs=1),
        lambda p: SGD(p, 0.02, momentum=0.9),
        table(),
        300,
        batch=100,
        step=clipped(clip),
    )


@CASES.sick("clipping_bound", "stalled_training")
def hooks_that_clamp(sick: bool) -> Recipe:
    """A hook on every parameter clamps its gradient to a millionth while it is computed."""

    def model() -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 80), nn.ReLU(), Residual(nn.Sequential(nn.Linear(80, 80), nn.ReLU()), 0.5))
        net.append(nn.Linear(80, 1))
        for p in net.parameters():
            if sick:
                p.register_hook(lambda g: g.clamp(-1e-6, 1e-6))
        return net

    return learning(model, lambda p: SGD(p, 0.03, momentum=0.9), table(), 250, loss=nn.HuberLoss())
