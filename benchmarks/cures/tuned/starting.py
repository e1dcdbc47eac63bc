"""Weights at a wrong scale, or all alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import learning
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.tuned.again_data import ratings, reviews, spirals, table, textures, waves
from benchmarks.gauntlet.tuned.common import he, initialized, mlp, normal
from benchmarks.gauntlet.tuned.former_common import first_symbol
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, NAdam

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("bad_initialization", "vanishing_gradient", "stalled_training")
def shallow_with_std_one_thousandth(sick: bool) -> Recipe:
    """Three hidden layers with weights a hundred times too small."""
    return learning(
        lambda: mlp(3, nn.ReLU, normal(1e-3) if sick else he(), width=192),
        lambda p: SGD(p, 0.1),
        digits(),
        300,
        passes=True,
    )


@CASES.sick("bad_initialization", "vanishing_gradient", "stalled_training")
def depthwise_fan_out(sick: bool) -> Recipe:
    """``fan_out`` does not know of groups: every depthwise filter is drawn six times too small."""

    class Separable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 32, 3, padding=1)
            self.depth = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1, groups=32) for _ in range(4))
            self.point = nn.ModuleList(nn.Conv2d(32, 32, 1) for _ in range(4))
            self.fc = nn.Linear(32 * 64, 10)
            initialized(self, he())
            if sick:
                for conv in self.depth:
                    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            for depth, point in zip(self.depth, self.point, strict=True):
                x = F.relu(point(F.relu(depth(x))))
            return self.fc(x.flatten(1))

    return learning(Separable, lambda p: SGD(p, 0.02), images(), 280, batch=32)


@CASES.sick("bad_initialization", "exploding_gradient", "loss_spike", "nonfinite")
def one_layer_a_hundred_times_too_large(sick: bool) -> Recipe:
    """The third of six layers has a hundred times He's scale."""

    def model() -> nn.Module:
        net = mlp(6, nn.ReLU, he(), width=128)
        if sick:
            net[4].weight.data.mul_(100)
        return net

    return learning(model, lambda p: SGD(p, 0.02), digits(), 350)


@CASES.sick("bad_initialization", "exploding_gradient", "oscillating_loss", "stalled_training")
def head_with_std_ten(sick: bool) -> Recipe:
    """A small convolutional network whose classifier is drawn with a standard deviation of ten."""

    def model() -> nn.Module:
        net = nn.Sequential()
        net.add_module("stem", nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU()))
        net.add_module("flat", nn.Flatten())
        net.add_module("head", nn.Linear(216, 4))
        initialized(net, he())
        if sick:
            nn.init.normal_(net.head.weight, std=10.0)
        return net

    return learning(model, lambda p: SGD(p, 0.02, momentum=0.9), textures(), 200, batch=32, held=250)


@CASES.sick("bad_initialization", "exploding_gradient", "stalled_training")
def factors_with_std_thirty(sick: bool) -> Recipe:
    """Vectors of deviation thirty: the first ratings are in the thousands, where one is meant."""

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.film = nn.Embedding(40, 8), nn.Embedding(30, 8)
            for side in (self.user, self.film):
                nn.init.normal_(side.weight, std=30.0 if sick else 0.3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.user(x[:, 0]) * self.film(x[:, 1])).sum(1, keepdim=True)

    return learning(Factors, lambda p: Adam(p, 2e-2), ratings(), 400, batch=128, held=1000)


@CASES.sick("bad_initialization", "vanishing_gradient", "stalled_training")
def two_convolutions_near_zero(sick: bool) -> Recipe:
    """The upper two of three convolutions over a signal have a two-thousandth of their scale."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.mid = nn.Conv1d(1, 24, 5, stride=2), nn.Conv1d(24, 24, 5, stride=2)
            self.top, self.head = nn.Conv1d(24, 24, 5), nn.Linear(120, 4)
            initialized(self, he())
            if sick:
                self.mid.weight.data.div_(2000)
                self.top.weight.data.div_(2000)

        def forward(self, x: Tensor) -> Tensor:
            for conv in (self.low, self.mid, self.top):
                x = F.leaky_relu(conv(x), 0.1)
            return self.head(x.flatten(1))

    return learning(Three, lambda p: SGD(p, 0.01, momentum=0.5), waves(), 400, batch=64)


@CASES.sick("bad_initialization", "exploding_gradient", "loss_spike")
def one_residual_branch_too_large(sick: bool) -> Recipe:
    """The first of five residual branches is drawn with two hundred times the scale of the others."""

    class Branch(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(48, 96), nn.Linear(96, 48)
            self.up.weight.data.mul_(scale)
            self.down.weight.data.mul_(scale)

        def forward(self, x: Tensor) -> Tensor:
            return x + 0.5 * self.down(F.gelu(self.up(x)))

    def model() -> nn.Module:
        blocks = [Branch(200.0 if sick and k == 0 else 1.0) for k in range(5)]
        return nn.Sequential(nn.Linear(8, 48), *blocks, nn.Linear(48, 1))

    return learning(model, lambda p: NAdam(p, 2e-3), table(), 300)


@CASES.sick("symmetric_units", "bad_initialization", "rank_collapse")
def constant_weights(sick: bool) -> Recipe:
    """All weights 0.02: all units of a layer compute the same for ever."""

    def model() -> nn.Module:
        return mlp(2, nn.ReLU, (lambda w: nn.init.constant_(w, 0.02)) if sick else he())

    return learning(model, lambda p: SGD(p, 0.05), digits(), 350)


@CASES.sick("symmetric_units", "bad_initialization", "vanishing_gradient", "stalled_training")
def zero_weights_in_two_layers(sick: bool) -> Recipe:
    """Two layers that start at zero keep each other's gradient at zero."""

    def model() -> nn.Module:
        net = mlp(3, nn.ReLU, he(), width=192)
        if sick:
            nn.init.zeros_(net[4].weight)
            nn.init.zeros_(net[6].weight)
        return net

    return learning(model, lambda p: SGD(p, 0.1), digits(), 250)


@CASES.sick("symmetric_units", "rank_collapse", "bad_initialization")
def constant_filters(sick: bool) -> Recipe:
    """All filters of two convolutions are the same average, and the head weighs them alike."""

    class Filters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(64, 10)
            if sick:
                for layer in (self.conv1, self.conv2):
                    nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
                    nn.init.zeros_(layer.bias)
                nn.init.zeros_(self.fc.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.adaptive_max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2).flatten(1))

    return learning(Filters, lambda p: Adam(p, 5e-3), images(), 200, batch=32)


@CASES.sick("symmetric_units", "bad_initialization", "rank_collapse")
def factors_all_alike(sick: bool) -> Recipe:
    """Users' and films' factors all begin at 0.1: eight factors do the work of one."""

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.films = nn.Embedding(40, 8), nn.Embedding(30, 8)
            for side in (self.users, self.films):
                nn.init.normal_(side.weight, std=0.3)
                if sick:
                    nn.init.constant_(side.weight, 0.1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("nk,nk->n", self.users(x[:, 0]), self.films(x[:, 1]))

    x, y = ratings()
    return learning(Factors, lambda p: Adam(p, 0.03), (x, y[:, 0]), 300, batch=256, held=1000)


@CASES.sick("symmetric_units", "bad_initialization", "stalled_training")
def bag_of_zeros(sick: bool) -> Recipe:
    """Embedding and both layers above it begin at zero: only the last bias ever learns."""

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.hidden, self.head = nn.EmbeddingBag(120, 16), nn.Linear(16, 24), nn.Linear(24, 2)
            if sick:
                for part in (self.bag, self.hidden, self.head):
                    nn.init.zeros_(part.weight)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(torch.tanh(self.hidden(self.bag(tokens))))

    return learning(Bag, lambda p: Adagrad(p, 0.1), reviews(), 300)


@CASES.sick("symmetric_units", "bad_initialization")
def lstm_filled_with_a_tenth(sick: bool) -> Recipe:
    """All of an LSTM's parameters, and the readout's, filled with 0.1: its cells stay copies of one."""

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(4, 32, batch_first=True), nn.Linear(32, 4)
            for p in self.parameters():
                if sick:
                    nn.init.constant_(p, 0.1)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.fc(self.lstm(F.one_hot(tokens, 4).float())[0][:, -1])

    return learning(Counter, lambda p: Adam(p, 1e-2), first_symbol(6), 200)


@CASES.sick("symmetric_units", "rank_collapse")
def tanh_units_copied_in_the_plane(sick: bool) -> Recipe:
    """Two hidden layers whose units are copies of their first, below a head of zeros."""

    def model() -> nn.Module:
        net = mlp(2, nn.Tanh, width=48, inputs=2, outputs=3)
        if sick:
            for k in (0, 2):
                net[k].weight.data.copy_(net[k].weight.data[:1].expand_as(net[k].weight))
                net[k].bias.data.fill_(0.1)
            net[2].weight.data.copy_(net[2].weight.data[:, :1].expand_as(net[2].weight))
            nn.init.zeros_(net[4].weight)
        return net

    return learning(model, lambda p: Adam(p, 1e-2), spirals(), 350)
