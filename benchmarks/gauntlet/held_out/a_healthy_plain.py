"""Linear models and perceptrons that are well."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.common_a import (
    HELD,
    clamped,
    dense_stack,
    digit_classifier,
    evaluating,
    looped,
    reconstruction,
    regression,
    right_answers,
    seeded,
    table,
    variance_explained,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.7)
def logistic_regression_with_weight_decay() -> Training:
    """One linear layer and the cross-entropy, by plain stochastic gradient descent."""
    model = nn.Linear(64, 10)
    return digit_classifier(model, torch.optim.SGD(model.parameters(), 0.05, weight_decay=1e-3), 250)


@CASES.healthy(good=0.7)
def linear_regression_with_noise() -> Training:
    """Least squares in twelve standardized columns, down to a floor of noise."""
    g = seeded(91)
    x = torch.randn(1500, 12, generator=g)
    y = x @ torch.randn(12, 1, generator=g) / 3 + 0.3 * torch.randn(1500, 1, generator=g)
    model = nn.Linear(12, 1)
    return regression(model, torch.optim.SGD(model.parameters(), 0.05), (x, y), 250, batch=32)


@CASES.healthy(good=0.6)
def poisson_regression_of_counts() -> Training:
    """A log-linear model of counts, by Adam; its loss goes below zero."""
    g = seeded(92)
    x = torch.randn(2000, 6, generator=g)
    rate = (x @ torch.tensor([0.5, -0.4, 0.3, 0.0, 0.2, 0.4]) + 1.5).exp()
    y = torch.poisson(rate, generator=g)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    loss = lambda chosen: F.poisson_nll_loss(model(x[chosen])[:, 0], y[chosen])  # noqa: E731
    score = variance_explained(model, lambda: model(x[1600:])[:, 0].exp(), rate[1600:])
    return looped(model, optimizer, loss, 1600, 250, score)


@CASES.healthy(good=0.7)
def selu_with_alpha_dropout() -> Training:
    """A self-normalizing perceptron, drawn as it asks for, with Nesterov's momentum."""
    layers: list[nn.Module] = []
    for k in range(5):
        layers += [nn.Linear(64, 64), nn.SELU(), nn.AlphaDropout(0.05)]
        nn.init.kaiming_normal_(layers[3 * k].weight, nonlinearity="linear")
        nn.init.zeros_(layers[3 * k].bias)
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    return digit_classifier(model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True), 200)


@CASES.healthy(good=0.7)
def batch_norm_and_dropout_by_rmsprop() -> Training:
    """Three layers with batch norm, ReLU and dropout, a cosine for the rate, smoothed labels."""
    layers: list[nn.Module] = []
    for k in range(3):
        layers += [nn.Linear(96 if k else 64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Dropout(0.2)]
    model = nn.Sequential(*layers, nn.Linear(96, 10))
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    return digit_classifier(model, optimizer, 250, smoothing=0.1, schedule=schedule)


@CASES.healthy(good=0.7)
def layer_norm_and_gelu_in_one_cycle() -> Training:
    """A tabular regression by AdamW under a one-cycle schedule, with Huber's loss."""
    layers: list[nn.Module] = []
    for k in range(3):
        layers += [nn.Linear(64 if k else 8, 64), nn.LayerNorm(64), nn.GELU()]
    model = nn.Sequential(*layers, nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=300)
    return regression(model, optimizer, table(), 300, criterion=nn.HuberLoss(), schedule=schedule)


@CASES.healthy(good=0.7)
def shallow_tanh_by_lbfgs() -> Training:
    """Two hidden layers of tanh on a full batch, by L-BFGS with a line search."""
    x, y = table(600)
    model = dense_stack([8, 32, 32, 1], nn.Tanh)
    optimizer = torch.optim.LBFGS(model.parameters(), 1.0, max_iter=5, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        weights = sum(p.square().sum() for p in model.parameters())
        value = F.mse_loss(model(x[:480]), y[:480]) + 1e-3 * weights
        value.backward()
        return value

    score = variance_explained(model, lambda: model(x[480:]), y[480:])
    return Training(model, optimizer, lambda _: float(optimizer.step(closure)), 40, score)


@CASES.healthy(good=0.6)
def denoising_autoencoder_by_nadam() -> Training:
    """Digits without a fifth of their pixels in, whole digits out, by ELUs and a code of twelve."""
    x = digits()[0]
    seen, held = x[HELD:], x[:HELD]
    model = nn.Sequential(nn.Dropout(0.2), *dense_stack([64, 96, 12, 96, 64], nn.ELU))
    optimizer = torch.optim.NAdam(model.parameters(), 2e-3)
    loss = lambda chosen: F.mse_loss(model(seen[chosen]), seen[chosen])  # noqa: E731
    score = variance_explained(model, lambda: model(held), held)
    return looped(model, optimizer, loss, len(seen), 300, score)


@CASES.healthy(good=0.5)
def narrow_autoencoder_with_tied_weights() -> Training:
    """One matrix to encode and, transposed, to decode; a code of sixteen softplus units."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 64) / 8)
            self.hidden, self.visible = nn.Parameter(torch.zeros(16)), nn.Parameter(torch.zeros(64))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.softplus(F.linear(x, self.weight, self.hidden)), self.weight.T, self.visible)

    model = Tied()
    return reconstruction(model, torch.optim.Adam(model.parameters(), 5e-3), 300)


@CASES.healthy(good=0.7)
def mixup_with_prelu_by_adagrad() -> Training:
    """Mixed pairs of digits with mixed labels: the loss stays far above zero and the classifier is good."""
    x, y = digits()
    seen, labels = x[HELD:], F.one_hot(y[HELD:], 10).float()
    model = dense_stack([64, 128, 128, 10], nn.PReLU)
    g = seeded(93)

    def loss(chosen: Tensor) -> Tensor:
        share = torch.rand(len(chosen), 1, generator=g)
        other = chosen[torch.randperm(len(chosen), generator=g)]
        mixed = share * seen[chosen] + (1 - share) * seen[other]
        return F.cross_entropy(model(mixed), share * labels[chosen] + (1 - share) * labels[other])

    optimizer = torch.optim.Adagrad(model.parameters(), 1e-2)
    return looped(model, optimizer, loss, len(seen), 250, right_answers(model, x[:HELD], y[:HELD]))


class MixtureDensity(nn.Module):
    """Weights, means and log deviations of three normal distributions (Bishop, 1994)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh())
        self.weights, self.means, self.scales = nn.Linear(48, 3), nn.Linear(48, 3), nn.Linear(48, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.body(x)
        scales = self.scales(h).clamp(-4, 3)
        each = -0.5 * ((y - self.means(h)) / scales.exp()).square() - scales - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(self.weights(h).log_softmax(1) + each, 1)


@CASES.healthy(good=0.5)
def mixture_density_of_an_inverse_problem() -> Training:
    """Two branches of answers, told by a mixture of normals; the score is the gain in nats over one normal."""
    g = seeded(94)
    x = torch.rand(2500, 1, generator=g) * 4 - 2
    sign = (torch.rand(2500, 1, generator=g) < 0.5).float() * 2 - 1
    y = sign * (1 + 0.5 * x.sin()) + 0.1 * torch.randn(2500, 1, generator=g)
    model = MixtureDensity()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def score() -> float:
        with evaluating(model):
            gain = model(x[2000:], y[2000:]).mean().item() + 0.5 * math.log(2 * math.pi * math.e) + y.std().log().item()
        return clamped(gain)

    loss = lambda chosen: -model(x[chosen], y[chosen]).mean()  # noqa: E731
    return looped(model, optimizer, loss, 2000, 300, score, batch=128)


class Highway(nn.Module):
    """A layer that carries what its gate does not transform (Srivastava et al., 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return t * F.relu(self.change(x)) + (1 - t) * x


@CASES.healthy(good=0.7)
def fifteen_highway_layers() -> Training:
    """Gates that begin almost closed, as they should, by momentum with clipping that is seldom needed."""
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), *[Highway(48) for _ in range(15)], nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    return digit_classifier(model, optimizer, 250, clip=5.0)
