"""What the cases of wiring share: a loop, a pretrained network, and a few made-up tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Training
from torch import Tensor, nn


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for the data of a case."""
    return torch.Generator().manual_seed(seed)


def loop(
    model: nn.Module | Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    steps: int,
    score: Callable[[], float],
    *,
    after: Callable[[int, float], object] | None = None,
) -> Training:
    """Zero, backward, step; ``loss()`` draws its own batch, ``after(i, loss)`` runs when the step is done."""

    def step(i: int) -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        if after is not None:
            after(i, value.item())
        return value.item()

    return Training(model, optimizer, step, steps, score)


def batches(x: Tensor, y: Tensor, size: int = 64, seed: int = 1) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that draws a batch of inputs and targets."""
    draw = minibatches(size, len(y), seed)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = draw()
        return x[chosen], y[chosen]

    return batch


def pretrained(model: nn.Module, x: Tensor, y: Tensor, steps: int = 150) -> nn.Module:
    """The model after a quick training with Adam, its gradients cleared."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batch = batches(x, y, seed=9)
    for _ in range(steps):
        a, b = batch()
        optimizer.zero_grad()
        F.cross_entropy(model(a), b).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def bags(count: int = 2000, items: int = 8) -> tuple[Tensor, Tensor]:
    """Bags of eight digits ``(count, 8, 66)``: two more numbers mark the one whose class is the bag's."""
    x, y = digits()
    g = seeded(11)
    chosen = torch.randint(len(y), (count, items), generator=g)
    which = torch.randint(items, (count,), generator=g)
    mark = 0.3 * torch.randn(count, items, 2, generator=g)
    mark[torch.arange(count), which] += torch.tensor([2.0, -2.0])
    return torch.cat([x[chosen], mark], 2), y[chosen[torch.arange(count), which]]


def block_graph(nodes: int = 300, groups: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A graph of four groups: its normalized adjacency, noisy features ``(nodes, 64)``, and the groups."""
    g = seeded(12)
    y = torch.randint(groups, (nodes,), generator=g)
    chance = torch.where(y[:, None] == y, 0.03, 0.01)
    upper = (torch.rand(nodes, nodes, generator=g) < chance).float().triu(1)
    adjacency = upper + upper.T + torch.eye(nodes)
    degree = adjacency.sum(1).rsqrt()
    x = torch.randn(nodes, 64, generator=g)
    x[:, :groups] += 1.5 * F.one_hot(y, groups)
    return degree[:, None] * adjacency * degree, x, y
