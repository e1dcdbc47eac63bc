"""Units that are saturated, and units that are dead."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import learning
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.tuned.again_data import reviews, spirals, table, textures, waves
from benchmarks.gauntlet.tuned.common import (
    convolutions,
    he,
    initialized,
    mlp,
    normal,
    pooled_head,
    xavier,
)
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, RMSprop

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("saturated_units", "bad_initialization", "vanishing_gradient")
def wide_tanh_with_unit_weights(sick: bool) -> Recipe:
    """Weights of standard deviation one, as ``torch.randn`` gives them, in four layers of 256 tanh units."""
    return learning(
        lambda: mlp(4, nn.Tanh, normal(1.0) if sick else xavier(), width=256), lambda p: SGD(p, 0.02), digits(), 300
    )


@CASES.sick("saturated_units", "stalled_training", "vanishing_gradient")
def sigmoid_units_with_bias_twenty(sick: bool) -> Recipe:
    """A bias that holds every unit of two layers at one."""

    def model() -> nn.Module:
        net = mlp(2, nn.Sigmoid, xavier(), width=192)
        if sick:
            nn.init.constant_(net[0].bias, 20.0)
            nn.init.constant_(net[2].bias, 20.0)
        return net

    return learning(model, lambda p: Adam(p, 5e-3), digits(), 300)


@CASES.sick("saturated_units", "output_mismatch", "stalled_training")
def sigmoid_outputs_wrong_from_birth(sick: bool) -> Recipe:
    """Outputs that begin at one, under the squared loss (Nielsen, chapter 3): the sigmoid's slope is gone."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = nn.Linear(64, 64), nn.Linear(64, 10)
            if sick:
                nn.init.constant_(self.out.bias, 15.0)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.out(torch.tanh(self.hidden(x))))

    def squared(p: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(p, F.one_hot(y, 10).float())

    return learning(Net, lambda p: SGD(p, 5.0), digits(), 300, loss=squared)


@CASES.sick("saturated_units", "bad_initialization", "vanishing_gradient", "exploding_gradient")
def hard_tanh_clamped_in_the_middle(sick: bool) -> Recipe:
    """The second of three layers is three hundred times too large: its units sit at one or minus one."""

    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(8, 48), nn.Linear(48, 10), nn.Linear(10, 48)
            self.out = nn.Linear(48, 1)
            initialized(self, xavier())
            if sick:
                self.second.weight.data.mul_(300)

        def forward(self, x: Tensor) -> Tensor:
            x = F.hardtanh(self.first(x))
            x = F.hardtanh(self.second(x))
            return self.out(F.hardtanh(self.third(x)))

    return learning(Clamped, lambda p: SGD(p, 0.05, momentum=0.5), table(), 500, batch=50)


@CASES.sick("saturated_units", "bad_initialization", "vanishing_gradient")
def softsign_convolutions_with_weights_of_ten(sick: bool) -> Recipe:
    """Signals through three convolutions with softsign, weights drawn from a normal of deviation ten."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for k in range(3):
            conv = nn.Conv1d(16 if k else 1, 16, 5, stride=2)
            nn.init.normal_(conv.weight, std=10.0 if sick else conv.weight[0].numel() ** -0.5)
            layers += [conv, nn.Softsign()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 4))

    return learning(model, lambda p: SGD(p, 0.05, momentum=0.8), waves(), 350, batch=16)


@CASES.sick("saturated_units", "oscillating_loss", "stalled_training")
def adagrad_with_a_rate_of_three(sick: bool) -> Recipe:
    """The first step of Adagrad is as long as its rate: every weight of three tanh layers becomes three."""

    def model() -> nn.Module:
        net = nn.Sequential()
        for k, (a, b) in enumerate([(64, 100), (100, 50), (50, 25)]):
            net.append(nn.Linear(a, b)).append(nn.Tanh())
            nn.init.xavier_uniform_(net[2 * k].weight)
        return net.append(nn.Linear(25, 10))

    return learning(model, lambda p: Adagrad(p, 3.0 if sick else 0.03), digits(), 250, batch=80)


@CASES.sick("saturated_units", "stalled_training", "vanishing_gradient", "dead_units")
def excitation_gates_closed(sick: bool) -> Recipe:
    """The gates of the second of three blocks are hard sigmoids at exactly zero (squeeze and excitation)."""

    class Excited(nn.Module):
        def __init__(self, inputs: int, bias: float) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(inputs, 12, 3, padding=1), nn.Linear(12, 12)
            nn.init.constant_(self.gate.bias, bias)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x))
            return x * F.hardsigmoid(self.gate(x.mean((2, 3))))[..., None, None]

    def model() -> nn.Module:
        net = nn.Sequential(Excited(3, 0.0), Excited(12, -12.0 if sick else 0.0), Excited(12, 0.0))
        return net.extend([nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(48, 4)])

    return learning(model, lambda p: Adam(p, 5e-3), textures(), 200, batch=20, held=250)


@CASES.sick("dead_units", "stalled_training", "bad_initialization")
def one_layer_with_bias_minus_hundred(sick: bool) -> Recipe:
    """Nothing passes the fifth of eight layers."""

    def model() -> nn.Module:
        net = mlp(8, nn.ReLU, he(), width=128)
        if sick:
            nn.init.constant_(net[8].bias, -100.0)
        return net

    return learning(model, lambda p: SGD(p, 0.05), digits(), 300)


@CASES.sick("dead_units", "stalled_training", "bad_initialization")
def dead_convolution_channels(sick: bool) -> Recipe:
    """A bias of minus fifteen under the second of three convolutions."""

    def model() -> nn.Module:
        net = initialized(nn.Sequential(*convolutions([1, 24, 24, 24]), *pooled_head(24)), he())
        if sick:
            nn.init.constant_(net[2].bias, -15.0)
        return net

    return learning(model, lambda p: Adam(p, 5e-3), images(), 200, batch=32)


@CASES.sick("dead_units", "oscillating_loss", "loss_spike", "stalled_training")
def adam_with_a_rate_of_one(sick: bool) -> Recipe:
    """The first steps throw all units to where no example reaches them."""
    return learning(lambda: mlp(5, nn.ReLU, he(), width=128), lambda p: Adam(p, 1.0 if sick else 1e-3), digits(), 300)


@CASES.sick("dead_units", "oscillating_loss", "loss_spike", "stalled_training")
def channels_killed_by_the_first_steps(sick: bool) -> Recipe:
    """Momentum and a rate of six throw the biases of all channels below zero within a few steps."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 20, 3, stride=2)
            self.c, self.out = nn.Conv2d(20, 20, 3), nn.Linear(80, 4)
            initialized(self, he())

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))).flatten(1))

    return learning(Net, lambda p: SGD(p, 6.0 if sick else 0.02, momentum=0.9), textures(), 200, batch=32, held=250)


@CASES.sick("dead_units", "stalled_training", "rank_collapse", "bad_initialization")
def born_dead(sick: bool) -> Recipe:
    """Twenty layers three units wide: dead at birth almost surely (Lu et al., 2019); the twin has four layers of 64."""
    x = table()[0]
    y = x[:, :1].abs() + x[:, 1:2]

    def model() -> nn.Module:
        return mlp(20 if sick else 4, nn.ReLU, he(), width=3 if sick else 64, inputs=8, outputs=1)

    return learning(model, lambda p: Adam(p, 3e-3), (x, y), 300)


@CASES.sick("dead_units", "stalled_training", "rank_collapse")
def code_below_zero(sick: bool) -> Recipe:
    """The rectified code of an autoencoder has biases of minus thirty: all images have the same code, nought."""

    class Coder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.code = nn.Linear(64, 40), nn.Linear(40, 24)
            self.decode, self.paint = nn.Linear(24, 40), nn.Linear(40, 64)
            initialized(self, he())
            if sick:
                nn.init.constant_(self.code.bias, -30.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.paint(F.relu(self.decode(F.relu(self.code(F.relu(self.encode(x)))))))

    x = digits()[0]
    return learning(Coder, lambda p: Adam(p, 3e-3), (x, x), 300)


@CASES.sick("dead_units", "bad_initialization", "stalled_training")
def negative_weights_for_counts(sick: bool) -> Recipe:
    """Counts are never negative, and all weights and biases that read them are."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.deep, self.out = nn.Linear(120, 48), nn.Linear(48, 24), nn.Linear(24, 2)
            if sick:
                self.hidden.weight.data.abs_().neg_()
                self.hidden.bias.data.abs_().neg_()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.deep(self.hidden(x).relu()).relu())

    words, y = reviews()
    x = F.one_hot(words, 120).sum(1).float()
    return learning(Counts, lambda p: Adam(p, 3e-3), (x, y), 250, batch=32)


@CASES.sick("dead_units", "saturated_units", "bad_initialization")
def stuck_at_six(sick: bool) -> Recipe:
    """ReLU6 under biases of forty: every unit of the second layer says six to everything."""

    def model() -> nn.Module:
        net = nn.Sequential(nn.Linear(2, 64), nn.ReLU6(), nn.Linear(64, 64), nn.ReLU6(), nn.Linear(64, 3))
        initialized(net, he())
        if sick:
            nn.init.constant_(net[2].bias, 40.0)
        return net

    return learning(model, lambda p: RMSprop(p, 5e-3), spirals(), 400)
