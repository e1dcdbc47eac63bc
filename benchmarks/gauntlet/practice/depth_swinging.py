"""Losses that swing because the step is too long, in recurrent, graph and generative trainings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.practice.depth_common import communities
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, convolutions, explained, language, mlp
from torch import Tensor, nn

CASES = Cases()
BESIDES = ("loss_spike", "diverging_loss", "stalled_training", "exploding_gradient", "saturated_units", "dead_units")


class Characters(nn.Module):
    """An LSTM over characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(24, 32), nn.LSTM(32, 96, batch_first=True), nn.Linear(96, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0])


@CASES.sick("oscillating_loss", "saturated_units", "diverging_loss", "loss_spike", also=BESIDES)
def lstm_with_sgd_of_sixty(sick: bool) -> Training:
    """Plain descent with a rate of 60 where an LSTM of characters is well with 5: the loss throws itself about."""
    model = Characters()
    return language(model, torch.optim.SGD(model.parameters(), 60.0 if sick else 5.0), 200, batch=24)


@CASES.sick("oscillating_loss", also=BESIDES)
def pendulum_of_momentum(sick: bool) -> Training:
    """Momentum 0.999 at the rate that suits 0.9: the whole batch's loss swings to and fro in long waves."""
    g = torch.Generator().manual_seed(41)
    x = torch.randn(400, 12, generator=g)
    y = 4 + (x @ torch.randn(12, 1, generator=g)).tanh() + x[:, :1] * x[:, 1:2] * 0.3
    model = mlp(1, nn.Tanh, inputs=12, outputs=1, width=48)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.999 if sick else 0.9)

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, explained(model, x, y))


class Graph(nn.Module):
    """Two graph convolutions."""

    def __init__(self, adjacency: Tensor) -> None:
        super().__init__()
        self.adjacency: Tensor
        self.register_buffer("adjacency", adjacency)
        self.one, self.two = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.adjacency @ F.elu(self.one(self.adjacency @ x)))


@CASES.sick("oscillating_loss", "diverging_loss", "loss_spike", also=BESIDES)
def graph_network_with_sgd_of_two(sick: bool) -> Training:
    """Plain descent on a whole graph with a rate of 2 where 0.2 is well: each step jumps over the valley."""
    adjacency, x, y = communities()
    model = Graph(adjacency)
    optimizer = torch.optim.SGD(model.parameters(), 2.0 if sick else 0.2)

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 200, accuracy(model, x, y, 4))


@CASES.sick("oscillating_loss", "loss_spike", "diverging_loss", also=BESIDES)
def convolutions_with_sgd_of_thirty(sick: bool) -> Training:
    """Plain descent with a rate of 30 where three convolutions with group norms want 0.1."""
    body = convolutions([1, 16, 16, 16], nn.GELU, lambda c: nn.GroupNorm(4, c))
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(1024, 10))
    optimizer = torch.optim.SGD(model.parameters(), 30.0 if sick else 0.05)
    return classifier(model, optimizer, 150, data=images(), batch=32)
