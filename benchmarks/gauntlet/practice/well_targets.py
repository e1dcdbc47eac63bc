"""Well: targets that are rare, noisy, counted or far from zero, so that the loss looks odd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.practice.well_common import cosine, loop
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    bounded,
    classifier,
    convolutions,
    explained,
    mlp,
    pooled_head,
    undisturbed,
)
from torch import Tensor, nn

CASES = Cases()


def generator(seed: int) -> torch.Generator:
    """Numbers from a seed."""
    return torch.Generator().manual_seed(seed)


@CASES.healthy(good=0.6)
def defaults_of_a_few_in_a_hundred() -> Training:
    """A loan fails in a few of a hundred cases; most of the entropy stays, the risk is learned."""
    g = generator(11)
    x = torch.randn(12_000, 12, generator=g)
    chance = (1.6 * x[:, 0] - 1.2 * x[:, 1] + 0.8 * x[:, 2] - 4.5).sigmoid()
    y = torch.bernoulli(chance, generator=g)
    model = mlp(2, nn.ReLU, width=32, inputs=12, outputs=1)
    nn.init.constant_(model[-1].bias, -3.0)
    draw = minibatches(256, 10_000)

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.binary_cross_entropy_with_logits(model(x[chosen])[:, 0], y[chosen])

    def score() -> float:
        p = chance[10_000:]
        with undisturbed(model):
            now = F.binary_cross_entropy_with_logits(model(x[10_000:])[:, 0], p)
        worst = F.binary_cross_entropy(p.mean().expand_as(p), p)
        best = F.binary_cross_entropy(p, p)
        return bounded(((worst - now) / (worst - best)).item())

    return loop(model, torch.optim.AdamW(model.parameters(), 2e-3), loss, 250, score, schedule=cosine(250))


@CASES.healthy(good=0.6)
def returns_with_a_tenth_of_signal() -> Training:
    """A stream of which nine tenths of the variance are noise; scored on what can be known."""
    g = generator(12)
    model = mlp(1, nn.Tanh, width=32, inputs=4, outputs=1)

    def signal(x: Tensor) -> Tensor:
        return 0.35 * ((1.5 * x[:, :1]).sin() + 0.7 * x[:, 1:2])

    def loss(_: int) -> Tensor:
        x = torch.randn(256, 4, generator=g)
        return F.mse_loss(model(x), signal(x) + torch.randn(256, 1, generator=g))

    held = torch.randn(1000, 4, generator=generator(13))
    score = explained(model, held, signal(held))
    return loop(model, torch.optim.Adam(model.parameters(), 1e-2), loss, 350, score, schedule=cosine(350))


@CASES.healthy(good=0.7)
def four_labels_in_ten_are_wrong() -> Training:
    """Crowd-sourced digits: 40 % of the labels are drawn at random; dropout and label smoothing hold against it."""
    x, y = digits()
    g = generator(14)
    wrong = torch.rand(len(y), generator=g) < 0.4
    noisy = torch.where(wrong, torch.randint(10, y.shape, generator=g), y)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.5)
    )
    model.append(nn.Linear(128, 10))
    draw = minibatches(64, len(y) - 500)

    def loss(_: int) -> Tensor:
        chosen = 500 + draw()
        return F.cross_entropy(model(x[chosen]), noisy[chosen], label_smoothing=0.1)

    return loop(model, torch.optim.Adam(model.parameters(), 1e-3), loss, 300, accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.6)
def focal_detection_of_one_digit() -> Training:
    """Threes among all digits under the focal loss, the output's bias at the prior (Lin et al., 2017): tiny losses."""
    x, y = images()
    target = (y == 3).float()
    model = nn.Sequential(*convolutions([1, 16, 16], norm=nn.BatchNorm2d), nn.MaxPool2d(2), *convolutions([16, 32]))
    for layer in pooled_head(32, 1):
        model.append(layer)
    nn.init.constant_(model[-1].bias, -2.2)
    draw = minibatches(64, len(y) - 500)

    def loss(_: int) -> Tensor:
        chosen = 500 + draw()
        z, t = model(x[chosen])[:, 0], target[chosen]
        entropy = F.binary_cross_entropy_with_logits(z, t, reduction="none")
        weight = (1 - (-entropy).exp()).square() * torch.where(t > 0, 0.25, 0.75)
        return (weight * entropy).mean()

    def score() -> float:
        with undisturbed(model):
            found = model(x[:500])[:, 0] > 0
        real = target[:500] > 0
        return bounded(2 * (found & real).sum().item() / max(1, (found.sum() + real.sum()).item()))

    return loop(model, torch.optim.Adam(model.parameters(), 3e-3), loss, 160, score)


@CASES.healthy(good=0.6)
def poisson_counts_of_visits() -> Training:
    """Log-rates from counts that are mostly zero or one."""
    g = generator(15)
    x = torch.randn(8000, 6, generator=g)
    rate = 0.7 * x[:, :1] + 0.6 * (2 * x[:, 1:2]).sin() - 0.7
    y = torch.poisson(rate.exp(), generator=g)
    model = mlp(2, nn.SiLU, width=48, inputs=6, outputs=1)
    draw = minibatches(128, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.poisson_nll_loss(model(x[chosen]), y[chosen])

    score = explained(model, x[:1000], rate[:1000])
    return loop(model, torch.optim.Adam(model.parameters(), 3e-3), loss, 250, score, schedule=cosine(250))


@CASES.healthy(good=0.9)
def gaussian_likelihood_well_below_zero() -> Training:
    """A mean and a variance by input; the noise is small, so the loss goes far below zero."""
    g = generator(16)
    x = torch.rand(3000, 1, generator=g) * 4 - 2
    clean = (2 * x).sin()
    y = clean + (0.05 + 0.04 * x.abs()) * torch.randn(x.shape, generator=g)
    model = mlp(3, nn.Tanh, inputs=1, outputs=2)
    draw = minibatches(128, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        mean, spread = model(x[chosen]).chunk(2, 1)
        return F.gaussian_nll_loss(mean, y[chosen], F.softplus(spread) ** 2 + 1e-3)

    def mean_of(x: Tensor) -> Tensor:
        return model(x)[:, :1]

    score = explained(mean_of, x[:1000], clean[:1000], model)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return loop(model, optimizer, loss, 400, score, clip=5.0, schedule=cosine(400))


@CASES.healthy(good=0.7)
def three_quantiles_of_heavy_tails() -> Training:
    """Pinball losses at 0.1, 0.5 and 0.9 under noise of infinite variance."""
    torch.manual_seed(17)
    x = torch.rand(6000, 2) * 4 - 2
    centre = x[:, :1].sin() * 2 + x[:, 1:2]
    y = centre + 0.4 * torch.distributions.StudentT(2.0).sample((6000, 1))
    model = mlp(2, nn.ReLU, inputs=2, outputs=3)
    levels = torch.tensor([0.1, 0.5, 0.9])
    draw = minibatches(128, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        error = y[chosen] - model(x[chosen])
        return torch.maximum(levels * error, (levels - 1) * error).sum(1).mean()

    def median(x: Tensor) -> Tensor:
        return model(x)[:, 1:2]

    score = explained(median, x[:1000], centre[:1000], model)
    return loop(model, torch.optim.Adam(model.parameters(), 3e-3), loss, 250, score)


class Kelvin(nn.Module):
    """Its last line gives back the mean and the scale that its targets have."""

    def __init__(self, mean: float, scale: float) -> None:
        super().__init__()
        self.body = mlp(2, nn.GELU, inputs=5, outputs=1)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.scale * self.body(x)


@CASES.healthy(good=0.7)
def temperatures_in_kelvin() -> Training:
    """Targets of 285 ± 9 and a squared loss in kelvin squared; the model knows their mean and scale."""
    g = generator(18)
    x = torch.randn(3000, 5, generator=g)
    y = 285 + 7 * x[:, :1].tanh() + 4 * x[:, 1:2] * x[:, 2:3].sigmoid() + torch.randn(3000, 1, generator=g)
    model = Kelvin(y.mean().item(), y.std().item())
    draw = minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.mse_loss(model(x[chosen]), y[chosen])

    return loop(model, torch.optim.Adam(model.parameters(), 3e-3), loss, 200, explained(model, x[:1000], y[:1000]))


@CASES.healthy(good=0.8)
def loss_summed_over_the_batch() -> Training:
    """Cross-entropy of 128 examples added up, not averaged, with Adam, who does not mind."""
    model = mlp(2, nn.ReLU, width=96)

    def summed(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y, reduction="sum")

    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 120, loss=summed, batch=128)
