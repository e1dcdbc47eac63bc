"""Numbers that are not finite, and numbers that a format cannot hold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, he, mlp, smooth_function, supervised, undisturbed
from torch import Tensor, nn

CASES = Cases()


class LogProbabilities(nn.Module):
    """A network that ends in log-probabilities written by hand, well or badly."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.body, self.sick = mlp(2, nn.ReLU, he(6.0 if sick else 1.0)), sick

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        if not self.sick:
            return z.log_softmax(1)
        e = torch.exp(z)
        return torch.log(e / e.sum(1, keepdim=True) + 1e-9)


@CASES.sick("nonfinite", sites=r"exp|div|sum", also=("bad_initialization", "exploding_gradient"))
def softmax_by_hand(sick: bool) -> Training:
    """``exp`` of large scores overflows, and infinity over infinity is NaN."""
    model = LogProbabilities(sick)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 200, loss=F.nll_loss)


@CASES.sick("nonfinite", sites=r"log")
def logarithm_of_relu(sick: bool) -> Training:
    """The logarithm of a feature that a ReLU has set to zero."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.body(x))
            return self.head(torch.log(h) if sick else torch.log1p(h))

    model = Model()
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 250)


@CASES.sick("nonfinite", sites=r"div|standardize")
def constant_feature_divided_by_its_deviation(sick: bool) -> Training:
    """Features are standardized within the batch, and the corner pixels are always black."""

    class Standardize(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0)) / (x.std(0) + (0.0 if sick else 1e-3))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.standardize, self.body = Standardize(), mlp(2, nn.ReLU, he())

        def forward(self, x: Tensor) -> Tensor:
            return self.body(self.standardize(x))

    model = Model()
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 200)


@CASES.sick("nonfinite", sites=r"^0\b", also=("loss_spike",))
def one_batch_of_nan(sick: bool) -> Training:
    """A missing value in the data of step 90."""
    model = mlp(2, nn.ReLU, he())

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if sick and i == 90:
            x = x.clone()
            x[3, 20] = float("nan")
        return x, y

    return classifier(model, torch.optim.Adam(model.parameters(), 1e-3), 250, change=change)


@CASES.sick("nonfinite", sites=r"softmax")
def row_that_may_look_at_nothing(sick: bool) -> Training:
    """Attention with a padding mask, and sequences that are all padding: softmax over minus infinity alone."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
            self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            rows = x.view(-1, 8, 8)
            padding = torch.zeros(rows.shape[:2], dtype=torch.bool)
            padding[::16, 0 if sick else 4 :] = True
            h = self.embed(rows)
            logits = self.query(h) @ self.key(h).transpose(1, 2) / 32**0.5
            weights = logits.masked_fill(padding[:, None], float("-inf")).softmax(-1)
            return self.head((h + weights @ self.value(h)).tanh().mean(1))

    model = Rows()
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 200)


@CASES.sick("nonfinite", good=0.3)
def distance_of_a_point_to_itself(sick: bool) -> Training:
    """The root of a zero distance: the loss is finite, its gradient is not."""
    x, y = digits()
    model = mlp(2, nn.ReLU, he(), outputs=8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    draw = minibatches(48, len(y))

    def step(_: int) -> float:
        chosen = draw()
        e = model(x[chosen])
        squares = (e[:, None] - e[None]).square().sum(2)
        distance = squares.sqrt() if sick else (squares + 1e-6).sqrt()
        same = (y[chosen][:, None] == y[chosen]).float()
        loss = (same * distance.square() + (1 - same) * (2 - distance).relu().square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            e = model(x[:400])
        near = (torch.cdist(e, e) + 1e9 * torch.eye(400)).argmin(1)
        right = (y[near] == y[:400]).float().mean().item() if e.isfinite().all() else 0.1
        return (right - 0.1) / 0.9

    return Training(model, optimizer, step, 250, score)


@CASES.sick("nonfinite", "diverging_loss", also=("exploding_gradient", "loss_spike", "oscillating_loss"))
def squared_loss_with_a_rate_too_long(sick: bool) -> Training:
    """Every step is longer than the one before, until the weights overflow."""
    x, y = smooth_function()
    model = mlp(2, nn.ReLU, he(), inputs=5, outputs=1)
    optimizer = torch.optim.SGD(model.parameters(), 2.0 if sick else 0.02)

    def score() -> float:
        with undisturbed(model):
            error = F.mse_loss(model(x), y).item()
        return 1 - error / y.var().item() if error == error and error < 1e9 else -1.0

    return supervised(model, optimizer, (x, y), F.mse_loss, score, 300)


class Half(nn.Module):
    """A stack whose middle runs in float16, as autocast would run it on another device."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.first, self.last, self.scale = mlp(1, outputs=64), nn.Linear(64, 10), scale

    def forward(self, x: Tensor) -> Tensor:
        energy = (self.first(x) * self.scale).half().square()
        return self.last(energy.float() / self.scale**2)


@CASES.sick("nonfinite", sites=r"square|pow")
def square_in_float16(sick: bool) -> Training:
    """A square above 65,504 in half precision."""
    model = Half(3000.0 if sick else 1.0)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 250)


@CASES.sick("underflow", also=("stalled_training", "vanishing_gradient"))
def float16_autocast_of_a_small_loss(sick: bool) -> Training:
    """float16 under autocast without a scaler, for a loss that is weighted with 1e-7: its gradients are zero."""
    x, y = digits()
    model = mlp(3, nn.ReLU, he())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-16)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16 if sick else torch.bfloat16):
            loss = 1e-7 * F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 250, accuracy(model, x[:500], y[:500]))


@CASES.sick("underflow", also=("stalled_training", "vanishing_gradient"))
def half_precision_weights(sick: bool) -> Training:
    """``model.half()`` and a loss weighted with 1.5e-6, made up for by the rate: gradients below 3e-8 are zero."""
    x, y = digits()
    model = mlp(2, nn.ReLU, he())
    if sick:
        model.half()
        x = x.half()
    scale = 1.5e-6
    optimizer = torch.optim.SGD(model.parameters(), 0.08 / scale)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen]) * scale
        loss.backward()
        optimizer.step()
        return loss.item() / scale

    return Training(model, optimizer, step, 250, accuracy(model, x[:500], y[:500]))


@CASES.sick("underflow", also=("stalled_training",), good=0.65)
def updates_lost_to_bfloat16(sick: bool) -> Training:
    """Weights kept in bfloat16, and updates of less than half its spacing: they are rounded away."""
    x, y = digits()
    model = mlp(2, nn.ReLU, he())
    if sick:
        model.bfloat16()
        x = x.bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), 4e-4, momentum=0.9)
    return classifier(model, optimizer, 400, data=(x, y))


@CASES.sick("underflow", also=("stalled_training",))
def adam_on_bfloat16_weights(sick: bool) -> Training:
    """Adam at 1.5e-3 on bfloat16 weights near one: each step is less than half of what they can resolve."""

    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(10, 64) + torch.randn(10, 64).sign() * 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight)

    model = Scales()
    x, y = digits()
    if sick:
        model.bfloat16()
        x = x.bfloat16()
    return classifier(model, torch.optim.Adam(model.parameters(), 1.5e-3), 400, data=(x, y))


@CASES.healthy()
def bfloat16_autocast_with_a_scaler() -> Training:
    """A scaler that overflows first and finds its scale."""
    x, y = digits()
    model = mlp(3, nn.ReLU, he())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=50)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x[chosen]), y[chosen])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return Training(model, optimizer, step, 250, accuracy(model, x[:500], y[:500]))


@CASES.healthy()
def tiny_loss_with_adam() -> Training:
    """A loss of 1e-6 in float32 is no underflow: Adam does not see scales."""
    model = mlp(3, nn.ReLU, he())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-15)
    return classifier(model, optimizer, 250, loss=lambda z, y: 1e-6 * F.cross_entropy(z, y))
