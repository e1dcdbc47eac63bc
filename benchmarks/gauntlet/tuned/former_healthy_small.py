"""Small trainings without a fault: curricula, schedules that end at zero, unusual activations and losses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import accuracy, explained, fit, surface, two_moons
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.8)
def classes_that_join_later() -> Training:
    """A curriculum of two, then five, then all ten digits: the loss rises at every lesson before it falls again."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    lessons = [(y < limit).nonzero()[:, 0] for limit in (2, 5, 10)]
    draws = [minibatches(64, len(lesson)) for lesson in lessons]

    def step(i: int) -> float:
        k = min(i // 80, 2)
        chosen = lessons[k][draws[k]()]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 350, lambda: accuracy(model, x[:500], y[:500]))


class Sine(nn.Module):
    """A linear layer and the sine of thirty times its output."""

    def __init__(self, a: int, b: int, first: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(a, b)
        bound = 1 / a if first else math.sqrt(6 / a) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


@CASES.healthy(good=0.8)
def sinusoidal_coordinates() -> Training:
    """A coordinate network with sine activations at frequency 30 (Sitzmann et al. 2020)."""
    grid = torch.linspace(-1, 1, 24)
    xy = torch.cartesian_prod(grid, grid)
    value = torch.sin(9 * xy[:, :1]) * torch.cos(7 * xy[:, 1:]) + (xy.norm(dim=1, keepdim=True) < 0.5).float()
    model = nn.Sequential(Sine(2, 48, first=True), Sine(48, 48), nn.Linear(48, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return fit(model, optimizer, 250, xy, value, lambda: explained(model, xy, value), loss=F.mse_loss, batch=256)


@CASES.healthy(good=0.9)
def hinge_that_is_satisfied() -> Training:
    """A margin loss: most examples stop giving any gradient once they are right by far."""
    x, y = two_moons()
    model = nn.Sequential(nn.Linear(2, 48), nn.LeakyReLU(0.1), nn.Linear(48, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x, y, 2), loss=F.multi_margin_loss)


@CASES.healthy(good=0.8)
def cosine_down_to_zero() -> Training:
    """A learning rate that ends at exactly zero when all is learned: the last steps move nothing."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    score = lambda: accuracy(model, x[:500], y[:500])  # noqa: E731

    def after() -> None:
        if schedule.last_epoch < 200:
            schedule.step()

    return fit(model, optimizer, 230, x, y, score, after_step=after)


@CASES.healthy(good=0.8)
def probabilities_and_their_own_loss() -> Training:
    """A sigmoid at the end and ``BCELoss``, which asks for it; rare positives weighted up."""
    x, y = digits()
    target = (y == 8).float()[:, None]
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 1), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def loss(p: Tensor, t: Tensor) -> Tensor:
        return F.binary_cross_entropy(p, t, weight=1 + 4 * t)

    return fit(model, optimizer, 250, x, target, lambda: explained(model, x, target), loss=loss)


@CASES.healthy(good=0.7)
def counts_and_an_exponential() -> Training:
    """Poisson regression: large counts, an exponential link and a loss that is negative."""
    x, y = surface()
    rate = (1.5 + y).exp()
    counts = torch.poisson(rate, generator=torch.Generator().manual_seed(23))
    model = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    score = lambda: explained(model, x, 1.5 + y)  # noqa: E731
    return fit(model, optimizer, 300, x, counts, score, loss=nn.PoissonNLLLoss())


@CASES.healthy(good=0.8)
def two_logistic_layers() -> Training:
    """The network of 1986: two small layers of sigmoids, squared errors and momentum."""
    x, y = digits()
    target = F.one_hot(y, 10).float()
    model = nn.Sequential(nn.Linear(64, 40), nn.Sigmoid(), nn.Linear(40, 10), nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)

    def loss(p: Tensor, t: Tensor) -> Tensor:
        return ((p - t) ** 2).sum(1).mean() / 2

    return fit(model, optimizer, 500, x, target, lambda: accuracy(model, x[:500], y[:500]), loss=loss)


@CASES.healthy(good=0.8)
def deep_linear_network() -> Training:
    """Five orthogonal linear layers and no activation at all (Saxe et al. 2014)."""
    x, y = digits()
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(5)), nn.Linear(64, 10))
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    return fit(model, optimizer, 250, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.6)
def targets_that_move() -> Training:
    """Q-learning along a corridor with a target network, a copy that gets no gradient and jumps every 25 steps."""
    states, goal, gamma = 8, 7, 0.9
    net, frozen = (nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)) for _ in range(2))
    frozen.load_state_dict(net.state_dict())
    frozen.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    g, eye = torch.Generator().manual_seed(24), torch.eye(states)

    def step(i: int) -> float:
        s, a = torch.randint(goal, (64,), generator=g), torch.randint(2, (64,), generator=g)
        after = (s + 2 * a - 1).clamp(min=0)
        end = after == goal
        target = torch.where(end, 1.0, gamma * frozen(eye[after]).max(1).values)
        loss = F.smooth_l1_loss(net(eye[s]).gather(1, a[:, None])[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 25 == 24:
            frozen.load_state_dict(net.state_dict())
        return loss.item()

    def score() -> float:
        true = gamma ** torch.arange(goal - 1, -1, -1.0)
        with torch.no_grad():
            found = net(eye[:goal]).max(1).values
        return 1 - ((found - true) ** 2).mean().item() / true.var(correction=0).item()

    return Training({"online": net, "target": frozen}, optimizer, step, 350, score)
