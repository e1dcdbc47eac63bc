"""Losses that stop being numbers, jump, swing or run away."""

from __future__ import annotations

import statistics

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import accuracy, explained, fit, surface, two_moons
from torch import Tensor, nn

CASES = Cases()


class HandWrittenLoss(nn.Module):
    """A classifier that computes its own loss, as the library's own models do."""

    def __init__(self, safe: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        self.safe = safe

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = self.body(x)[:, 0]
        if labels is None:
            return torch.stack([-logits, logits], 1)
        if self.safe:
            return F.binary_cross_entropy_with_logits(logits, labels)
        p = torch.sigmoid(logits)
        return -(labels * torch.log(p) + (1 - labels) * torch.log(1 - p)).mean()


@CASES.sick("nonfinite", also=("saturated_units",), sites="log|sigmoid|mul")
def logarithm_of_zero(sick: bool) -> Training:
    """Cross-entropy written by hand: as soon as an example is sure, 0 times log(0) is not a number."""
    x, y = two_moons()
    model = HandWrittenLoss(safe=not sick)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    draw = minibatches(128, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        loss = model(x[chosen], y[chosen].float())
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 400, lambda: accuracy(model, x, y, 2))


class Distances(nn.Module):
    """An embedding, and the distance of two inputs in it."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.epsilon = epsilon

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sqrt((self.net(a) - self.net(b)).pow(2).sum(1) + self.epsilon)


@CASES.sick("nonfinite", sites="sqrt|pow|sub|net")
def square_root_at_zero(sick: bool) -> Training:
    """A contrastive loss on Euclidean distances: the first pair of an example with itself has an infinite slope."""
    x, y = digits()
    model = Distances(0.0 if sick else 1e-6)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    draw = minibatches(64, len(y))

    def step(i: int) -> float:
        a, b = draw(), draw()
        if i % 50 == 49:
            b[0] = a[0]
        d = model(x[a], x[b])
        loss = torch.where(y[a] == y[b], d**2, F.relu(2 - d) ** 2 / 4).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with torch.no_grad():
            z = model.net(x[:400])
            near = torch.cdist(z, z).fill_diagonal_(1e9).argmin(1)
        return ((y[near] == y[:400]).float().mean().item() - 0.1) / 0.9 if z.isfinite().all() else 0.0

    return Training(model, optimizer, step, 200, score)


class MaskedPooling(nn.Module):
    """Attention over the tokens that are not padding."""

    def __init__(self, guard: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 24)
        self.score = nn.Linear(24, 1)
        self.classifier = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 2))
        self.guard = guard

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        scores = self.score(h)[..., 0].masked_fill(tokens == 0, -1e9 if self.guard else float("-inf"))
        return self.classifier((scores.softmax(1)[..., None] * h).sum(1))


@CASES.sick("nonfinite", sites="softmax|score|masked_fill")
def softmax_over_nothing(sick: bool) -> Training:
    """A text of padding alone: the softmax of a row of minus infinities is not a number."""
    g = torch.Generator().manual_seed(11)
    x = torch.randint(1, 20, (2000, 12), generator=g)
    x[torch.arange(12)[None] >= torch.randint(2, 12, (2000, 1), generator=g)] = 0
    y = (x == 7).any(1).long()
    keep = torch.cat([(y == 1).nonzero()[:600, 0], (y == 0).nonzero()[:600, 0]])
    x, y = x[keep].clone(), y[keep]
    x[700] = 0
    model = MaskedPooling(guard=not sick)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return fit(model, optimizer, 200, x, y, lambda: accuracy(model, x, y, 2))


@CASES.sick("nonfinite")
def missing_value_in_the_table(sick: bool) -> Training:
    """One cell of a table of thousands is empty, that is, not a number."""
    x, y = surface()
    x = x.clone()
    if sick:
        x[517, 4] = float("nan")
    model = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    return fit(model, optimizer, 200, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


class InstanceStandardized(nn.Module):
    """Each channel of each image divided by its own standard deviation."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(16 * 16, 10)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.relu(self.conv2(h))
        h = (h - h.mean((2, 3), keepdim=True)) / (h.std((2, 3), keepdim=True) + self.epsilon)
        return self.fc(h.flatten(1))


@CASES.sick("nonfinite", sites="div|std|sub|conv2|fc")
def division_by_no_deviation(sick: bool) -> Training:
    """A channel that is silent on an image has a standard deviation of zero: zero by zero."""
    x, y = images()
    model = InstanceStandardized(0.0 if sick else 1e-3)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    return fit(model, optimizer, 150, x, y, lambda: accuracy(model, x[:500], y[:500]))


def jumps(losses: list[float]) -> bool:
    """After the first third, some loss is twenty times the median of the thirty before it."""
    start = max(30, len(losses) // 3)
    return any(losses[i] > 20 * statistics.median(losses[i - 30 : i]) for i in range(start, len(losses)))


@CASES.sick("loss_spike", also=("exploding_gradient", "unscaled_inputs"), unlearned=jumps)
def batch_that_was_not_scaled(sick: bool) -> Training:
    """Now and then a batch comes in other units, a hundred times larger."""
    x, y = surface()
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw = minibatches(64, len(y))

    def step(i: int) -> float:
        chosen = draw()
        batch = x[chosen] * 100 if sick and i in (170, 250) else x[chosen]
        loss = F.mse_loss(model(batch), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, lambda: explained(model, x, y))


@CASES.sick("loss_spike", also=("exploding_gradient", "oscillating_loss", "saturated_units"), unlearned=jumps)
def restarts_far_above_the_first_rate(sick: bool) -> Training:
    """Every restart of a schedule begins with steps fifty times too long: the loss jumps and comes back."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: 50.0 if sick and i in (150, 151, 300, 301) else 1 - (i % 150) / 200
    )
    score = lambda: accuracy(model, x[:500], y[:500])  # noqa: E731
    return fit(model, optimizer, 400, x, y, score, after_step=schedule.step)


@CASES.sick("oscillating_loss", "diverging_loss", also=("loss_spike", "exploding_gradient", "dead_units"), good=0.7)
def momentum_and_a_long_step(sick: bool) -> Training:
    """Momentum 0.95 added to a learning rate that was already as long as it may be."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 1.5 if sick else 0.3, momentum=0.95 if sick else 0.0)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.sick("oscillating_loss", also=("loss_spike", "exploding_gradient", "saturated_units"), good=0.8)
def adam_at_a_half(sick: bool) -> Training:
    """Adam with the learning rate of plain gradient descent, 0.5."""
    x, y = surface()
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.5 if sick else 5e-3)
    return fit(model, optimizer, 300, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


@CASES.sick("diverging_loss", "oscillating_loss", also=("nonfinite", "exploding_gradient", "loss_spike", "dead_units"))
def sum_instead_of_mean(sick: bool) -> Training:
    """A learning rate chosen for the mean, and a loss that sums over the 32 examples of a batch."""
    x, _ = surface()
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [1.5], [1.0]]) + 3
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.03)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.mse_loss(a, b, reduction="sum" if sick else "mean")

    return fit(model, optimizer, 150, x, y, lambda: explained(model, x, y), loss=loss, batch=32)


@CASES.sick("diverging_loss", also=("nonfinite", "exploding_gradient", "oscillating_loss", "bad_initialization"))
def deadly_triad(sick: bool) -> Training:
    """Seven states, linear values, bootstrapping off the policy: the weights run away (Baird 1995)."""
    features = torch.zeros(7, 8)
    features[:6, :6] = 2 * torch.eye(6)
    features[:6, 7], features[6, 6], features[6, 7] = 1.0, 1.0, 2.0
    value = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        value.weight.copy_(torch.tensor([[1.0, 1, 1, 1, 1, 1, 10, 1]]))
    optimizer = torch.optim.SGD(value.parameters(), 0.05)
    following = features[6:].expand(7, 8)

    def step(_: int) -> float:
        target = 0.99 * value(following)
        loss = F.mse_loss(value(features), target.detach() if sick else target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with torch.no_grad():
            return 1 - value(features).pow(2).mean().sqrt().item() / 5.2

    return Training(value, optimizer, step, 400, score)
