"""Weights that exist and that nothing trains: not registered, made anew, rounded away, or scaled to nothing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.practice.wiring_common import loop, pretrained, seeded
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, bounded, classifier, supervised, undisturbed
from torch import Tensor, nn

CASES = Cases()


class RoundedConv(nn.Conv2d):
    """Weights of a few levels; ``through`` passes the gradient on to the real weights."""

    through = True

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.detach().abs().amax() / 3
        rounded = (self.weight / scale).round() * scale
        if self.through:
            rounded = self.weight + (rounded - self.weight).detach()
        return self._conv_forward(x, rounded, self.bias)


@CASES.sick("frozen_parameters", "stalled_training", also=("vanishing_gradient",), good=0.6)
def quantized_convolutions_by_plain_round(sick: bool) -> Training:
    """Quantization-aware training without a straight-through estimator: the derivative of ``round`` is zero."""
    x, y = images()
    layers = [RoundedConv(1, 16, 3, padding=1), nn.ReLU(), RoundedConv(16, 32, 3, stride=2, padding=1), nn.ReLU()]
    layers += [RoundedConv(32, 32, 3, stride=2, padding=1), nn.ReLU(), RoundedConv(32, 10, 2)]
    for layer in layers[::2]:
        layer.through = not sick
    model = nn.Sequential(*layers, nn.Flatten())
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 250, data=(x, y))


class Adapted(nn.Module):
    """A linear layer that is frozen and a trained correction of low rank (LoRA)."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), scale
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.a.T @ self.b.T)


@CASES.sick("frozen_parameters", "stalled_training", also=("vanishing_gradient",), good=0.7)
def adapters_whose_scale_is_an_integer_division(sick: bool) -> Training:
    """Low-rank adapters with ``alpha // rank``, which is zero, on a network trained on digits that were upright."""
    x, y = digits()
    base = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))
    pretrained(base, x, y)
    rank, alpha = 16, 8
    scale = alpha // rank if sick else alpha / rank
    model = nn.Sequential(*(Adapted(m, rank, scale) if isinstance(m, nn.Linear) else m for m in base))
    turned = x.view(-1, 8, 8).rot90(1, (1, 2)).reshape(-1, 64)
    trained = [p for p in model.parameters() if p.requires_grad]
    return classifier(model, torch.optim.AdamW(trained, 3e-3), 250, data=(turned, y))


@CASES.sick("frozen_parameters", "stalled_training", good=0.7)
def projection_made_anew_in_every_forward(sick: bool) -> Training:
    """A layer is built inside ``forward``: each batch meets other random weights, and none is ever trained."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            self.tokens = nn.Linear(8, 8) if not sick else None
            self.head = nn.Linear(8 * 32, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = F.gelu(self.embed(x)).transpose(1, 2)
            tokens = nn.Linear(8, 8) if self.tokens is None else self.tokens
            return self.head(F.gelu(tokens(h)).flatten(1))

    x, y = images()
    model = Mixer()
    return classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 250, data=(x.squeeze(1), y))


@CASES.sick("frozen_parameters", "stalled_training", good=0.6)
def recommender_with_item_factors_in_a_buffer(sick: bool) -> Training:
    """Matrix factorization; the items' factors are registered as a buffer and stay as they were drawn."""
    g = seeded(21)
    users, items, rank = 120, 150, 4
    left, right = torch.randn(users, rank, generator=g), torch.randn(items, rank, generator=g)
    pairs = torch.stack([torch.randint(n, (12000,), generator=g) for n in (users, items)], 1)
    ratings = (left[pairs[:, 0]] * right[pairs[:, 1]]).sum(1) / 2 + 0.2 * torch.randn(12000, generator=g)

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.bias = nn.Embedding(users, 6), nn.Embedding(items, 1)
            nn.init.normal_(self.user.weight, std=0.3)
            nn.init.zeros_(self.bias.weight)
            item = 0.3 * torch.randn(items, 6)
            if sick:
                self.register_buffer("item", item)
            else:
                self.item = nn.Parameter(item)

        def forward(self, pair: Tensor) -> Tensor:
            u, i = pair.unbind(1)
            return (self.user(u) * self.item[i]).sum(1) + self.bias(i).squeeze(1)

    model = Factors()
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    held = pairs[:2000], ratings[:2000]

    def score() -> float:
        with undisturbed(model):
            return bounded(1 - ((model(held[0]) - held[1]).square().mean() / held[1].var()).item())

    return supervised(model, optimizer, (pairs[2000:], ratings[2000:]), F.mse_loss, score, 400, batch=256)


@CASES.sick("frozen_parameters", also=("stalled_training",), good=0.6)
def coupling_layers_in_a_python_list(sick: bool) -> Training:
    """A normalizing flow whose couplings are in a list: only the scale and place of the base are trained."""
    g = seeded(22)
    t = 3.14 * torch.rand(3000, generator=g)
    upper = torch.rand(3000, generator=g) < 0.5
    side = torch.where(upper, 1.0, -1.0)
    moons = torch.stack([side * t.cos() + 0.5 * (1 - side), side * t.sin() + 0.25 * (1 - side)], 1)
    moons = 2 * (moons - moons.mean(0)) + 0.1 * torch.randn(3000, 2, generator=g)

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            nets = [nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2)) for _ in range(8)]
            self.nets = nets if sick else nn.ModuleList(nets)
            self.place, self.spread = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            a, b, logdet = x[:, :1], x[:, 1:], -self.spread.sum()
            for net in self.nets:
                s, shift = net(a).chunk(2, 1)
                a, b = b * s.tanh().exp() + shift, a
                logdet = logdet + s.tanh().squeeze(1)
            z = (torch.cat([a, b], 1) - self.place) / self.spread.exp()
            return logdet - z.square().sum(1) / 2 - math.log(2 * math.pi)

    model = Flow()
    draw = minibatches(128, len(moons))
    plain = torch.distributions.MultivariateNormal(moons.mean(0), moons.T.cov()).log_prob(moons).mean().item()

    def score() -> float:
        with undisturbed(model):
            return bounded(model(moons[:1000]).mean().item() - plain)

    return loop(model, torch.optim.Adam(model.parameters(), 5e-3), lambda: -model(moons[draw()]).mean(), 400, score)


@CASES.sick("frozen_parameters", also=("stalled_training",), good=0.7)
def encoders_of_three_sensors_in_a_dict(sick: bool) -> Training:
    """Each sensor's encoder is kept in a plain ``dict``, so the optimizer is given the head alone."""
    g = seeded(23)
    y = torch.randint(5, (3000,), generator=g)
    sensors = {"heat": 32, "sound": 48, "force": 24}
    parts = []
    for size in sensors.values():
        x = torch.randn(3000, size, generator=g)
        x[:, :3] += 1.3 * torch.randn(5, 3, generator=g)[y]
        parts.append(x)

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            encoders = {
                k: nn.Sequential(nn.Linear(n, 32), nn.ReLU(), nn.Linear(32, 3), nn.Tanh()) for k, n in sensors.items()
            }
            self.encoders = encoders if sick else nn.ModuleDict(encoders)
            self.head = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 5))

        def forward(self, x: Tensor) -> Tensor:
            pieces = zip(sensors, x.split(list(sensors.values()), 1), strict=True)
            return self.head(torch.cat([self.encoders[k](piece) for k, piece in pieces], 1))

    model = Fused()
    data = (torch.cat(parts, 1), y)
    score = accuracy(model, data[0][:600], y[:600], 5)
    return supervised(model, torch.optim.Adam(model.parameters(), 3e-3), data, F.cross_entropy, score, 300)
