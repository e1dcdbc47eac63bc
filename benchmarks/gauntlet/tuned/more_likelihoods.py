"""Losses other than the two usual ones, and data that say little: all of them well."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, explained, smooth_function, supervised, undisturbed
from benchmarks.gauntlet.tuned.more_tasks import generator, houses, standardized, trained
from torch import Tensor, nn

CASES = Cases()


def concordance(risk: Tensor, time: Tensor) -> float:
    """How much more often than not the higher risk of two comes first: 1 always, 0 by chance."""
    earlier = time[:, None] < time[None]
    return 2 * (risk[:, None] > risk[None])[earlier].float().mean().item() - 1


@CASES.healthy(good=0.6)
def two_branches_of_an_inverse() -> Training:
    """A mixture density network: three narrow normal densities, a negative loss in the end."""
    g = generator(71)
    x = 2 * torch.rand(2000, 1, generator=g) - 1
    y = (
        torch.randint(2, (2000, 1), generator=g) * 2
        - 1
        + 0.5 * (3 * x).sin()
        + 0.05 * torch.randn(2000, 1, generator=g)
    )
    model = nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 9))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        weight, mean, log_std = out.chunk(3, 1)
        log_std = log_std.clamp(min=-5)
        normal = -0.5 * ((y - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
        return -(weight.log_softmax(1) + normal).logsumexp(1).mean()

    def score() -> float:
        with undisturbed(model):
            return bounded((1.48 - loss(model(x[:500]), y[:500]).item()) / (1.48 + 0.88))

    return supervised(model, torch.optim.Adam(model.parameters(), 5e-3), (x, y), loss, score, 400)


@CASES.healthy()
def three_quantiles() -> Training:
    """The pinball loss for a tenth, a half and nine tenths, of noise that widens; scored by what lies between."""
    g = generator(72)
    x = 2 * torch.rand(2000, 1, generator=g) - 1
    y = x.square() + (0.1 + 0.3 * (x + 1)) * torch.randn(2000, 1, generator=g)
    levels = torch.tensor([0.1, 0.5, 0.9])
    model = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    def loss(q: Tensor, y: Tensor) -> Tensor:
        return torch.maximum(levels * (y - q), (levels - 1) * (y - q)).mean()

    constant = loss(y.flatten().quantile(levels).expand(2000, 3), y).item()
    best = loss(x.square() + (0.1 + 0.3 * (x + 1)) * torch.tensor([-1.2816, 0.0, 1.2816]), y).item()

    def score() -> float:
        with undisturbed(model):
            return bounded((constant - loss(model(x), y).item()) / (constant - best))

    return supervised(model, torch.optim.Adam(model.parameters(), 3e-3), (x, y), loss, score, 350, batch=100)


@CASES.healthy()
def counts_by_poisson() -> Training:
    """Counts, their rate by its logarithm, and the likelihood written by hand."""
    g = generator(73)
    x = torch.randn(1500, 6, generator=g)
    rate = (1 + 0.6 * x[:, 0] + 0.4 * x[:, 1].abs() - 0.3 * x[:, 2] * x[:, 3]).exp().clamp(max=40)
    y = torch.poisson(rate, generator=g)
    model = nn.Sequential(nn.Linear(6, 48), nn.Softplus(), nn.Linear(48, 1), nn.Flatten(0))

    def loss(log_rate: Tensor, y: Tensor) -> Tensor:
        return (log_rate.exp() - y * log_rate).mean()

    score = explained(lambda x: model(x).exp(), x[:500], rate[:500], model)
    return supervised(model, torch.optim.Adamax(model.parameters(), 1e-2), (x, y), loss, score, 400, batch=50)


@CASES.healthy()
def risks_of_the_censored() -> Training:
    """Cox's partial likelihood within large batches; a third of the times are only lower bounds."""
    g = generator(74)
    x = torch.randn(1200, 5, generator=g)
    time = -torch.rand(1200, generator=g).log() / (1.5 * x[:, 0] + x[:, 1] * x[:, 2]).exp()
    censor = -torch.rand(1200, generator=g).log() * 2
    seen = time < censor
    observed = torch.minimum(time, censor)
    model = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1, bias=False), nn.Flatten(0))
    optimizer, draw = torch.optim.AdamW(model.parameters(), 5e-3), minibatches(256, 1000)

    def loss(_: int) -> Tensor:
        i = draw()
        order = observed[i].argsort(descending=True)
        risk, event = model(x[i])[order], seen[i][order]
        return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum()

    def score() -> float:
        with undisturbed(model):
            return concordance(model(x[1000:]), time[1000:])

    return trained(model, optimizer, loss, score, 250)


@CASES.healthy(good=0.4)
def stars_from_one_to_five() -> Training:
    """Ordered classes by one score and four learned thresholds."""
    x, price = houses()
    x, y = standardized(x), torch.bucketize(price[:, 0], torch.tensor([-1.0, -0.3, 0.4, 1.1]))

    class Ordinal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Sequential(nn.Linear(5, 40), nn.GELU(), nn.Linear(40, 1))
            self.first, self.gaps = nn.Parameter(torch.tensor(-1.5)), nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            steps = torch.cat([self.first[None], self.first + F.softplus(self.gaps).cumsum(0)])
            return self.score(x) - steps

    model = Ordinal()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(z, (y[:, None] > torch.arange(4)).float())

    score = explained(lambda x: (model(x) > 0).sum(1).float(), x[:500], y[:500].float(), model)
    return supervised(model, torch.optim.Adam(model.parameters(), 1e-2), (x, y), loss, score, 300, batch=48)


@CASES.healthy(good=0.6)
def one_in_twenty() -> Training:
    """A rare class with twenty times the weight, scored by its share found and that of the others spared."""
    g = generator(75)
    x = torch.randn(4000, 8, generator=g)
    value = x[:, 0] * x[:, 1] + x[:, 2]
    y = (value > value.quantile(0.95)).long()
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y, weight=torch.tensor([1.0, 20.0]))

    def score() -> float:
        with undisturbed(model):
            found = model(x[:1500]).argmax(1)
        rare = y[:1500] == 1
        return bounded(found[rare].float().mean().item() - found[~rare].float().mean().item())

    return supervised(model, torch.optim.Adam(model.parameters(), 3e-3), (x, y), loss, score, 300, batch=128)


@CASES.healthy(good=0.6)
def strokes_of_a_digit() -> Training:
    """Seven labels at once: the segments that a display would light for the digit."""
    x, y = digits()
    segments = [0x3F, 0x06, 0x5B, 0x4F, 0x66, 0x6D, 0x7D, 0x07, 0x7F, 0x6F]
    lit = torch.tensor([[s >> k & 1 for k in range(7)] for s in segments], dtype=torch.float32)[y]
    model = nn.Sequential(nn.Linear(64, 72), nn.PReLU(), nn.Linear(72, 7))

    def score() -> float:
        with undisturbed(model):
            right = ((model(x[:500]) > 0) == (lit[:500] > 0.5)).all(1).float().mean().item()
        return (right - 0.1) / 0.9

    loss = F.multilabel_soft_margin_loss
    return supervised(model, torch.optim.Adam(model.parameters(), 3e-3), (x, lit), loss, score, 300, batch=60)


@CASES.healthy(good=0.1)
def returns_that_are_hardly_predictable() -> Training:
    """A sixth of the variance can be known: the loss falls from 1.0 to 0.85 and that is all there is."""
    g = generator(76)
    x = torch.randn(13_000, 10, generator=g)
    signal = 0.3 * x[:, 0] + 0.28 * x[:, 1] * x[:, 2].sign()
    y = (signal + (1 - signal.var()).sqrt() * torch.randn(13_000, generator=g))[:, None]
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    score = explained(model, x[12_000:], y[12_000:])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3, weight_decay=1e-4)
    return supervised(model, optimizer, (x[:12_000], y[:12_000]), F.mse_loss, score, 400, batch=128)


@CASES.healthy(good=0.5)
def flow_of_a_crescent() -> Training:
    """Six affine couplings that turn a crescent into a normal density; the likelihood in nats beyond a Gaussian's."""
    x = torch.randn(2000, 2, generator=generator(78))
    x[:, 1] = x[:, 0].square() / 2**0.5 + 0.2 * x[:, 1]
    x = (x - x.mean(0)) / x.std(0)

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            nets = (nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 2)) for _ in range(6))
            self.nets = nn.ModuleList(nets)

        def forward(self, x: Tensor) -> Tensor:
            log_det = x.new_zeros(len(x))
            for net in self.nets:
                a, b = x.split(1, 1)
                log_scale, shift = net(a).split(1, 1)
                log_scale = log_scale.tanh() * 1.5
                x = torch.cat([b * log_scale.exp() + shift, a], 1)
                log_det = log_det + log_scale[:, 0]
            return log_det - 0.5 * x.square().sum(1) - math.log(2 * math.pi)

    model, draw = Flow(), minibatches(128, len(x))
    plain = 1 + math.log(2 * math.pi)

    def score() -> float:
        with undisturbed(model):
            return bounded(plain + model(x).mean().item())

    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return trained(model, optimizer, lambda _: -model(x[draw()]).mean(), score, 400)


@CASES.healthy()
def all_data_under_adagrad() -> Training:
    """Batches of two thousand, Adagrad, and half of the variance noise; scored by the other half."""
    x, clean = smooth_function()
    y = clean + clean.std() * torch.randn(clean.shape, generator=generator(77))
    model = nn.Sequential(nn.Linear(5, 64), nn.CELU(), nn.Linear(64, 64), nn.CELU(), nn.Linear(64, 1))
    score = explained(model, x[:1000], clean[:1000])
    return supervised(model, torch.optim.Adagrad(model.parameters(), 0.03), (x, y), F.mse_loss, score, 200, batch=2000)
