"""Gradients that vanish or explode by the depth of a feed-forward network."""

from __future__ import annotations

import torch
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    Residual,
    accuracy,
    classifier,
    convolutions,
    he,
    initialized,
    mlp,
    normal,
    regression,
    smooth_function,
    undisturbed,
    xavier,
)
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"))
def ten_sigmoid_layers(sick: bool) -> Training:
    """Each sigmoid passes on at most a quarter of the gradient."""
    model = mlp(10, nn.Sigmoid) if sick else mlp(10, nn.ReLU, he())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 300)


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse", "oscillating_loss"))
def eight_sigmoid_layers_with_momentum(sick: bool) -> Training:
    """Glorot's initialization, which assumes a derivative of one at zero, under sigmoids."""
    model = mlp(8, nn.Sigmoid if sick else nn.Tanh, xavier())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02, momentum=0.9), 300)


@CASES.sick("vanishing_gradient", "bad_initialization", also=("stalled_training", "rank_collapse"))
def twenty_relu_layers_as_torch_draws_them(sick: bool) -> Training:
    """The default initialization has a sixth of the variance that ReLU asks for."""
    model = mlp(20, nn.ReLU, None if sick else he())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 300)


@CASES.sick("bad_initialization", "vanishing_gradient", also=("stalled_training", "rank_collapse"))
def tanh_with_small_weights(sick: bool) -> Training:
    """Weights of a third of Glorot's scale in fifteen layers."""
    model = mlp(15, nn.Tanh, normal(0.04) if sick else xavier())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 250)


@CASES.sick("vanishing_gradient", "bad_initialization", also=("stalled_training", "rank_collapse"))
def glorot_under_forty_relus(sick: bool) -> Training:
    """Half the variance is lost in every layer."""
    model = mlp(40, nn.ReLU, xavier() if sick else he())
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-4), 250)


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"))
def convolutions_with_sigmoids(sick: bool) -> Training:
    """Seven convolutions with sigmoids between."""
    layers = convolutions([1, *[16] * 7], nn.Sigmoid if sick else nn.ReLU)
    model = initialized(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 64, 10)), None if sick else he())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 200, data=images(), batch=32)


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"), good=0.25)
def autoencoder_of_sigmoids(sick: bool) -> Training:
    """Ten sigmoid layers between the pixels and their reconstruction: it learns the mean image."""
    x = digits()[0] / 2
    model = mlp(10, nn.Sigmoid if sick else nn.Tanh, xavier(), width=48, outputs=64)
    return regression(model, torch.optim.SGD(model.parameters(), 0.5, momentum=0.5), (x, x), 350)


class TwoTowers(nn.Module):
    """One tower reads the image, the other noise."""

    def __init__(self, deep: nn.Module) -> None:
        super().__init__()
        self.image = deep
        self.noise = mlp(2, inputs=8, outputs=16)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(x), self.noise(torch.randn(len(x), 8))], 1))


@CASES.sick("vanishing_gradient", sites=r"^image", also=("stalled_training", "rank_collapse"))
def two_towers_one_of_sigmoids(sick: bool) -> Training:
    """The tower that sees the digits is ten sigmoids deep, the other one is well and sees noise."""
    image = mlp(10, nn.Sigmoid, outputs=32) if sick else mlp(10, nn.ReLU, he(), outputs=32)
    model = TwoTowers(image)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 250)


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"), good=0.4)
def siamese_sigmoids(sick: bool) -> Training:
    """A contrastive embedding through ten sigmoids: all digits stay in one point."""
    x, y = digits()
    model = mlp(10, nn.Sigmoid if sick else nn.Tanh, xavier(), outputs=8)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.5)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        a, b = draw(), draw()
        same = (y[a] == y[b]).float()
        distance = (model(x[a]) - model(x[b])).square().sum(1).add(1e-6).sqrt()
        loss = (same * distance.square() + (1 - same) * (2 - distance).relu().square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            e = model(x[:500])
        apart, alike = y[:500, None] != y[:500], y[:500, None] == y[:500]
        distances = torch.cdist(e, e)
        return ((distances[apart].mean() - distances[alike].mean()) / 2).item()

    return Training(model, optimizer, step, 300, score)


@CASES.sick("exploding_gradient", "bad_initialization", also=("loss_spike", "dead_units", "clipping_bound"))
def relu_with_three_times_he(sick: bool) -> Training:
    """Every one of fifteen layers triples the signal; clipping hides it from the steps."""
    model = mlp(15, nn.ReLU, he(3.0 if sick else 1.0))
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # noqa: E731
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 250, between=clip)


@CASES.sick("exploding_gradient", also=("oscillating_loss", "stalled_training"))
def fifty_batch_norms_without_skips(sick: bool) -> Training:
    """Batch norm keeps the signal and multiplies the gradient in every layer (Yang et al., 2019)."""
    if sick:
        model = mlp(50, nn.ReLU, he(), norm=nn.BatchNorm1d)
    else:
        blocks = [Residual(nn.Sequential(nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64))) for _ in range(50)]
        model = nn.Sequential(nn.Linear(64, 64), *blocks, nn.BatchNorm1d(64), nn.Linear(64, 10))
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 100)


@CASES.sick(
    "exploding_gradient", "bad_initialization", also=("loss_spike", "nonfinite", "diverging_loss", "dead_units")
)
def thirty_residual_blocks_without_norm(sick: bool) -> Training:
    """He's initialization inside residual branches doubles the variance in every block (Zhang et al., 2019)."""

    def block() -> nn.Module:
        branch = initialized(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), he())
        if not sick:
            nn.init.zeros_(branch[2].weight)  # type: ignore[index]
        return Residual(branch)

    model = nn.Sequential(nn.Linear(64, 64), *[block() for _ in range(30)], nn.Linear(64, 10))
    return classifier(model, torch.optim.SGD(model.parameters(), 0.005), 130)


@CASES.sick("exploding_gradient", "bad_initialization", also=("oscillating_loss", "loss_spike", "nonfinite"), good=0.4)
def regression_with_four_times_he(sick: bool) -> Training:
    """Eight layers of four times He's scale before a squared loss, trained by Adam."""
    model = mlp(8, nn.ReLU, he(4.0 if sick else 1.0), inputs=5, outputs=1)
    return regression(model, torch.optim.Adam(model.parameters(), 2e-3), smooth_function(), 300)


@CASES.healthy()
def twenty_relu_layers_by_he() -> Training:
    """Deep, and well initialized."""
    model = mlp(20, nn.ReLU, he())
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-4), 250)


@CASES.healthy()
def ten_relu_layers_as_torch_draws_them() -> Training:
    """The default initialization loses a little in every layer, and Adam makes up for it."""
    model = mlp(10)
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-3), 400)


@CASES.healthy()
def thirty_orthogonal_tanh_layers() -> Training:
    """Dynamical isometry (Saxe et al., 2014)."""
    model = mlp(30, nn.Tanh, nn.init.orthogonal_)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    x, y = digits()
    training = classifier(model, optimizer, 250)
    training.score = accuracy(model, x[500:1000], y[500:1000])
    return training


@CASES.healthy()
def layer_norm_twenty_layers() -> Training:
    """Layer norm after every linear layer."""
    model = mlp(20, nn.ReLU, he(), norm=nn.LayerNorm)
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-3), 200)
