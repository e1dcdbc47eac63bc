"""Networks in which every input comes to look the same: by depth, by averages, by a norm that takes everything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import bounded, learning
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.tuned.again_data import table, textures
from benchmarks.gauntlet.tuned.common import he, initialized, lecun, mlp
from torch import Tensor, nn
from torch.optim import SGD, Adam

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("rank_collapse", "vanishing_gradient", "bad_initialization", "saturated_units")
def ordered_phase(sick: bool) -> Recipe:
    """Small weights and large biases: all inputs become alike in thirty tanh layers (Schoenholz et al., 2017)."""

    def model() -> nn.Module:
        net = mlp(30, nn.Tanh, lecun(0.7 if sick else 1.02))
        for module in net[:-1]:
            if sick and isinstance(module, nn.Linear):
                nn.init.normal_(module.bias, std=1.0)
        return net

    return learning(model, lambda p: SGD(p, 0.01, momentum=0.5), digits(), 350)


@CASES.sick("rank_collapse", "vanishing_gradient", "stalled_training")
def graph_oversmoothing(sick: bool) -> Recipe:
    """Twenty graph convolutions without skips: all nodes end with the same features (Li et al., 2018)."""
    g = torch.Generator().manual_seed(2)
    y = torch.randint(4, (160,), generator=g)
    x = F.one_hot(y, 4).float() @ torch.randn(4, 16, generator=g) + torch.randn(160, 16, generator=g)
    edges = (torch.rand(160, 160, generator=g) < 0.03 + 0.03 * (y[:, None] == y)).float()
    near = ((edges + edges.T) > 0).float() + torch.eye(160)
    near = near / near.sum(1, keepdim=True)
    held = torch.arange(160) % 3 == 0

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("near", near)
            self.embed = nn.Linear(16, 32)
            self.layers = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(20))
            self.head = nn.Linear(32, 4)
            initialized(self, he())

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            for layer in self.layers:
                mixed = F.relu(layer(self.near @ x))
                x = mixed if sick else x + mixed / 20**0.5
            return self.head(x)

    def evaluate(model: nn.Module) -> float:
        return bounded(((model(x).argmax(1) == y)[held].float().mean().item() - 0.25) / 0.75)

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z[~held], y[~held])

    return Recipe(Graph, lambda p: SGD(p, 0.02), loss, lambda _: [(x, y)], evaluate, 200)


@CASES.sick("rank_collapse", "vanishing_gradient", "stalled_training")
def sixty_rectified_layers_by_he(sick: bool) -> Recipe:
    """He keeps the lengths, and the angles between inputs close with every layer."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.head = nn.Linear(64, 40), nn.Linear(40, 10)
            self.layers = nn.ModuleList(nn.Linear(40, 40) for _ in range(60))
            initialized(self, he())

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.enter(x))
            for layer in self.layers:
                x = F.relu(layer(x)) if sick else x + 0.04 * F.relu(layer(x))
            return self.head(x)

    return learning(Deep, lambda p: SGD(p, 0.01), digits(), 200, batch=32)


@CASES.sick("rank_collapse", "bad_initialization", "vanishing_gradient", "symmetric_units")
def averages_instead_of_weights(sick: bool) -> Recipe:
    """Positive weights whose rows sum to one: every layer is an average, and after sixteen all units agree."""

    def model() -> nn.Module:
        net = nn.Sequential()
        for k in range(16):
            layer = nn.Linear(32 if k else 8, 32)
            weight = torch.randn(32, layer.in_features)
            layer.weight.data = weight.softmax(1) if sick else nn.init.orthogonal_(weight)
            layer.bias.data.zero_()
            net.append(layer).append(nn.Tanh())
        return net.append(nn.Linear(32, 1))

    return learning(model, lambda p: SGD(p, 0.01), table(), 250, batch=32)


@CASES.sick("rank_collapse", "frozen_parameters", "vanishing_gradient")
def norm_of_single_numbers(sick: bool) -> Recipe:
    """A group norm with one channel a group after global pooling: each number is normalized to zero by itself."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2)
            self.norm, self.head = nn.GroupNorm(32 if sick else 1, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.b(F.relu(self.a(x))))
            return self.head(self.norm(F.adaptive_avg_pool2d(x, 1)).flatten(1))

    return learning(Pooled, lambda p: Adam(p, 5e-3), textures(), 200, batch=32, held=250)


@CASES.sick("rank_collapse", "vanishing_gradient", "stalled_training", "output_mismatch")
def softmax_as_a_hidden_activation(sick: bool) -> Recipe:
    """Four hidden layers of softmax: each unit says one in sixty-four, to every image."""

    class SoftLayers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
            self.head = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.softmax(layer(x), 1) if sick else torch.tanh(layer(x))
            return self.head(x)

    return learning(SoftLayers, lambda p: SGD(p, 0.1, momentum=0.9), digits(), 300)
