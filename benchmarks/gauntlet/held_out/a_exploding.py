"""Gradients that explode by depth or by time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.held_out.common_a import (
    communities,
    digit_classifier,
    he_,
    looped,
    regression,
    table,
    variance_explained,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()
LOUD = ("nonfinite", "diverging_loss", "loss_spike", "oscillating_loss", "bad_initialization")


class Messages(nn.Module):
    """Graph convolutions that add up the neighbours or take their mean."""

    def __init__(self, depth: int, mean: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32 if k else 16, 32) for k in range(depth))
        self.head = nn.Linear(32, 1)
        neighbours = communities()[0]
        self.register_buffer("pull", neighbours / neighbours.sum(1, keepdim=True) if mean else neighbours)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(self.pull @ x))
        return self.head(x)


@CASES.sick("exploding_gradient", *LOUD, also=("stalled_training", "dead_units"), good=0.6)
def graph_network_that_adds_instead_of_averaging(sick: bool) -> Training:
    """A number for every node, by sums over twenty neighbours without a norm in each of five layers."""
    graph, x, group = communities()
    values = torch.tensor([-1.2, -0.5, 0.4, 1.3])[group]
    half = len(values) // 2
    model = he_(Messages(5, mean=not sick))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    loss = lambda _: F.mse_loss(model(x)[:half, 0], values[:half])  # noqa: E731
    score = variance_explained(model, lambda: model(x)[half:], values[half:])
    return looped(model, optimizer, loss, len(graph), 100, score)


class Flow(nn.Module):
    """A neural differential equation, integrated by Euler's method."""

    def __init__(self, width: int, count: int, length: float) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(8, width), nn.Linear(width, 1)
        self.field = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width))
        self.count, self.length = count, length

    def forward(self, x: Tensor) -> Tensor:
        z = self.lift(x)
        for _ in range(self.count):
            z = z + self.length * self.field(z)
        return self.head(z)


@CASES.sick("exploding_gradient", *LOUD, also=("dead_units", "stalled_training"), good=0.6)
def neural_ode_without_its_step_length(sick: bool) -> Training:
    """The factor 1/12 of Euler's method forgotten: twelve steps of length one."""
    model = he_(Flow(32, 12, 1.0 if sick else 1 / 12))
    nn.init.normal_(model.head.weight, std=0.05)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), table(), 250)


class Rows(nn.Module):
    """A recurrent network of ReLUs that reads an image in strips of four pixels."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 48, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(48, 10)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(scale * torch.eye(48))
            self.rnn.bias_ih_l0.zero_()
            self.rnn.bias_hh_l0.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@CASES.sick("exploding_gradient", *LOUD, also=("dead_units", "stalled_training"), good=0.6)
def recurrent_relus_beyond_the_identity(sick: bool) -> Training:
    """A recurrent matrix that begins at two and a half times the identity, over sixteen steps."""
    model = Rows(2.5 if sick else 1.0)
    return digit_classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 300, shape=(16, 4))


class Block(nn.Module):
    """Two linear layers beside a skip, with or without a batch norm before them."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm2 = nn.BatchNorm1d(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.body(self.norm(x)))


@CASES.sick("exploding_gradient", *LOUD, also=("dead_units", "stalled_training"), good=0.6)
def residual_net_whose_norms_were_taken_out(sick: bool) -> Training:
    """Twenty-four residual blocks at He's initialization, each doubling the variance of what it is given."""
    body = [Block(32, norm=not sick) for _ in range(24)]
    last = nn.Identity() if sick else nn.BatchNorm1d(32)
    model = he_(nn.Sequential(nn.Linear(8, 32), *body, last, nn.ReLU(), nn.Linear(32, 1)))
    nn.init.normal_(model[-1].weight, std=0.05)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return regression(model, optimizer, table(), 200)
