"""Deep networks whose signals or gradients grow from layer to layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import learning
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.tuned.again_data import sets, table, textures, waves
from benchmarks.gauntlet.tuned.common import he, initialized, mlp
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("exploding_gradient", "vanishing_gradient", "oscillating_loss", classic=True)
def fifty_batch_norms_without_skips(sick: bool) -> Recipe:
    """Batch norm keeps the signal and multiplies the gradient in every layer (Yang et al., 2019)."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(64, 64)
            self.layers = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(50))
            self.norms = nn.ModuleList(nn.BatchNorm1d(64) for _ in range(50))
            self.head = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            for layer, norm in zip(self.layers, self.norms, strict=True):
                branch = F.relu(norm(layer(x)))
                x = branch if sick else x + branch
            return self.head(x)

    return learning(Normed, lambda p: SGD(p, 3e-3, momentum=0.9), digits(), 200)


@CASES.sick("exploding_gradient", "bad_initialization", "loss_spike", "clipping_bound")
def relu_with_three_times_he(sick: bool) -> Recipe:
    """Every one of fifteen layers triples the signal; clipping hides it from the steps."""
    return learning(
        lambda: mlp(15, nn.ReLU, he(3.0 if sick else 1.0), width=96), lambda p: SGD(p, 0.03), digits(), 350, clip=1.0
    )


@CASES.sick("exploding_gradient", "bad_initialization", "nonfinite", "loss_spike")
def thirty_residual_blocks_without_norm(sick: bool) -> Recipe:
    """He's initialization inside residual branches doubles the variance in every block (Zhang et al., 2019)."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(64, 64), nn.Linear(64, 64)
            initialized(self, he())
            if not sick:
                nn.init.zeros_(self.fc2.weight)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.fc2(F.relu(self.fc1(x)))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), *[Block() for _ in range(30)], nn.Linear(64, 10))

    return learning(model, lambda p: SGD(p, 0.01), digits(), 200)


@CASES.sick("exploding_gradient", "bad_initialization", "loss_spike")
def kernel_forgotten_in_the_fan(sick: bool) -> Recipe:
    """Seven 5x5 convolutions drawn by their channels alone: each multiplies by five, before a squared loss."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for k in range(7):
            conv = nn.Conv2d(10 if k else 3, 10, 5, padding=2, stride=2 if k in (1, 4) else 1)
            nn.init.normal_(conv.weight, std=(2 / (conv.in_channels * (1 if sick else 25))) ** 0.5)
            layers += [conv, nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(90, 4))

    x, y = textures()
    return learning(model, lambda p: Adam(p, 2e-3), (x, F.one_hot(y, 4).float()), 180, batch=24, held=250)


@CASES.sick("exploding_gradient", "bad_initialization", "loss_spike", "oscillating_loss")
def gain_of_four_after_every_gelu(sick: bool) -> Recipe:
    """Weights of four times the scale in twelve layers with a functional GELU, and a norm that clips."""

    class Amplified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(40 if k else 8, 40) for k in range(12))
            self.out = nn.Linear(40, 1)
            for layer in self.layers:
                nn.init.normal_(layer.weight, std=(4.0 if sick else 1.5) * layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = F.gelu(layer(x))
            return self.out(x)

    return learning(Amplified, lambda p: Adam(p, 1e-3), table(), 400, clip=1.0)


@CASES.sick("exploding_gradient", "bad_initialization", "nonfinite", "diverging_loss")
def one_deviation_for_every_width(sick: bool) -> Recipe:
    """Every weight drawn with a standard deviation of 0.3, whatever the layer's width."""

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(64, 128)
            self.body = nn.ModuleList(nn.Linear(128, 128) for _ in range(8))
            self.readout = nn.Linear(128, 10)
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, std=0.3 if sick else (2 / p.shape[1]) ** 0.5)
                elif "bias" in name:
                    nn.init.zeros_(p)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x).relu()
            for layer in self.body:
                h = layer(h).relu()
            return self.readout(h)

    return learning(Tower, lambda p: SGD(p, 0.02), digits(), 250, passes=True)


@CASES.sick("exploding_gradient", "bad_initialization", "oscillating_loss", "loss_spike")
def regression_with_four_times_he(sick: bool) -> Recipe:
    """Eight layers of four times He's scale before a squared loss, trained by AdamW."""

    def model() -> nn.Module:
        return mlp(8, nn.ReLU, he(4.0 if sick else 1.0), inputs=8, outputs=1)

    return learning(model, lambda p: AdamW(p, 2e-3), table(), 400, loss=nn.MSELoss())


@CASES.sick("bad_initialization", "exploding_gradient", "diverging_loss", "nonfinite")
def bare_normal_parameters(sick: bool) -> Recipe:
    """``torch.randn(a, b)`` without a factor in a residual network on sets; all weights are bare parameters."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shapes = [(4, 32), *[(32, 32)] * 6, (32, 1)]
            self.w = nn.ParameterList(torch.randn(a, b) * (1 if sick else a**-0.5) for a, b in shapes)

        def forward(self, x: Tensor) -> Tensor:
            x = x @ self.w[0]
            for w in self.w[1:-1]:
                x = x + 0.5 * F.relu(x @ w)
            return x.mean(1) @ self.w[-1]

    return learning(Tokens, lambda p: Adam(p, 2e-3), sets(), 400, batch=64)


@CASES.sick("exploding_gradient", "loss_spike", "oscillating_loss", "bad_initialization")
def dense_sums_drawn_too_large(sick: bool) -> Recipe:
    """Every layer adds to a running sum; its convolutions are five times too large."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp = nn.Conv1d(1, 12, 7, padding=3, stride=2)
            self.convs = nn.ModuleList(nn.Conv1d(12, 12, 3, padding=1) for _ in range(12))
            self.head = nn.Linear(12 * 24, 4)
            for conv in self.convs:
                conv.weight.data.mul_(5.0 if sick else 0.5)

        def forward(self, x: Tensor) -> Tensor:
            total = self.inp(x)
            for conv in self.convs:
                total = total + conv(total).relu()
            return self.head(total.flatten(1))

    return learning(Dense, lambda p: SGD(p, 5e-3, momentum=0.9), waves(), 150, batch=32)
