"""Units in their flat part: by weights, biases, sums that grew with the input, gates, and steps too long."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import classify, reviews, series, table, textures, waves
from benchmarks.gauntlet.tuned.common import classifier, he, initialized, regression, xavier
from torch import Tensor, nn

CASES = Cases()


class Clamped(nn.Module):
    """Three hidden layers of hard tanh, the second one narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 48), nn.Linear(48, 10), nn.Linear(10, 48)
        self.out = nn.Linear(48, 1)
        initialized(self, xavier())

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.first(x))
        x = F.hardtanh(self.second(x))
        return self.out(F.hardtanh(self.third(x)))


@CASES.sick(
    "saturated_units",
    "bad_initialization",
    sites=r"second|hardtanh",
    also=("vanishing_gradient", "stalled_training", "exploding_gradient"),
    good=0.78,
)
def hard_tanh_clamped_in_the_middle(sick: bool) -> Training:
    """The second of three layers is three hundred times too large: its units sit at one or minus one."""
    model = Clamped()
    if sick:
        model.second.weight.data.mul_(300)
    return regression(model, torch.optim.SGD(model.parameters(), 0.02), table(), 350, batch=50)


class GatedUnit(nn.Module):
    """A minimal gated recurrence (Zhou et al., 2016) over a series."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.keep, self.candidate = nn.Linear(33, 32), nn.Linear(33, 32)
        nn.init.constant_(self.keep.bias, bias)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 32)
        for row in x.unbind(1):
            both = torch.cat([row, h], 1)
            z = torch.sigmoid(self.keep(both))
            h = z * h + (1 - z) * torch.tanh(self.candidate(both))
        return self.head(h)


@CASES.sick("saturated_units", sites=r"keep|sigmoid", also=("stalled_training", "vanishing_gradient", "rank_collapse"))
def gate_that_never_opens(sick: bool) -> Training:
    """A bias of twelve on the gate that keeps the state: nothing new is ever written into it."""
    model = GatedUnit(12.0 if sick else 0.0)
    return regression(model, torch.optim.Adam(model.parameters(), 5e-3), series(), 250, batch=32)


@CASES.sick("saturated_units", "bad_initialization", also=("vanishing_gradient", "stalled_training"), good=0.7)
def softsign_convolutions_with_weights_of_ten(sick: bool) -> Training:
    """Signals through three convolutions with softsign, weights drawn from a normal of deviation ten."""
    layers: list[nn.Module] = []
    for k in range(3):
        conv = nn.Conv1d(16 if k else 1, 16, 5, stride=2)
        nn.init.normal_(conv.weight, std=10.0 if sick else conv.weight[0].numel() ** -0.5)
        layers += [conv, nn.Softsign()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 4))
    return classify(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.8), waves(), 250, batch=16)


class Excited(nn.Module):
    """A convolution whose channels a gate weighs by their means (squeeze and excitation)."""

    def __init__(self, inputs: int, outputs: int, bias: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.gate = nn.Linear(outputs, outputs)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return x * F.hardsigmoid(self.gate(x.mean((2, 3))))[..., None, None]


@CASES.sick(
    "saturated_units",
    sites=r"gate|hardsigmoid",
    also=("stalled_training", "vanishing_gradient", "dead_units", "frozen_parameters", "rank_collapse"),
)
def excitation_gates_closed(sick: bool) -> Training:
    """The gates of the second of three blocks are hard sigmoids at exactly zero."""
    model = nn.Sequential(Excited(3, 12, 0.0), Excited(12, 12, -12.0 if sick else 0.0), Excited(12, 12, 0.0))
    model.extend([nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(48, 4)])
    return classify(model, torch.optim.Adam(model.parameters(), 5e-3), textures(), 150, batch=20)


class Bag(nn.Module):
    """A bag of words through two sigmoid layers; the words are summed with a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.words = nn.Embedding(120, 32)
        self.mix, self.out = nn.Linear(32, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.weight * self.words(x).sum(1))
        return self.out(torch.sigmoid(self.mix(h) * 4))


@CASES.sick(
    "saturated_units",
    also=("stalled_training", "vanishing_gradient", "bad_initialization", "unscaled_inputs"),
    good=0.7,
)
def sums_too_large_for_a_sigmoid(sick: bool) -> Training:
    """Word vectors are multiplied by 128 before their sum meets a sigmoid, where a third was meant."""
    model = Bag(128.0 if sick else 0.3)
    return classify(model, torch.optim.Adam(model.parameters(), 1e-2), reviews(), 200, batch=64)


@CASES.sick(
    "saturated_units",
    "oscillating_loss",
    also=("stalled_training", "vanishing_gradient", "loss_spike", "diverging_loss"),
)
def adagrad_with_a_rate_of_three(sick: bool) -> Training:
    """The first step of Adagrad is as long as its rate: every weight of three tanh layers becomes three."""
    model = nn.Sequential()
    for k, (a, b) in enumerate([(64, 100), (100, 50), (50, 25)]):
        model.append(nn.Linear(a, b)).append(nn.Tanh())
        nn.init.xavier_uniform_(model[2 * k].weight)
    model.append(nn.Linear(25, 10))
    return classifier(model, torch.optim.Adagrad(model.parameters(), 3.0 if sick else 0.03), 250, batch=80)


@CASES.sick("saturated_units", sites=r"code|squash|tanh", also=("stalled_training", "vanishing_gradient"), good=0.25)
def code_of_an_autoencoder_pinned(sick: bool) -> Training:
    """The tanh code of an autoencoder has biases of nine of either sign: it says the same of every image."""
    x = digits()[0]
    model = nn.Sequential()
    model.add_module("code", nn.Linear(64, 16))
    model.add_module("squash", nn.Tanh())
    model.add_module("decode", nn.Linear(16, 64))
    if sick:
        model.code.bias.data.copy_(9.0 * (torch.arange(16) % 2 * 2 - 1))
    initialized(model.decode, he())
    return regression(model, torch.optim.SGD(model.parameters(), 0.2, momentum=0.9), (x, x), 300, batch=128)
