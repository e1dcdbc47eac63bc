"""Generative, metric, graph and mixed models that are well."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.common_a import (
    HELD,
    clamped,
    communities,
    dense_stack,
    evaluating,
    looped,
    node_classifier,
    regression,
    right_answers,
    seeded,
    variance_explained,
    waveforms,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


class Variational(nn.Module):
    """An encoder to means and log variances, and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = dense_stack([64, 96, 16], nn.SiLU), dense_stack([8, 96, 64], nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x)[:, :8])


@CASES.healthy(good=0.45)
def variational_autoencoder_with_a_warmed_up_penalty() -> Training:
    """Eight latent numbers; the divergence from the prior counts more and more during the first hundred steps."""
    x = digits()[0]
    seen, held = x[HELD:], x[:HELD]
    model, g, taken = Variational(), seeded(111), [0]

    def loss(chosen: Tensor) -> Tensor:
        taken[0] += 1
        mean, log_variance = model.encoder(seen[chosen]).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=g)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        error = (model.decoder(z) - seen[chosen]).square().sum(1).mean() / (2 * 0.4**2)
        return (error + min(1.0, taken[0] / 100) * divergence) / 64

    score = variance_explained(model, lambda: model(held), held)
    return looped(model, torch.optim.Adam(model.parameters(), 3e-3), loss, len(seen), 350, score)


class Coupling(nn.Module):
    """An affine coupling of one of two coordinates by the other."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which
        self.net = dense_stack([1, 48, 2], nn.Tanh)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x[:, self.which, None], x[:, 1 - self.which, None]
        scale, shift = self.net(a).chunk(2, 1)
        scale = torch.tanh(scale)
        parts = [a, b * scale.exp() + shift]
        return torch.cat(parts if self.which == 0 else parts[::-1], 1), scale[:, 0]


class RealFlow(nn.Module):
    """Six couplings in turn; gives the log density of points in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Coupling(k % 2) for k in range(6))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x))
        for layer in self.layers:
            x, scale = layer(x)
            total = total + scale
        return total - 0.5 * x.square().sum(1) - math.log(2 * math.pi)


@CASES.healthy(good=0.3)
def normalizing_flow_of_two_moons() -> Training:
    """Maximum likelihood by couplings; the score is the gain in nats over independent normals."""
    g = seeded(112)
    angle, upper = torch.rand(3000, generator=g) * math.pi, torch.rand(3000, generator=g) < 0.5
    side, height = torch.where(upper, angle.cos(), 1 - angle.cos()), torch.where(upper, angle.sin(), 0.5 - angle.sin())
    x = torch.stack([side, height], 1)
    x = x + 0.08 * torch.randn(3000, 2, generator=g)
    x = (x - x.mean(0)) / x.std(0)
    model = RealFlow()

    def score() -> float:
        with evaluating(model):
            return clamped(model(x[2400:]).mean().item() + math.log(2 * math.pi) + 1)

    loss = lambda chosen: -model(x[chosen]).mean()  # noqa: E731
    return looped(model, torch.optim.Adam(model.parameters(), 3e-3), loss, 2400, 300, score, batch=128)


class GraphNet(nn.Module):
    """Two graph convolutions with dropout (Kipf and Welling, 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(16, 32), nn.Linear(32, 4), nn.Dropout(0.5)
        degrees = communities()[0].sum(1).rsqrt()
        self.register_buffer("pull", degrees[:, None] * communities()[0] * degrees)

    def forward(self, x: Tensor) -> Tensor:
        return self.pull @ self.second(self.drop(F.relu(self.pull @ self.first(self.drop(x)))))


@CASES.healthy(good=0.7)
def graph_convolutions_with_dropout() -> Training:
    """Communities of a graph from the labels of half its nodes, full batch, weight decay."""
    model = GraphNet()
    return node_classifier(model, torch.optim.Adam(model.parameters(), 1e-2, weight_decay=5e-4), 150)


class PointSet(nn.Module):
    """Each point by itself, the largest of all, and what follows from it (Qi et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = dense_stack([2, 32, 64]), dense_stack([64, 32, 1])

    def forward(self, x: Tensor) -> Tensor:
        return self.all(F.relu(self.each(x)).amax(1))


@CASES.healthy(good=0.6)
def point_clouds_by_their_maxima() -> Training:
    """The area of the box around twenty points, from the points in any order."""
    x = torch.randn(2500, 20, 2, generator=seeded(113)) * (0.5 + torch.rand(2500, 1, 2, generator=seeded(114)))
    y = (x.amax(1) - x.amin(1)).prod(1, keepdim=True)
    model = PointSet()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return regression(model, optimizer, (x / x.std(), (y - y.mean()) / y.std()), 250)


@CASES.healthy(good=0.7)
def triplets_on_the_sphere() -> Training:
    """Codes of length one, semi-hard by chance, under the triplet loss; scored by the nearest neighbour."""
    x, y = digits()
    seen, labels = x[HELD:], y[HELD:]
    body = dense_stack([64, 96, 16])
    model = nn.Sequential(body, nn.LayerNorm(16))
    g = seeded(115)

    def codes(inputs: Tensor) -> Tensor:
        return F.normalize(model(inputs), dim=1)

    def loss(chosen: Tensor) -> Tensor:
        same = labels[chosen, None] == labels
        near = torch.multinomial(same.float(), 1, generator=g)[:, 0]
        far = torch.multinomial((~same).float(), 1, generator=g)[:, 0]
        return F.triplet_margin_loss(codes(seen[chosen]), codes(seen[near]), codes(seen[far]), margin=0.5)

    def score() -> float:
        with evaluating(model):
            nearest = labels[torch.cdist(codes(x[:HELD]), codes(seen)).argmin(1)]
        return clamped(((nearest == y[:HELD]).float().mean().item() - 0.1) / 0.9)

    return looped(model, torch.optim.Adam(model.parameters(), 2e-3), loss, len(seen), 200, score)


class Mixture(nn.Module):
    """Four experts, of which the best two answer, and a penalty for gates that prefer some."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 4)
        self.experts = nn.ModuleList(dense_stack([64, 32, 10], nn.GELU) for _ in range(4))

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.gate(x).softmax(1)
        kept = torch.zeros_like(p).scatter(1, p.topk(2, 1).indices, 1.0)
        return p, p * kept / (p * kept).sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gates(x)[1]
        return (torch.stack([expert(x) for expert in self.experts], 1) * weights[:, :, None]).sum(1)


@CASES.healthy(good=0.7)
def mixture_of_experts_in_balance() -> Training:
    """Two of four experts for each digit, with the usual term that keeps all of them busy."""
    x, y = digits()
    seen, labels = x[HELD:], y[HELD:]
    model = Mixture()

    def loss(chosen: Tensor) -> Tensor:
        p, weights = model.gates(seen[chosen])
        balance = 4 * ((weights > 0).float().mean(0) / 2 * p.mean(0)).sum()
        return F.cross_entropy(model(seen[chosen]), labels[chosen]) + 0.02 * balance

    score = right_answers(model, x[:HELD], y[:HELD])
    return looped(model, torch.optim.AdamW(model.parameters(), 3e-3), loss, len(seen), 250, score)


@CASES.healthy(good=0.7)
def dilated_convolutions_over_waves() -> Training:
    """A temporal convolutional net with residuals, weight norm and dilations of 1, 2, 4 and 8."""

    class Dilated(nn.Module):
        def __init__(self, dilation: int) -> None:
            super().__init__()
            conv = nn.Conv1d(16, 16, 3, padding=dilation, dilation=dilation)
            self.conv = nn.utils.parametrizations.weight_norm(conv)

        def forward(self, x: Tensor) -> Tensor:
            return x + F.relu(self.conv(x))

    x, y = waveforms()
    head = [nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 4)]
    model = nn.Sequential(nn.Conv1d(1, 16, 3, padding=1), nn.ReLU(), *[Dilated(2**k) for k in range(4)], *head)
    loss = lambda chosen: F.cross_entropy(model(x[chosen]), y[chosen])  # noqa: E731
    score = right_answers(model, x[1200:], y[1200:], 4)
    return looped(model, torch.optim.Adam(model.parameters(), 3e-3), loss, 1200, 250, score, batch=32)
