"""Representations that become the same: by averaging, by depth, by a norm that takes everything, by the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import classify, table, textures
from benchmarks.gauntlet.tuned.common import bounded, classifier, he, initialized, regression, undisturbed
from torch import Tensor, nn

CASES = Cases()


class Smoothing(nn.Module):
    """Layers over a signal that each average far neighbours; every position has to tell its own sign."""

    def __init__(self, reach: int, depth: int = 8) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(16 if k else 1, 16, 1) for k in range(depth))
        self.blur = nn.AvgPool1d(reach, 1, reach // 2, count_include_pad=False)
        self.head = nn.Conv1d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.leaky_relu(self.blur(conv(x)), 0.2)
        return self.head(x)


@CASES.sick("rank_collapse", also=("vanishing_gradient", "stalled_training"))
def every_layer_averages_over_the_signal(sick: bool) -> Training:
    """Eight averages over fifteen neighbours: all positions of all signals become alike."""
    g = torch.Generator().manual_seed(21)
    x = torch.randn(1000, 1, 32, generator=g)
    y = (x[:, 0] > 0).long()
    model = Smoothing(15 if sick else 1)
    initialized(model, he())
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    draw = minibatches(24, 1000)

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            return 2 * (model(x[:200]).argmax(1) == y[:200]).float().mean().item() - 1

    return Training(model, optimizer, step, 200, score)


@CASES.sick("rank_collapse", also=("vanishing_gradient", "exploding_gradient", "stalled_training", "dead_units"))
def sixty_rectified_layers_by_he(sick: bool) -> Training:
    """He keeps the lengths, and the angles between inputs close with every layer."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(64, 40)
            self.layers = nn.ModuleList(nn.Linear(40, 40) for _ in range(60))
            self.head = nn.Linear(40, 10)
            initialized(self, he())

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.enter(x))
            for layer in self.layers:
                x = F.relu(layer(x)) if sick else x + 0.04 * F.relu(layer(x))
            return self.head(x)

    model = Plain()
    return classifier(model, torch.optim.SGD(model.parameters(), 0.01), 150, batch=32)


def told_apart(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """How often the nearest other example has the same class, above chance of one in ten."""
    with undisturbed(model):
        e = model(x)
    distance = torch.cdist(e, e)
    if not distance.isfinite().all() or distance.max() < 1e-2:
        return 0.0
    distance.fill_diagonal_(float("inf"))
    return bounded(((y[distance.argmin(1)] == y).float().mean().item() - 0.1) / 0.9)


@CASES.sick("rank_collapse", also=("vanishing_gradient", "stalled_training", "dead_units"))
def attraction_alone(sick: bool) -> Training:
    """Two views of an image are drawn together and nothing keeps images apart: all end in one point.

    The healthy twin has the variance term of VICReg (Bardes et al., 2022).
    """
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw, g = minibatches(64, len(y)), torch.Generator().manual_seed(5)

    def step(_: int) -> float:
        images = x[draw()]
        a, b = (model(images + 0.3 * torch.randn(images.shape, generator=g)) for _ in range(2))
        loss = 10 * F.mse_loss(a, b)
        if not sick:
            loss = loss + sum(F.relu(1 - (e.var(0) + 1e-4).sqrt()).mean() for e in (a, b))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, lambda: told_apart(model, x[:400], y[:400]))


@CASES.sick("rank_collapse", "bad_initialization", also=("vanishing_gradient", "stalled_training", "symmetric_units"))
def averages_instead_of_weights(sick: bool) -> Training:
    """Positive weights whose rows sum to one: every layer is an average, and after ten all units agree."""
    model = nn.Sequential()
    for k in range(10):
        layer = nn.Linear(32 if k else 8, 32)
        weight = torch.randn(32, layer.in_features)
        layer.weight.data = weight.softmax(1) if sick else nn.init.orthogonal_(weight)
        layer.bias.data.zero_()
        model.append(layer).append(nn.Softplus(5.0) if k == 0 else nn.Tanh())
    model.append(nn.Linear(32, 1))
    return regression(model, torch.optim.SGD(model.parameters(), 0.02), table(), 250, batch=32)


@CASES.sick("rank_collapse", "frozen_parameters", "vanishing_gradient", also=("stalled_training",))
def norm_of_single_numbers(sick: bool) -> Training:
    """A group norm with one channel a group after global pooling: each number is normalized to zero by itself."""
    model = nn.Sequential()
    for k, (a, b) in enumerate([(3, 16), (16, 24), (24, 32)]):
        model.add_module(f"conv{k}", nn.Conv2d(a, b, 3, padding=1, stride=2 if k else 1))
        model.add_module(f"act{k}", nn.ReLU())
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("norm", nn.GroupNorm(32 if sick else 1, 32))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(32, 4))
    return classify(model, torch.optim.Adam(model.parameters(), 5e-3), textures(), 150, batch=25)


class SoftLayers(nn.Module):
    """Hidden layers with a softmax over their units."""

    def __init__(self, soft: bool) -> None:
        super().__init__()
        self.soft = soft
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.softmax(layer(x), 1) if self.soft else torch.tanh(layer(x))
        return self.head(x)


@CASES.sick("rank_collapse", "vanishing_gradient", also=("stalled_training", "bad_initialization", "output_mismatch"))
def softmax_as_a_hidden_activation(sick: bool) -> Training:
    """Four hidden layers of softmax: each unit says one in sixty-four, to every image."""
    model = SoftLayers(sick)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), 250, batch=64)
