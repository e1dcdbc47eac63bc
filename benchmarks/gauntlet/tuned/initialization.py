"""Weights drawn at a wrong scale, or all alike, and depths at which every input looks the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import characters, images
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    classifier,
    he,
    initialized,
    lecun,
    mlp,
    normal,
    pooled_head,
    regression,
    smooth_function,
    undisturbed,
)
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("bad_initialization", "vanishing_gradient", also=("stalled_training", "rank_collapse"))
def shallow_with_std_one_thousandth(sick: bool) -> Training:
    """Three hidden layers with weights a hundred times too small."""
    model = mlp(3, nn.ReLU, normal(1e-3) if sick else he())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 250)


@CASES.sick(
    "bad_initialization", "exploding_gradient", also=("oscillating_loss", "loss_spike", "diverging_loss"), good=0.6
)
def shallow_with_std_five(sick: bool) -> Training:
    """Two hidden layers of weights thirty times too large: the first loss is a hundred million."""
    model = mlp(2, nn.ReLU, normal(5.0) if sick else he(), inputs=5, outputs=1)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), smooth_function(), 300)


@CASES.sick("bad_initialization", "vanishing_gradient", also=("stalled_training", "rank_collapse"))
def depthwise_fan_out(sick: bool) -> Training:
    """``fan_out`` does not know of groups: every depthwise filter is drawn six times too small."""
    layers: list[nn.Module] = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 10))
    initialized(model, he())
    if sick:
        for module in model:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 150, data=images(), batch=32)


@CASES.sick(
    "bad_initialization",
    "exploding_gradient",
    sites=r"^4\b",
    also=("oscillating_loss", "loss_spike", "dead_units", "diverging_loss", "nonfinite"),
)
def one_layer_a_hundred_times_too_large(sick: bool) -> Training:
    """The third of six layers has a hundred times He's scale."""
    model = mlp(6, nn.ReLU, he())
    if sick:
        model[4].weight.data.mul_(100)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 250)


@CASES.sick("bad_initialization", also=("vanishing_gradient", "stalled_training"), good=0.4)
def head_and_embedding_near_zero(sick: bool) -> Training:
    """A bag of characters whose embedding and hidden layer have weights of 1e-4."""
    text = characters()
    x = text[:32_000].view(4000, 8)
    signs = torch.randn(24, generator=torch.Generator().manual_seed(3))
    y = signs[x].sum(1, keepdim=True) / 3

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.hidden, self.head = nn.Embedding(24, 32), nn.Linear(32, 32), nn.Linear(32, 1)
            if sick:
                for part in (self.embedding, self.hidden, self.head):
                    nn.init.normal_(part.weight, std=1e-4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.hidden(self.embedding(x).mean(1))))

    model = Bag()
    return regression(model, torch.optim.SGD(model.parameters(), 0.3), (x, y), 400)


@CASES.sick("symmetric_units", also=("rank_collapse", "bad_initialization", "stalled_training"))
def constant_weights(sick: bool) -> Training:
    """All weights 0.02: all units of a layer compute the same for ever."""
    model = mlp(2, nn.ReLU, (lambda w: nn.init.constant_(w, 0.02)) if sick else he())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 300)


@CASES.sick("symmetric_units", "bad_initialization", also=("vanishing_gradient", "stalled_training", "dead_units"))
def zero_weights_in_two_layers(sick: bool) -> Training:
    """Two layers that start at zero keep each other's gradient at zero."""
    model = mlp(3, nn.ReLU, he())
    if sick:
        nn.init.zeros_(model[4].weight)
        nn.init.zeros_(model[6].weight)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 250)


@CASES.sick("symmetric_units", sites=r"^(0|1)\b", also=("rank_collapse",), good=0.82)
def widened_by_copies(sick: bool) -> Training:
    """A layer of 64 units widened from two by copying them without noise (Net2Net's warning)."""
    model = mlp(2, nn.Tanh)
    if sick:
        model[0].weight.data.copy_(model[0].weight.data[:2].repeat(32, 1))
        model[0].bias.data.copy_(model[0].bias.data[:2].repeat(32))
        model[2].weight.data.copy_(model[2].weight.data[:, :2].repeat(1, 32) / 8)
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 300)


@CASES.sick("symmetric_units", also=("rank_collapse", "bad_initialization"), good=0.5)
def constant_filters(sick: bool) -> Training:
    """All filters of two convolutions are the same average, and the head weighs them alike."""
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), *pooled_head(16))
    if sick:
        for k in (0, 2, 6):
            nn.init.constant_(model[k].weight, 1 / model[k].weight[0].numel())
            nn.init.zeros_(model[k].bias)
    else:
        initialized(model, he())
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-2), 250, data=images(), batch=32)


@CASES.sick("rank_collapse", "vanishing_gradient", "bad_initialization", also=("stalled_training", "saturated_units"))
def ordered_phase(sick: bool) -> Training:
    """Small weights and large biases: all inputs become alike in thirty tanh layers (Schoenholz et al., 2017)."""
    model = mlp(30, nn.Tanh, lecun(0.7) if sick else lecun(1.02))
    if sick:
        for module in model[:-1]:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.bias, std=1.0)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.5), 300)


class GraphNetwork(nn.Module):
    """Graph convolutions on one graph: every node averages itself and its neighbours."""

    def __init__(self, adjacency: Tensor, depth: int, skip: bool) -> None:
        super().__init__()
        self.adjacency, self.skip = adjacency, skip
        self.embed = nn.Linear(16, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(depth))
        initialized(self.layers, he())
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            mixed = F.relu(layer(self.adjacency @ x))
            x = x + mixed / len(self.layers) ** 0.5 if self.skip else mixed
        return self.head(x)


@CASES.sick("rank_collapse", also=("vanishing_gradient", "stalled_training"))
def graph_oversmoothing(sick: bool) -> Training:
    """Twenty graph convolutions without skips: all nodes end with the same features (Li et al., 2018)."""
    g = torch.Generator().manual_seed(2)
    y = torch.randint(4, (160,), generator=g)
    x = F.one_hot(y, 4).float() @ torch.randn(4, 16, generator=g) + torch.randn(160, 16, generator=g)
    edges = (torch.rand(160, 160, generator=g) < 0.03 + 0.03 * (y[:, None] == y)).float()
    adjacency = ((edges + edges.T) > 0).float() + torch.eye(160)
    adjacency = adjacency / adjacency.sum(1, keepdim=True)
    model = GraphNetwork(adjacency, 20, skip=not sick)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            return ((model(x).argmax(1) == y).float().mean().item() - 0.25) / 0.75

    return Training(model, optimizer, step, 200, score)
