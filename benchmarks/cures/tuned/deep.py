"""Deep networks whose gradients fade on the way down."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import learning
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.tuned.again_data import spirals, table, textures, waves
from benchmarks.gauntlet.tuned.common import he, initialized, lecun, mlp, xavier
from torch import Tensor, nn
from torch.optim import SGD

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("vanishing_gradient", "stalled_training", classic=True)
def ten_sigmoid_layers(sick: bool) -> Recipe:
    """Each sigmoid passes on at most a quarter of the gradient (Hochreiter, 1991; Glorot & Bengio, 2010)."""

    def model() -> nn.Module:
        return mlp(10, nn.Sigmoid if sick else nn.Tanh, xavier(), width=100)

    return learning(model, lambda p: SGD(p, 0.05, momentum=0.5), digits(), 400)


@CASES.sick("vanishing_gradient", "bad_initialization", "rank_collapse", classic=True)
def thirty_relu_layers_by_glorot(sick: bool) -> Recipe:
    """Half the variance is lost in every layer (He et al., 2015)."""

    def model() -> nn.Module:
        return mlp(30, nn.ReLU, xavier() if sick else he(), width=128)

    return learning(model, lambda p: SGD(p, 0.02), digits(), 400)


class Plain(nn.Module):
    """Fifty-four convolutions in pairs with batch norm, with a skip around each pair or without, at two sizes."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.one = nn.ModuleList(self._pair(8) for _ in range(9))
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.two = nn.ModuleList(self._pair(16) for _ in range(18))
        self.fc = nn.Linear(16, 10)

    @staticmethod
    def _pair(c: int) -> nn.Module:
        both = [nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU()]
        return nn.Sequential(*both, nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for pair in self.one:
            x = F.relu(x + pair(x) if self.skip else pair(x))
        x = F.relu(self.down(x))
        for pair in self.two:
            x = F.relu(x + pair(x) if self.skip else pair(x))
        return self.fc(x.mean((2, 3)))


@CASES.sick("vanishing_gradient", "exploding_gradient", "stalled_training", "rank_collapse", classic=True)
def fifty_six_plain_convolutions(sick: bool) -> Recipe:
    """More layers and no skip: harder to train than few, in spite of batch norm (He et al., 2016)."""
    return learning(lambda: Plain(not sick), lambda p: SGD(p, 0.02, momentum=0.9), images(), 180, batch=32)


@CASES.sick("vanishing_gradient", "stalled_training")
def convolutions_with_sigmoids(sick: bool) -> Recipe:
    """Seven convolutions with sigmoids between, written in the forward pass."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(16 if k else 1, 16, 3, padding=1) for k in range(7))
            self.head = nn.Linear(16 * 16, 10)
            initialized(self, xavier())

        def forward(self, x: Tensor) -> Tensor:
            for conv in self.convs:
                x = torch.sigmoid(conv(x)) if sick else torch.relu(conv(x))
            return self.head(F.max_pool2d(x, 2).flatten(1))

    return learning(Net, lambda p: SGD(p, 0.02, momentum=0.9), images(), 200, batch=32)


@CASES.sick("vanishing_gradient", "stalled_training")
def signals_through_hard_sigmoids(sick: bool) -> Recipe:
    """Eight convolutions over a signal; a hard sigmoid passes a sixth of the gradient."""

    def model() -> nn.Module:
        stack = nn.Sequential()
        for k in range(8):
            stack.add_module(f"conv{k}", nn.Conv1d(12 if k else 1, 12, 5, padding=2, stride=2 if k in (2, 5) else 1))
            stack.add_module(f"act{k}", nn.Hardsigmoid() if sick else nn.ELU())
        initialized(stack, xavier())
        return nn.Sequential(stack, nn.Flatten(), nn.Linear(12 * 12, 4))

    return learning(model, lambda p: SGD(p, 0.02, momentum=0.9, nesterov=True), waves(), 250, batch=48)


@CASES.sick("vanishing_gradient", "stalled_training", "rank_collapse")
def autoencoder_of_sigmoids(sick: bool) -> Recipe:
    """Eight sigmoid layers between the pixels and their reconstruction: it learns the mean image."""

    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            act = nn.Sigmoid if sick else nn.Tanh
            self.encoder = mlp(4, act, xavier(1.4), outputs=16)
            self.decoder = mlp(4, act, xavier(1.4), inputs=16, outputs=64)

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.encoder(x))

    x = digits()[0]
    return learning(Autoencoder, lambda p: SGD(p, 0.2, momentum=0.8), (x, x), 400, loss=nn.MSELoss(), batch=100)


@CASES.sick("vanishing_gradient", "stalled_training")
def spirals_through_five_sigmoids(sick: bool) -> Recipe:
    """Only five sigmoids, and narrow: not much is lost, and enough to stand still."""

    def model() -> nn.Module:
        return initialized(mlp(5, nn.Sigmoid if sick else nn.Tanh, width=24, inputs=2, outputs=3), xavier(1.6))

    return learning(model, lambda p: SGD(p, 0.1, momentum=0.9), spirals(), 500, loss=nn.CrossEntropyLoss(), batch=256)


@CASES.sick("vanishing_gradient", "bad_initialization")
def twenty_rectified_layers_as_torch_draws_them(sick: bool) -> Recipe:
    """The default initialization has a sixth of the variance that ReLU asks for."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(96 if k else 64, 96) for k in range(20))
            self.out = nn.Linear(96, 10)
            if not sick:
                initialized(self, he())

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = F.relu(layer(x))
            return self.out(x)

    return learning(Deep, lambda p: SGD(p, 0.02, momentum=0.5), digits(), 300)


@CASES.sick("vanishing_gradient", "bad_initialization", "rank_collapse")
def tanh_with_small_weights(sick: bool) -> Recipe:
    """Weights of a third of Glorot's scale in fifteen layers, before a squared loss."""

    def model() -> nn.Module:
        return mlp(15, nn.Tanh, lecun(0.35 if sick else 1.0), inputs=8, outputs=1)

    return learning(model, lambda p: SGD(p, 0.02, momentum=0.5), table(), 300)


@CASES.sick("vanishing_gradient", "stalled_training")
def stem_of_sigmoids_before_a_residual_trunk(sick: bool) -> Recipe:
    """The trunk has skips, and the seven sigmoid convolutions below it have none."""

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for k in range(7):
                layers += [nn.Conv2d(8 if k else 3, 8, 3, padding=1, stride=3 if k == 2 else 1)]
                layers += [nn.Sigmoid() if sick else nn.ReLU()]
            self.stem = nn.Sequential(*layers)
            self.trunk = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
            self.head = nn.Linear(8 * 16, 4)
            initialized(self, he())
            for conv in self.trunk:
                conv.weight.data.mul_(0.3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for conv in self.trunk:
                x = x + F.relu(conv(x))
            return self.head(x.flatten(1))

    return learning(Trunk, lambda p: SGD(p, 0.02, momentum=0.5), textures(), 250, batch=24)


@CASES.sick("vanishing_gradient", "stalled_training")
def critic_of_sigmoids(sick: bool) -> Recipe:
    """A state and an action side by side into nine sigmoids, and a value: a network of two inputs."""

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.state, self.action = nn.Linear(5, 32), nn.Linear(3, 32)
            self.body = mlp(8, nn.Sigmoid if sick else nn.ReLU, xavier(1.4), width=64, inputs=64, outputs=1)

        def forward(self, state: Tensor, action: Tensor) -> Tensor:
            both = torch.cat([self.state(state), self.action(action)], 1)
            return self.body(torch.tanh(both))

    x, y = table()
    return learning(Critic, lambda p: SGD(p, 0.05, momentum=0.9), ((x[:, :5], x[:, 5:]), y), 300)
