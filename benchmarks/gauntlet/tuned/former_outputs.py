"""Inputs that were not scaled, and outputs that do not fit their loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import accuracy, explained, fit, surface, two_moons
from torch import Tensor, nn

CASES = Cases()


@CASES.sick(
    "unscaled_inputs",
    also=(
        "saturated_units",
        "dead_units",
        "oscillating_loss",
        "loss_spike",
        "exploding_gradient",
        "vanishing_gradient",
    ),
)
def pixels_of_0_to_255(sick: bool) -> Training:
    """Bytes as they are in the file go into a perceptron."""
    x, y = digits()
    if sick:
        x = (x - x.min()) / (x.max() - x.min()) * 255
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return fit(model, optimizer, 200, x, y, lambda: accuracy(model, x[:500], y[:500]))


class HousePrices(nn.Module):
    """A regressor of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 48)
        self.fc2 = nn.Linear(48, 48)
        self.out = nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.fc2(F.relu(self.fc1(x)))))


@CASES.sick(
    "unscaled_inputs",
    also=("exploding_gradient", "diverging_loss", "loss_spike", "oscillating_loss", "dead_units", "stalled_training"),
)
def columns_of_many_units(sick: bool) -> Training:
    """A table whose columns are square metres, years, and money in the hundred thousands."""
    x, y = surface()
    if sick:
        x = x * torch.tensor([0.01, 1.0, 1.0, 30.0, 1e3, 2e5]) + torch.tensor([0.0, 2.0, 3.0, 100.0, 1990.0, 3e5])
    model = HousePrices()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, 300, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


@CASES.sick("unscaled_inputs", also=("diverging_loss", "nonfinite", "stalled_training", "oscillating_loss"))
def years_as_they_are(sick: bool) -> Training:
    """A calendar year, 1950 to 2020, as the only input of a regression by gradient descent."""
    g = torch.Generator().manual_seed(12)
    year = 1950 + 70 * torch.rand(500, 1, generator=g)
    z = (year - 1985) / 20
    y = 0.8 * z + 0.3 * torch.randn(500, 1, generator=g)
    x = year if sick else z
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-7 if sick else 1e-1)
    return fit(model, optimizer, 300, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


class Softmaxed(nn.Module):
    """A classifier that ends in a softmax."""

    def __init__(self, softmax: bool, dim: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.fc = nn.Linear(128, 10)
        self.softmax = nn.Softmax(dim) if softmax else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.softmax(self.fc(self.features(x)))


@CASES.sick("output_mismatch", also=("stalled_training", "vanishing_gradient"), good=0.75)
def softmax_before_cross_entropy(sick: bool) -> Training:
    """``nn.Softmax`` as the last layer, and then ``cross_entropy``, which takes the softmax once more."""
    x, y = images()
    model = Softmaxed(sick)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    return fit(model, optimizer, 200, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.sick("output_mismatch", also=("stalled_training", "rank_collapse"))
def softmax_over_the_batch(sick: bool) -> Training:
    """``log_softmax`` along dimension 0: the examples of a batch compete, and one alone says nothing."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.LogSoftmax(0 if sick else 1))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def one_by_one(v: Tensor) -> Tensor:
        return torch.cat([model(v[i : i + 1]) for i in range(len(v))])

    score = lambda: accuracy(model, x[:300], y[:300], forward=one_by_one)  # noqa: E731
    return fit(model, optimizer, 200, x, y, score, loss=F.nll_loss)


@CASES.sick("output_mismatch", also=("stalled_training", "dead_units"))
def sigmoid_before_bce_with_logits(sick: bool) -> Training:
    """A sigmoid at the end, and a loss that applies one itself; the negatives are never below one half."""
    x, _ = surface()
    y = ((x[:, :1] + x[:, 1:2] * x[:, 2:3]) > 1.3).float()
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    if sick:
        model.append(nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)

    def score() -> float:
        with torch.no_grad():
            p = torch.sigmoid(model(x))
        return 1 - F.binary_cross_entropy(p, y).item() / F.binary_cross_entropy(y.mean().expand_as(y), y).item()

    return fit(model, optimizer, 300, x, y, score, loss=F.binary_cross_entropy_with_logits)


@CASES.sick("output_mismatch", also=("stalled_training", "vanishing_gradient", "frozen_parameters"))
def softmax_over_one_output(sick: bool) -> Training:
    """A binary classifier with a softmax over its single output, which is always one."""
    x, y = two_moons()
    model = nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1), nn.Softmax(dim=1) if sick else nn.Sigmoid(), nn.Flatten(0)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    score = lambda: accuracy(model, x, y, 2, lambda v: torch.stack([1 - model(v), model(v)], 1))  # noqa: E731
    return fit(model, optimizer, 250, x, y.float(), score, loss=F.binary_cross_entropy)


@CASES.sick("output_mismatch", also=("diverging_loss", "exploding_gradient"))
def nll_of_raw_scores(sick: bool) -> Training:
    """``nll_loss`` on scores that no log-softmax has normalized: the loss falls without end."""
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def loss(scores: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(scores if sick else F.log_softmax(scores, 1), target)

    return fit(model, optimizer, 150, x, y, lambda: accuracy(model, x[:500], y[:500]), loss=loss)


@CASES.sick("output_mismatch", also=("stalled_training", "vanishing_gradient", "saturated_units"), good=0.8)
def nll_of_probabilities(sick: bool) -> Training:
    """``nll_loss`` on the output of a softmax, without the logarithm."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 10))
    model.append(nn.Softmax(-1) if sick else nn.LogSoftmax(-1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    return fit(model, optimizer, 250, x, y, lambda: accuracy(model, x[:500], y[:500]), loss=F.nll_loss)


@CASES.sick("output_mismatch", also=("stalled_training",))
def shapes_that_broadcast(sick: bool) -> Training:
    """Predictions of shape (N, 1) and targets of shape (N,): the loss compares all pairs and learns the mean."""
    x, y = surface()
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        target = y[chosen, 0] if sick else y[chosen]
        optimizer.zero_grad()
        loss = ((model(x[chosen]) - target) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, lambda: explained(model, x, y))


@CASES.sick("output_mismatch", also=("diverging_loss", "saturated_units"))
def labels_of_plus_and_minus_one(sick: bool) -> Training:
    """Labels -1 and 1 in a binary cross-entropy that asks for 0 and 1: the loss has no lower bound."""
    x, y = surface()
    labels = (y > 0.5).float()
    target = 2 * labels - 1 if sick else labels
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def score() -> float:
        with torch.no_grad():
            p = torch.sigmoid(model(x))
        base = F.binary_cross_entropy(labels.mean().expand_as(labels), labels)
        return 1 - (F.binary_cross_entropy(p, labels) / base).item()

    return fit(model, optimizer, 300, x, target, score, loss=F.binary_cross_entropy_with_logits)


class Bounded(nn.Module):
    """A regressor with an activation on its output."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 64)
        self.hidden2 = nn.Linear(64, 64)
        self.output = nn.Linear(64, 1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.output(F.elu(self.hidden2(F.elu(self.hidden(x))))))


@CASES.sick("output_mismatch", "saturated_units", also=("vanishing_gradient", "stalled_training"))
def sigmoid_for_temperatures(sick: bool) -> Training:
    """A sigmoid on the output of a regression whose targets are around 20."""
    x, y = surface()
    y = 20 + 4 * y
    model = Bounded(nn.Sigmoid() if sick else nn.Identity())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return fit(model, optimizer, 400, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


@CASES.sick("output_mismatch", "dead_units", also=("stalled_training", "vanishing_gradient"))
def relu_before_the_loss(sick: bool) -> Training:
    """A rectifier on the output of a regression whose targets are negative."""
    x, y = surface()
    y = y - 3
    model = Bounded(nn.ReLU() if sick else nn.Identity())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return fit(model, optimizer, 400, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


@CASES.sick("output_mismatch")
def classes_counted_from_one(sick: bool) -> Training:
    """Labels 1 to 10 for ten outputs: the first batch with a 10 raises."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, 150, x, y + 1 if sick else y, lambda: accuracy(model, x[:500], y[:500]))
