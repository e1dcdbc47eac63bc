"""Perceptrons, linear models, graphs and sets that need nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import (
    HELD,
    accuracy,
    bounded,
    digit_recipe,
    drawn,
    node_recipe,
    regression_recipe,
)
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.a_healthy_other import GraphNet, PointSet
from benchmarks.gauntlet.held_out.a_healthy_plain import Highway
from benchmarks.gauntlet.held_out.common_a import dense_stack, seeded
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.healthy()
def poisson_regression_of_counts() -> Recipe:
    """A log-linear model of counts, by Adam; its loss goes below zero."""
    g = seeded(92)
    x = torch.randn(2000, 6, generator=g)
    rate = (x @ torch.tensor([[0.5], [-0.4], [0.3], [0.0], [0.2], [0.4]]) + 1.5).exp()
    counts = torch.poisson(rate, generator=g)

    def evaluate(model: nn.Module) -> float:
        error = (model(x[1600:]).exp() - rate[1600:]).square().mean()
        return bounded(1 - (error / rate[1600:].var()).item())

    return Recipe(
        model=lambda: nn.Linear(6, 1),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 2e-2),
        loss=nn.PoissonNLLLoss(),
        batches=drawn(x[:1600], counts[:1600]),
        evaluate=evaluate,
        steps=250,
    )


@CASES.healthy()
def selu_with_alpha_dropout() -> Recipe:
    """A self-normalizing perceptron, drawn as it asks for, with Nesterov's momentum."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for k in range(5):
            layers += [nn.Linear(64, 64), nn.SELU(), nn.AlphaDropout(0.05)]
            nn.init.kaiming_normal_(layers[3 * k].weight, nonlinearity="linear")
            nn.init.zeros_(layers[3 * k].bias)
        return nn.Sequential(*layers, nn.Linear(64, 10))

    return digit_recipe(model, lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True), 200)


@CASES.healthy()
def layer_norm_and_gelu_in_one_cycle() -> Recipe:
    """A tabular regression by AdamW under a one-cycle schedule, with Huber's loss."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for k in range(3):
            layers += [nn.Linear(64 if k else 8, 64), nn.LayerNorm(64), nn.GELU()]
        return nn.Sequential(*layers, nn.Linear(64, 1))

    return regression_recipe(
        model,
        lambda parameters: torch.optim.AdamW(parameters, 1e-3, weight_decay=0.01),
        None,
        300,
        loss=nn.HuberLoss(),
        schedule=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=301),
    )


@CASES.healthy()
def mixup_with_prelu_by_adagrad() -> Recipe:
    """Mixed pairs of digits with mixed labels: the loss stays far above zero and the classifier is good."""
    x, y = digits()
    seen, labels = x[HELD:], F.one_hot(y[HELD:], 10).float()

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(1000 + seed)
        while True:
            a, b = torch.randint(len(seen), (2, 64), generator=g)
            share = torch.rand(64, 1, generator=g)
            yield share * seen[a] + (1 - share) * seen[b], share * labels[a] + (1 - share) * labels[b]

    return Recipe(
        model=lambda: dense_stack([64, 128, 128, 10], nn.PReLU),
        optimizer=lambda parameters: torch.optim.Adagrad(parameters, 1e-2),
        loss=F.cross_entropy,
        batches=batches,
        evaluate=accuracy(x[:HELD], y[:HELD]),
        steps=250,
    )


@CASES.healthy()
def fifteen_highway_layers() -> Recipe:
    """Gates that begin almost closed, as they should, by momentum with clipping that is seldom needed."""
    return digit_recipe(
        lambda: nn.Sequential(nn.Linear(64, 48), nn.ReLU(), *[Highway(48) for _ in range(15)], nn.Linear(48, 10)),
        lambda parameters: torch.optim.SGD(parameters, 0.03, momentum=0.9),
        250,
        clip=5.0,
    )


@CASES.healthy()
def graph_convolutions_with_dropout() -> Recipe:
    """Communities of a graph from the labels of half its nodes, full batch, weight decay."""
    return node_recipe(GraphNet, lambda parameters: torch.optim.Adam(parameters, 1e-2, weight_decay=5e-4), 150)


@CASES.healthy()
def point_clouds_by_their_maxima() -> Recipe:
    """The area of the box around twenty points, from the points in any order."""
    x = torch.randn(2500, 20, 2, generator=seeded(113)) * (0.5 + torch.rand(2500, 1, 2, generator=seeded(114)))
    y = (x.amax(1) - x.amin(1)).prod(1, keepdim=True)
    return regression_recipe(
        PointSet,
        lambda parameters: torch.optim.Adam(parameters, 2e-3),
        (x / x.std(), (y - y.mean()) / y.std()),
        250,
    )
