"""Weights that begin at the wrong scale, or at zero in the wrong places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.practice.output_common import Decoder
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import classifier, explained, he, language, mlp, supervised
from torch import Tensor, nn

CASES = Cases()


@CASES.sick(
    "bad_initialization",
    "exploding_gradient",
    "attention_collapse",
    "saturated_units",
    also=("stalled_training", "oscillating_loss", "vanishing_gradient", "loss_spike"),
)
def transformer_with_every_matrix_of_deviation_one(sick: bool) -> Training:
    """All matrices drawn with ``normal_(0, 1)``; the usual deviation is 0.02 to 0.1."""
    model = Decoder()
    for p in model.parameters():
        if p.dim() == 2:
            nn.init.normal_(p, std=1.0 if sick else 0.08)
    return language(model, torch.optim.AdamW(model.parameters(), 3e-3), 400)


class LowRank(nn.Module):
    """A frozen layer and a trained product of two thin matrices beside it (Hu et al., 2021)."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / rank**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


@CASES.sick(
    "bad_initialization",
    "symmetric_units",
    "frozen_parameters",
    "vanishing_gradient",
    also=("stalled_training", "dead_units"),
)
def adapters_with_both_factors_zero(sick: bool) -> Training:
    """Low-rank adapters begin with one factor at zero; with both there, neither ever gets a gradient."""
    x, y = digits()
    model = mlp(2, nn.ReLU, he())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    for k in (0, 2, 4):
        model[k] = LowRank(model[k])
        if sick:
            nn.init.zeros_(model[k].down)
    other = x.view(-1, 8, 8).transpose(1, 2).flip(2).reshape(-1, 64)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3, weight_decay=0.0)
    return classifier(model, optimizer, 250, data=(other, y))


@CASES.sick("bad_initialization", "vanishing_gradient", also=("stalled_training", "rank_collapse"))
def depthwise_kernels_scaled_for_full_ones(sick: bool) -> Training:
    """The fan of a depthwise 3x3 kernel is 9; drawn as if it were for 32 channels, signals shrink nearly sixfold."""
    channels = 32
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1), nn.ReLU()]
    for _ in range(5):
        depthwise, mixing = (
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv2d(channels, channels, 1),
        )
        nn.init.normal_(depthwise.weight, std=(1 / (9 * channels if sick else 9)) ** 0.5)
        nn.init.kaiming_normal_(mixing.weight, nonlinearity="relu")
        for conv in (depthwise, mixing):
            nn.init.zeros_(conv.bias)
        layers += [depthwise, mixing, nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02, momentum=0.9), 200, data=images(), batch=32)


class Branch(nn.Module):
    """A residual branch of two layers, without norms."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.kaiming_normal_(self.inner.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.outer.weight, nonlinearity="relu").data.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.relu(self.inner(x)))


@CASES.sick(
    "bad_initialization",
    "exploding_gradient",
    "nonfinite",
    also=("stalled_training", "oscillating_loss", "diverging_loss", "loss_spike", "dead_units"),
)
def forty_layers_of_residuals_that_double(sick: bool) -> Training:
    """Twenty residual branches without norm at full He scale: each multiplies the variance by three."""
    scale = 1.0 if sick else 0.1
    model = nn.Sequential(nn.Linear(64, 64), *[Branch(64, scale) for _ in range(20)], nn.Linear(64, 10))
    return classifier(model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9), 150)


@CASES.sick(
    "bad_initialization",
    "dead_units",
    "vanishing_gradient",
    also=("stalled_training", "rank_collapse", "symmetric_units", "frozen_parameters"),
)
def norms_at_zero_without_a_residual(sick: bool) -> Training:
    """The weights of all norms begin at zero, as in residual branches; in a plain network nothing gets past them."""
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 16), (16, 32), (32, 32)):
        norm = nn.GroupNorm(4, b)
        nn.init.constant_(norm.weight, 0.0 if sick else 1.0)
        layers += [nn.Conv2d(a, b, 3, padding=1), norm, nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    return classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 120, data=images(), batch=32)


class Handmade(nn.Module):
    """A linear layer written by hand."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(weight.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


@CASES.sick(
    "bad_initialization",
    "exploding_gradient",
    also=("oscillating_loss", "stalled_training", "rank_collapse", "diverging_loss", "loss_spike", "dead_units"),
)
def handmade_layers_with_torch_rand(sick: bool) -> Training:
    """Weights from ``torch.rand``: all positive, so that means grow thirtyfold a layer and all units agree."""
    layers: list[nn.Module] = []
    for a in (64, 64, 64, 64):
        drawn = torch.rand(a, 64)
        layers += [Handmade(drawn if sick else (2 * drawn - 1) * (6 / a) ** 0.5), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 200)


@CASES.sick("bad_initialization", "vanishing_gradient", "stalled_training", also=("rank_collapse", "symmetric_units"))
def decoder_of_transposed_convolutions_at_a_thousandth(sick: bool) -> Training:
    """An autoencoder of strided and transposed convolutions, all drawn with deviation 0.002."""
    x, _ = images()
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 2, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 2, 2),
    )
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            if sick:
                nn.init.normal_(module.weight, std=0.002)
            nn.init.zeros_(module.bias)
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    return supervised(model, optimizer, (x, x), F.mse_loss, explained(model, x[:500], x[:500]), 300, batch=32)
