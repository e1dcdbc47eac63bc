"""Embeddings learned by comparison: triplets, prototypes, decorrelation, words by their neighbors; all well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import characters, digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, undisturbed
from benchmarks.gauntlet.tuned.more_tasks import generator, neighbors, ratings, trained
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.7)
def hardest_triplets_of_a_batch() -> Training:
    """For each digit the farthest of its class and the nearest of the others; four numbers an embedding."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer, draw = torch.optim.Adam(model.parameters(), 3e-3), minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        i = draw()
        e = model(x[i])
        same = y[i][:, None] == y[i]
        d = ((e[:, None] - e).square().sum(2) + 1e-6).sqrt()
        farthest = (d * same).amax(1)
        nearest = (d + 1e3 * same).amin(1)
        return F.softplus(farthest - nearest).mean()

    return trained(model, optimizer, loss, neighbors(model, model), 300)


@CASES.healthy(good=0.6)
def prototypes_of_five_classes() -> Training:
    """Episodes of five of the ten digits, five examples each: which class is nearest by its mean?"""
    x, y = digits()
    members = [(y == k).nonzero()[:, 0] for k in range(10)]
    model = nn.Sequential(nn.Linear(64, 96), nn.LayerNorm(96), nn.ReLU(), nn.Linear(96, 24))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)

    def episode(g: torch.Generator) -> tuple[Tensor, Tensor]:
        classes = torch.randperm(10, generator=g)[:5].tolist()
        chosen = [members[k][torch.randint(len(members[k]), (10,), generator=g)] for k in classes]
        e = model(x[torch.stack(chosen).flatten()]).view(5, 10, 24)
        return -(torch.cdist(e[:, 5:].flatten(0, 1), e[:, :5].mean(1)) ** 2), torch.arange(5).repeat_interleave(5)

    g = generator(1)

    def score() -> float:
        h = generator(2)
        with undisturbed(model):
            right = [(z.argmax(1) == t).float().mean().item() for z, t in (episode(h) for _ in range(20))]
        return bounded((sum(right) / 20 - 0.2) / 0.8)

    return trained(model, optimizer, lambda _: F.cross_entropy(*episode(g)), score, 250)


@CASES.healthy(good=0.7)
def variance_and_covariance_held() -> Training:
    """VICReg: two views alike, each feature's deviation at one, features uncorrelated (Bardes et al., 2022)."""
    x, y = digits()
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
    optimizer, draw, g = torch.optim.Adam(encoder.parameters(), 2e-3), minibatches(128, len(y)), generator(3)

    def spread(z: Tensor) -> Tensor:
        z = z - z.mean(0)
        covariance = z.T @ z / (len(z) - 1)
        off = covariance - covariance.diag().diag()
        return F.relu(1 - (covariance.diag() + 1e-4).sqrt()).mean() + 0.04 * off.square().sum() / 32

    def loss(_: int) -> Tensor:
        clean = x[draw()]
        a, b = (encoder(clean + 0.5 * torch.randn(clean.shape, generator=g)) for _ in range(2))
        return 25 * F.mse_loss(a, b) + 25 * (spread(a) + spread(b))

    return trained(encoder, optimizer, loss, neighbors(encoder, encoder), 250)


@CASES.healthy(good=0.3)
def characters_by_what_follows() -> Training:
    """Word2vec: which of two characters follows a pair? Embeddings only, false ones drawn at random."""
    text = characters()
    pairs = 24 * text[:-2] + text[1:-1]
    draw, g = minibatches(256, len(pairs)), generator(4)
    model = nn.ModuleDict({"before": nn.Embedding(576, 12), "after": nn.Embedding(24, 12)})
    optimizer = torch.optim.Adam(model.parameters(), 0.05)

    def margin(i: Tensor, false: Tensor) -> Tensor:
        h = model["before"](pairs[i])
        return (h * model["after"](text[i + 2])).sum(1), (h * model["after"](false)).sum(1)

    def loss(_: int) -> Tensor:
        true, false = margin(draw(), torch.randint(24, (256,), generator=g))
        return -(F.logsigmoid(true) + F.logsigmoid(-false)).mean()

    held, wrong = torch.arange(0, 50_000, 50), torch.randint(24, (1000,), generator=generator(5))

    def score() -> float:
        with undisturbed(model):
            true, false = margin(held, wrong)
        return bounded(2 * (true > false).float().mean().item() - 1)

    return trained(model, optimizer, loss, score, 400)


@CASES.healthy(good=0.5)
def preferences_in_pairs() -> Training:
    """Which of two items does a user like better? The logistic loss of a difference (Rendle et al., 2009)."""
    pairs, y = ratings()
    table = torch.zeros(80, 60)
    table[pairs[:, 0], pairs[:, 1]] = y
    g = generator(6)

    class Taste(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items, self.bias = nn.Embedding(80, 6), nn.Embedding(60, 6), nn.Embedding(60, 1)
            nn.init.normal_(self.users.weight, std=0.3)
            nn.init.normal_(self.items.weight, std=0.3)
            nn.init.zeros_(self.bias.weight)

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return (self.users(user) * self.items(item)).sum(1) + self.bias(item)[:, 0]

    model = Taste()

    def asked(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        u, a, b = (torch.randint(n, (count,), generator=g) for n in (80, 60, 60))
        return model(u, a) - model(u, b), table[u, a] - table[u, b]

    def loss(_: int) -> Tensor:
        difference, truth = asked(256, g)
        return F.softplus(-difference * truth.sign()).mean()

    def score() -> float:
        with undisturbed(model):
            difference, truth = asked(2000, generator(7))
        return bounded((difference.sign() * truth.sign()).mean().item())

    return trained(model, torch.optim.Adam(model.parameters(), 0.02), loss, score, 300)
