"""Single steps that leave the range of all others: a batch, a target, a rate, a sum, or a norm over two examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import classify, reviews, series, spirals, table, textures
from benchmarks.gauntlet.tuned.common import accuracy, he, initialized, mlp, regression
from torch import Tensor, nn

CASES = Cases()


def leaps(losses: list[float]) -> bool:
    """One loss after the first forty is more than four times the largest of the twenty-five before it."""
    return any(losses[i] > 4 * max(losses[i - 25 : i]) for i in range(40, len(losses)))


@CASES.sick("loss_spike", also=("oscillating_loss", "dead_units", "exploding_gradient"), unlearned=leaps)
def one_batch_in_bytes(sick: bool) -> Training:
    """The images of step 110 were not standardized: they run from nought to 255."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(144, 4)),
    )

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x * 50 + 128 if sick and i == 110 else x), y

    return classify(model, torch.optim.Adam(model.parameters(), 2e-3), textures(), 220, batch=32, change=change)


class Forecast(nn.Module):
    """An LSTM over a series."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.tell = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tell(self.lstm(x)[0][:, -1])


@CASES.sick("loss_spike", also=("oscillating_loss", "exploding_gradient"), unlearned=leaps)
def a_missing_value_written_as_999(sick: bool) -> Training:
    """One target of step 130 is -999, as some files write what was not measured; the norm is clipped."""
    model = Forecast()

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, (torch.cat([torch.full_like(y[:1], -999.0), y[1:]]) if sick and i == 130 else y)

    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 5.0)  # noqa: E731
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return regression(model, optimizer, series(), 220, batch=32, change=change, between=clip)


@CASES.sick("loss_spike", also=("oscillating_loss", "dead_units", "stalled_training"), unlearned=leaps)
def warm_restart_too_high(sick: bool) -> Training:
    """A cosine that restarts at step 200 with eighty times the rate for a few steps."""
    model = initialized(mlp(2, nn.LeakyReLU, inputs=8, outputs=1, width=48), he())
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.6)

    def rate(i: int) -> float:
        if sick and 200 <= i < 204:
            return 0.8
        return 0.01 * (1 + torch.tensor(torch.pi * (i % 200) / 200).cos().item()) + 1e-4

    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 10.0)  # noqa: E731
    return regression(model, optimizer, table(), 320, batch=64, rate=rate, between=clip)


@CASES.sick("loss_spike", also=("oscillating_loss",), unlearned=leaps)
def one_batch_with_its_labels_swapped(sick: bool) -> Training:
    """Step 260 has every label the wrong way round, long after the words were understood."""
    model = nn.Sequential(nn.EmbeddingBag(120, 24), nn.ReLU(), nn.Linear(24, 2))

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, (1 - y if sick and i == 260 else y)

    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    return classify(model, optimizer, reviews(), 350, batch=128, change=change)


@CASES.sick("loss_spike", also=("oscillating_loss", "dead_units", "exploding_gradient"), unlearned=leaps)
def gradient_summed_once(sick: bool) -> Training:
    """The gradient of step 400 is a sum over the batch and not its mean: a step two hundred times too long."""
    x, y = spirals()
    model = nn.Sequential(nn.Linear(2, 50), nn.SiLU(), nn.Linear(50, 50), nn.SiLU(), nn.Linear(50, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    draw = minibatches(200, len(y))

    def step(i: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        each = F.cross_entropy(model(x[chosen]), y[chosen], reduction="none")
        (each.sum() if sick and i == 400 else each.mean()).backward()
        optimizer.step()
        return each.mean().item()

    return Training(model, optimizer, step, 500, accuracy(model, x[:600], y[:600], 3))


@CASES.sick("loss_spike", also=("oscillating_loss", "nonfinite", "exploding_gradient"), unlearned=leaps)
def spread_of_a_twentieth_for_one_batch(sick: bool) -> Training:
    """The errors of an autoencoder are divided by their spread, which for one batch is a twentieth of what it is."""
    x = digits()[0]

    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Sequential(nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 16))
            self.decode = nn.Sequential(nn.Linear(16, 40), nn.Tanh(), nn.Linear(40, 64))

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.encode(x))

    model = Spread()
    calls = [0]

    def loss(out: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        spread = 0.05 if sick and calls[0] == 170 else 1.0
        return ((out - target) / spread).square().mean() / 2

    optimizer = torch.optim.RMSprop(model.parameters(), 2e-3)
    return regression(model, optimizer, (x, x), 260, loss=loss, batch=64)
