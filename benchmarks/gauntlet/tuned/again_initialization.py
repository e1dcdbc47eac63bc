"""Weights at a wrong scale: in one layer or in all, by a wrong fan, by a wrong distribution, in tables of vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import classify, ratings, sets, table, textures, waves
from benchmarks.gauntlet.tuned.common import Residual, classifier, he, initialized, mlp, regression
from torch import Tensor, nn

CASES = Cases()
SWINGS = ("exploding_gradient", "oscillating_loss", "loss_spike", "diverging_loss")


@CASES.sick(
    "bad_initialization", sites=r"^head", also=(*SWINGS, "dead_units", "stalled_training", "nonfinite"), good=0.7
)
def head_with_std_ten(sick: bool) -> Training:
    """A small convolutional network whose classifier is drawn with a standard deviation of ten."""
    model = nn.Sequential()
    model.add_module("stem", nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU()))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(216, 4))
    initialized(model, he())
    if sick:
        nn.init.normal_(model.head.weight, std=10.0)
    return classify(model, torch.optim.SGD(model.parameters(), 0.02, momentum=0.9), textures(), 150, batch=32)


class Factors(nn.Module):
    """Ratings as products of two vectors."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.user, self.film = nn.Embedding(40, 8), nn.Embedding(30, 8)
        nn.init.normal_(self.user.weight, std=std)
        nn.init.normal_(self.film.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return (self.user(x[:, 0]) * self.film(x[:, 1])).sum(1, keepdim=True)


@CASES.sick("bad_initialization", sites=r"user|film", also=(*SWINGS, "stalled_training"))
def factors_with_std_thirty(sick: bool) -> Training:
    """Vectors of deviation thirty: the first ratings are in the thousands, where one is meant."""
    model = Factors(30.0 if sick else 0.3)
    return regression(model, torch.optim.Adam(model.parameters(), 2e-2), ratings(), 300, batch=128)


@CASES.sick(
    "bad_initialization", "exploding_gradient", also=(*SWINGS, "dead_units", "stalled_training", "nonfinite"), good=0.85
)
def uniform_between_minus_one_and_one(sick: bool) -> Training:
    """Five layers of 128 units drawn evenly from minus one to one, whatever their fan."""

    def draw(w: Tensor) -> object:
        return nn.init.uniform_(w, -1, 1) if sick else nn.init.kaiming_uniform_(w, nonlinearity="relu")

    model = mlp(5, nn.ReLU, draw, width=128)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 200, batch=32)


@CASES.sick(
    "bad_initialization",
    "vanishing_gradient",
    sites=r"^(mid|top)",
    also=("stalled_training", "rank_collapse"),
    good=0.55,
)
def two_convolutions_a_three_hundredth(sick: bool) -> Training:
    """The upper two of three convolutions over a signal have a three-hundredth of their scale."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = nn.Conv1d(1, 16, 5, stride=2)
            self.mid = nn.Conv1d(16, 16, 5, stride=2)
            self.top = nn.Conv1d(16, 16, 5)
            self.head = nn.Linear(80, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.leaky_relu(self.low(x), 0.1)
            x = F.leaky_relu(self.mid(x), 0.1)
            return self.head(F.leaky_relu(self.top(x), 0.1).flatten(1))

    model = initialized(Three(), he())
    if sick:
        model.mid.weight.data.div_(300)
        model.top.weight.data.div_(300)
    return classify(model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.3), waves(), 200, batch=40)


@CASES.sick("bad_initialization", "vanishing_gradient", also=("stalled_training", "rank_collapse"))
def fan_counted_as_all_weights(sick: bool) -> Training:
    """The variance is two over the number of weights, not of inputs: a seventh of the scale in four layers."""
    model = mlp(4, nn.ReLU, width=50, inputs=8, outputs=1)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fan = layer.weight.numel() if sick else layer.in_features
            layer.weight.data = torch.randn_like(layer.weight) * (2 / fan) ** 0.5
            layer.bias.data.zero_()
    return regression(model, torch.optim.SGD(model.parameters(), 0.03, momentum=0.3), table(), 300, batch=64)


class Tokens(nn.Module):
    """Residual blocks over every token of a set, their mean, and a number; all weights are bare parameters."""

    def __init__(self, std: float | None) -> None:
        super().__init__()
        shapes = [(4, 32), *[(32, 32)] * 6, (32, 1)]
        self.w = nn.ParameterList(torch.randn(a, b) * (std or a**-0.5) for a, b in shapes)

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.w[0]
        for w in self.w[1:-1]:
            x = x + 0.5 * F.relu(x @ w)
        return x.mean(1) @ self.w[-1]


@CASES.sick(
    "bad_initialization", "exploding_gradient", also=(*SWINGS, "dead_units", "stalled_training", "nonfinite"), good=0.3
)
def bare_normal_parameters(sick: bool) -> Training:
    """``torch.randn(a, b)`` without a factor in a residual network on sets."""
    model = Tokens(1.0 if sick else None)
    return regression(model, torch.optim.Adam(model.parameters(), 2e-3), sets(), 300, batch=64)


@CASES.sick("bad_initialization", sites=r"^1\b", also=("vanishing_gradient", *SWINGS, "dead_units"), good=0.7)
def one_branch_of_a_residual_network_too_large(sick: bool) -> Training:
    """The first of five residual branches is drawn with two hundred times the scale of the others."""
    blocks = []
    for _ in range(5):
        branch = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))
        blocks.append(Residual(branch, 0.5))
    model = nn.Sequential(nn.Linear(8, 48), *blocks, nn.Linear(48, 1))
    if sick:
        for layer in (model[1].branch[0], model[1].branch[2]):
            layer.weight.data.mul_(200)
    return regression(model, torch.optim.NAdam(model.parameters(), 2e-3), table(), 250, batch=64)


@CASES.sick("bad_initialization", "vanishing_gradient", also=("stalled_training", "rank_collapse"), good=0.3)
def tied_autoencoder_near_zero(sick: bool) -> Training:
    """Encoder and decoder share two matrices that were drawn a hundred times too small: nothing pulls them away."""
    x = digits()[0]

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            small = 0.01 if sick else 1.0
            self.outer = nn.Parameter(small * torch.randn(64, 32) / 8)
            self.inner = nn.Parameter(small * torch.randn(32, 12) / 32**0.5)
            self.mean = nn.Parameter(torch.zeros(64))

        def forward(self, x: Tensor) -> Tensor:
            code = torch.tanh(torch.tanh((x - self.mean) @ self.outer) @ self.inner)
            return torch.tanh(code @ self.inner.T) @ self.outer.T + self.mean

    model = Tied()
    return regression(model, torch.optim.SGD(model.parameters(), 1.0, momentum=0.9), (x, x), 250, batch=64)
