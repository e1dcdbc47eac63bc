"""Steps that are too short, clipped away, rounded away, or that some parameters never get."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import accuracy, explained, fit, surface
from torch import Tensor, nn

CASES = Cases()


def perceptron(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation in between."""
    model = nn.Sequential()
    for a, b in pairwise(widths):
        model.append(nn.Linear(a, b)).append(activation())
    return model[:-1]


class SmallCnn(nn.Module):
    """Two convolutions with batch norm, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@CASES.sick("stalled_training")
def fine_tuning_rate_from_scratch(sick: bool) -> Training:
    """AdamW with the rate for fine-tuning a large model, 2e-6, on a network that knows nothing yet."""
    x, y = images()
    model = SmallCnn()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-6 if sick else 2e-3)
    return fit(model, optimizer, 150, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.sick("stalled_training")
def schedule_stepped_by_the_batch(sick: bool) -> Training:
    """An exponential decay of 0.7, meant for every epoch, is stepped after every batch: over in twenty steps."""
    x, y = digits()
    model = perceptron(64, 64, 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    done = iter(range(1, 10_000))

    def after() -> None:
        if sick or next(done) % 100 == 0:
            schedule.step()

    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500]), after_step=after)


@CASES.sick("stalled_training", also=("rank_collapse", "vanishing_gradient"))
def weight_decay_of_a_half(sick: bool) -> Training:
    """Weight decay 0.5 instead of 5e-4: the weights are held at nothing and the loss at that of a guess."""
    x, y = digits()
    model = perceptron(64, 64, 64, 10, activation=nn.SiLU)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.5 if sick else 5e-4)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.sick("stalled_training")
def warm_up_by_integer_division(sick: bool) -> Training:
    """A linear warm-up written with ``//``: the learning rate is zero for the whole of the training."""
    x, y = surface()
    model = perceptron(6, 64, 64, 1, activation=nn.GELU)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: i // 1000 if sick else min(1.0, (i + 1) / 20))
    score = lambda: explained(model, x, y)  # noqa: E731
    return fit(model, optimizer, 250, x, y, score, loss=F.mse_loss, after_step=schedule.step)


@CASES.sick("clipping_bound", also=("stalled_training",))
def clipped_to_a_ten_thousandth(sick: bool) -> Training:
    """Gradients clipped to a norm of 1e-4 under plain gradient descent."""
    x, y = images()
    model = SmallCnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def clip() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1e-4 if sick else 5.0)

    return fit(model, optimizer, 150, x, y, lambda: accuracy(model, x[:500], y[:500]), before_step=clip)


@CASES.sick("clipping_bound", also=("stalled_training",))
def every_value_clipped(sick: bool) -> Training:
    """``clip_grad_value_`` of 1e-5 by a misread default."""
    x, y = surface()
    model = perceptron(6, 64, 64, 1, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def clip() -> None:
        torch.nn.utils.clip_grad_value_(model.parameters(), 1e-5 if sick else 1.0)

    score = lambda: explained(model, x, y)  # noqa: E731
    return fit(model, optimizer, 300, x, y, score, loss=F.mse_loss, before_step=clip)


@CASES.sick("clipping_bound", also=("stalled_training",))
def clipped_before_unscaling(sick: bool) -> Training:
    """Gradients clipped while they still carry the loss scale of 65,536: what is left of them is nothing."""
    x, y = digits()
    model = perceptron(64, 96, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        scaler.scale(loss).backward()
        if not sick:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return Training(model, optimizer, step, 200, lambda: accuracy(model, x[:500], y[:500]))


@CASES.sick("underflow", also=("stalled_training", "vanishing_gradient"))
def half_precision_without_loss_scaling(sick: bool) -> Training:
    """Autocast to float16, a loss of weight 1e-4: gradients below 6e-8 become zero (Micikevicius et al. 2018)."""
    x, _ = digits()
    model = perceptron(64, 64, 24, 64, 64)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=not sick)
    draw = minibatches(256, len(x))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = 1e-4 * F.mse_loss(model(x[chosen]).float(), x[chosen])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return Training(model, optimizer, step, 150, lambda: explained(model, x[:500], x[:500]))


@CASES.sick("underflow", also=("stalled_training",))
def brain_float_weights(sick: bool) -> Training:
    """The whole network in bfloat16, with updates smaller than half a unit in the last place of the weights."""
    x, y = digits()
    kind = torch.bfloat16 if sick else torch.float32
    model = perceptron(64, 192, 10)
    for p in model.parameters():
        if p.dim() > 1:
            p.data = p.data.sign() * (2 / p.shape[1]) ** 0.5
    model = model.to(kind)
    optimizer = torch.optim.Adam(model.parameters(), 1.5e-4)
    score = lambda: accuracy(model, x[:500].to(kind), y[:500])  # noqa: E731
    return fit(model, optimizer, 400, x.to(kind), y, score)


@CASES.sick("underflow", "nonfinite")
def adam_epsilon_in_half_precision(sick: bool) -> Training:
    """``model.half()`` and Adam: squared gradients and an epsilon of 1e-8 are zero in float16, zero by zero is not."""
    x, y = digits()
    kind = torch.float16 if sick else torch.float32
    model = perceptron(64, 64, 10).to(kind)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    score = lambda: accuracy(model, x[:500].to(kind), y[:500])  # noqa: E731
    return fit(model, optimizer, 200, x.to(kind), y, score)
