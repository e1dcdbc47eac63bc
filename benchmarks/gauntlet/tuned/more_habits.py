"""Ways of training that are no fault: slow, averaged, accumulated, with restarts, by sign, by hand, by two players."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    bounded,
    classifier,
    explained,
    regression,
    smooth_function,
    supervised,
    undisturbed,
)
from benchmarks.gauntlet.tuned.more_tasks import generator, houses, series, spirals, standardized, trained, waves
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.4)
def slow_and_steady_convolutions() -> Training:
    """A small rate: the loss has fallen by a fifth when the run ends, and goes on falling."""
    model = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(128, 10))
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-4), 300, data=images(), batch=32)


@CASES.healthy(good=0.15)
def slow_and_steady_regression() -> Training:
    """The same under plain gradient descent: a quarter of the variance after 400 steps, and no end in sight."""
    model = nn.Sequential(nn.Linear(5, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    data = standardized(houses()[0]), houses()[1]
    return regression(model, torch.optim.SGD(model.parameters(), 6e-4), data, 400, batch=64)


@CASES.healthy()
def averaged_over_restarts() -> Training:
    """Cosine with warm restarts every forty steps, and the average of the weights at the end of each."""
    x, y = waves()
    model = nn.Sequential(nn.Conv1d(1, 12, 7, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(168, 32), nn.LeakyReLU())
    model.append(nn.Linear(32, 4))
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer, draw = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), minibatches(32, len(y))
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 40, eta_min=1e-3)

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.cross_entropy(model(x[chosen]), y[chosen])

    def after(i: int) -> None:
        schedule.step()
        if i % 40 == 39:
            average.update_parameters(model)

    return trained(model, optimizer, loss, accuracy(average, x[:400], y[:400], 4), 240, after=after)


@CASES.healthy()
def six_times_a_sixth() -> Training:
    """A step after six batches of eight, each loss divided by six."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 80), nn.Hardtanh(), nn.Linear(80, 80), nn.Hardtanh(), nn.Linear(80, 10))
    optimizer, draw = torch.optim.Adam(model.parameters(), 2e-3), minibatches(8, len(y))

    def step(_: int) -> float:
        total = 0.0
        for _ in range(6):
            chosen = draw()
            loss = F.cross_entropy(model(x[chosen]), y[chosen]) / 6
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return Training(model, optimizer, step, 150, accuracy(model, x[:500], y[:500]))


class Signs(torch.optim.Optimizer):
    """Updates by the sign of an interpolated momentum (Chen et al., 2023)."""

    def __init__(self, parameters: object, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.sub_(group["lr"] * torch.lerp(p.grad, m, 0.9).sign())
                m.lerp_(p.grad, 0.01)


@CASES.healthy()
def signs_of_the_momentum() -> Training:
    """An optimizer written by hand, every weight moved by the same amount in every step."""
    x, y = spirals()
    model = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 3))
    rate = lambda i: 2e-3 * (1 - i / 450)  # noqa: E731
    score = accuracy(model, x[:500], y[:500], 3)
    return supervised(model, Signs(model.parameters(), 2e-3), (x, y), F.cross_entropy, score, 400, batch=100, rate=rate)


@CASES.healthy()
def quasi_newton_on_a_wave() -> Training:
    """L-BFGS with a line search on all of a small regression, tanh units."""
    g = generator(81)
    x = 2 * torch.rand(150, 2, generator=g) - 1
    y = (3 * x[:, :1]).sin() * (2 * x[:, 1:]).cos() + 0.02 * torch.randn(150, 1, generator=g)
    model = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, history_size=8, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss.item()

    return Training(model, optimizer, lambda _: float(optimizer.step(closure)), 60, explained(model, x, y))


@CASES.healthy()
def one_forecast_at_a_time() -> Training:
    """Batches of one, a GRU over a series, the absolute error."""
    x, y = series()

    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(1, 20, batch_first=True), nn.Linear(20, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x[..., None])[0][:, -1])

    model = Forecast()
    score = explained(model, x[:300], y[:300])
    return supervised(model, torch.optim.Adam(model.parameters(), 3e-3), (x, y), F.l1_loss, score, 500, batch=1)


@CASES.healthy()
def everything_by_hand() -> Training:
    """Two layers as plain tensors in a list, cross-entropy from its definition, decay in the loss."""
    x, y = digits()

    class Numbers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = [(64, 50), (50,), (50, 10), (10,)]
            self.numbers = nn.ParameterList(torch.randn(s) / 8 if len(s) > 1 else torch.zeros(s) for s in sizes)

        def forward(self, x: Tensor) -> Tensor:
            w, b, v, c = self.numbers
            return torch.maximum(x @ w + b, torch.zeros(())) @ v + c

    model, draw = Numbers(), minibatches(100, len(y))

    def loss(_: int) -> Tensor:
        i = draw()
        z = model(x[i])
        z = z - z.amax(1, keepdim=True).detach()
        right = z[torch.arange(100), y[i]] - z.exp().sum(1).log()
        return -right.mean() + 1e-4 * sum(p.square().sum() for p in model.parameters())

    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    return trained(model, optimizer, loss, accuracy(model, x[:500], y[:500]), 200)


@CASES.healthy()
def two_players_and_squares() -> Training:
    """A generator and a critic under squared losses; the generator must find the place and width of a cloud."""
    g = generator(82)
    place = torch.tensor([1.5, -1.0])
    generate = nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(0.2), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2), nn.Linear(48, 1))
    first = torch.optim.Adam(generate.parameters(), 2e-3, betas=(0.5, 0.99))
    second = torch.optim.Adam(critic.parameters(), 4e-3, betas=(0.5, 0.99))

    def step(_: int) -> float:
        real = place + 0.5 * torch.randn(64, 2, generator=g)
        fake = generate(torch.randn(64, 4, generator=g))
        second.zero_grad()
        judged = (critic(real) - 1).square().mean() + critic(fake.detach()).square().mean()
        judged.backward()
        second.step()
        first.zero_grad()
        (critic(fake) - 1).square().mean().backward()
        first.step()
        return judged.item()

    held = torch.randn(500, 4, generator=generator(83))

    def score() -> float:
        with undisturbed(generate):
            return bounded(1 - ((generate(held).mean(0) - place).norm() / place.norm()).item())

    return Training({"generate": generate, "critic": critic}, [first, second], step, 350, score)


@CASES.healthy()
def easy_examples_first() -> Training:
    """Regression that begins with the calm half of the data and ends with all of it; Adadelta."""
    x, y = smooth_function()
    order = x.square().sum(1).argsort()
    model = nn.Sequential(nn.Linear(5, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 1))
    optimizer, g = torch.optim.Adadelta(model.parameters(), 1.0), generator(1)

    def loss(i: int) -> Tensor:
        reach = min(len(x), 1000 + 4 * i)
        chosen = order[torch.randint(reach, (64,), generator=g)]
        return F.mse_loss(model(x[chosen]), y[chosen])

    return trained(model, optimizer, loss, explained(model, x, y), 400)
