"""Habits of everyday training that are no fault: schedules, accumulation, dropout, decay, unusual optimizers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, he, mlp, undisturbed
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy()
def full_batch() -> Training:
    """The same 1,000 digits in every step."""
    x, y = digits()
    x, y = x[:1000], y[:1000]
    model = mlp(2, nn.ReLU, he())
    optimizer = torch.optim.SGD(model.parameters(), 0.3)

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 150, accuracy(model, x, y))


@CASES.healthy()
def dropout_of_a_half() -> Training:
    """Dropout after each of two layers."""
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.5)]
    model = nn.Sequential(*layers, nn.Linear(128, 10))
    return classifier(model, torch.optim.AdamW(model.parameters(), 2e-3), 300)


@CASES.healthy()
def nesterov_momentum() -> Training:
    """Momentum of 0.9, GELU."""
    model = mlp(3, nn.GELU, he())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True), 300)


@CASES.healthy()
def strong_weight_decay() -> Training:
    """Weights that shrink while the loss falls."""
    model = mlp(2, nn.SiLU)
    return classifier(model, torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=1.0), 300)


@CASES.healthy()
def warm_up_and_decay() -> Training:
    """The rate rises from a ten-thousandth of its peak over a hundred steps and falls to zero."""

    def rate(i: int) -> float:
        return 0.1 * max(i, 0.01) / 100 if i < 100 else 0.1 * (1 + math.cos(math.pi * (i - 100) / 250)) / 2

    model = mlp(3, nn.Tanh)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.0, momentum=0.9), 350, rate=rate)


@CASES.healthy()
def cosine_restarts() -> Training:
    """The rate jumps back to its peak every hundred steps, and the loss with it."""
    model = mlp(2, nn.ReLU, he())
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    return classifier(model, optimizer, 300, rate=lambda i: 0.15 * (1 + math.cos(math.pi * (i % 100) / 100)) + 1e-4)


@CASES.healthy()
def accumulation_over_four_batches() -> Training:
    """Four backward passes to one step of the optimizer."""
    x, y = digits()
    model = mlp(2, nn.ELU)
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    draw = minibatches(16, len(y))

    def step(_: int) -> float:
        optimizer.zero_grad()
        total = 0.0
        for _ in range(4):
            chosen = draw()
            loss = F.cross_entropy(model(x[chosen]), y[chosen]) / 4
            loss.backward()
            total += loss.item()
        optimizer.step()
        return total

    return Training(model, optimizer, step, 250, accuracy(model, x[:500], y[:500]))


@CASES.healthy()
def lbfgs() -> Training:
    """An optimizer that calls the loss several times a step."""
    x, y = digits()
    x, y = x[:600], y[:600]
    model = mlp(1, nn.Tanh, width=32)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return Training(model, optimizer, lambda _: optimizer.step(closure).item(), 40, accuracy(model, x, y))


@CASES.healthy()
def sparse_embedding() -> Training:
    """Sparse gradients, their own optimizer, and most rows untouched in a step."""
    g = torch.Generator().manual_seed(11)
    words = torch.randint(300, (3000, 12), generator=g)
    y = (torch.randn(300, generator=g)[words].sum(1) > 0).long()
    model = nn.ModuleDict({"words": nn.EmbeddingBag(300, 16, sparse=True), "head": mlp(1, inputs=16, outputs=2)})
    sparse = torch.optim.SparseAdam(list(model["words"].parameters()), 2e-2)
    dense = torch.optim.Adam(model["head"].parameters(), 5e-3)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        sparse.zero_grad()
        dense.zero_grad()
        loss = F.cross_entropy(model["head"](model["words"](words[chosen])), y[chosen])
        loss.backward()
        sparse.step()
        dense.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            right = model["head"](model["words"](words[:500])).argmax(1) == y[:500]
        return 2 * right.float().mean().item() - 1

    return Training(model, [sparse, dense], step, 300, score)


class Experts(nn.Module):
    """Each example goes to one of four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Linear(64, 32), nn.Linear(32, 4), nn.Linear(32, 10)
        self.experts = nn.ModuleList(mlp(1, width=32, inputs=32, outputs=32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.embed(x))
        weight, chosen = self.router(x).softmax(1).max(1)
        y = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            mine = chosen == k
            if mine.any():
                y[mine] = weight[mine, None] * expert(x[mine])
        return self.head(x + y)


@CASES.healthy()
def mixture_of_experts() -> Training:
    """An expert that no example of a batch visits gets no gradient in that step."""
    model = Experts()
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 300)


@CASES.healthy()
def weight_and_spectral_norm() -> Training:
    """Parametrized weights: what is trained is not what multiplies."""
    parametrizations = nn.utils.parametrizations
    a, b = parametrizations.weight_norm(nn.Linear(64, 64)), parametrizations.spectral_norm(nn.Linear(64, 64))
    model = nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), nn.Linear(64, 10))
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 300)


@CASES.healthy()
def clipping_that_acts_early() -> Training:
    """Clipping at one while the loss is high, and hardly later."""
    model = mlp(3, nn.ReLU, he(1.5))
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # noqa: E731
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 350, between=clip)
