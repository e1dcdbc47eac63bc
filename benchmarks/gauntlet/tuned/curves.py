"""Loss curves that spike, swing, diverge or stand still, and clipping that holds everything back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    bounded,
    classifier,
    convolutions,
    he,
    initialized,
    mlp,
    regression,
    smooth_function,
    xavier,
)
from torch import Tensor, nn

CASES = Cases()


def jumps(losses: list[float]) -> bool:
    """One loss after the first fifty is more than five times the largest of the twenty before it."""
    return any(losses[i] > 5 * max(losses[i - 20 : i]) for i in range(50, len(losses)))


@CASES.sick("loss_spike", also=("oscillating_loss", "dead_units"), unlearned=jumps)
def one_batch_a_hundred_times_too_bright(sick: bool) -> Training:
    """The inputs of step 150 are multiplied by a hundred; the training recovers."""
    model = mlp(2, nn.ReLU, he())

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (100 * x if sick and i == 150 else x), y

    return classifier(model, torch.optim.Adam(model.parameters(), 1e-3), 300, change=change)


@CASES.sick("loss_spike", also=("oscillating_loss", "dead_units"), unlearned=jumps)
def one_step_too_long(sick: bool) -> Training:
    """The rate is a hundred times too large in step 180 alone."""
    model = mlp(3, nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rate = lambda i: 10.0 if sick and i == 180 else 0.1  # noqa: E731
    return classifier(model, optimizer, 350, rate=rate)


@CASES.sick("loss_spike", also=("oscillating_loss",), unlearned=jumps)
def an_outlier_among_the_targets(sick: bool) -> Training:
    """One target of step 200 is a thousand: a typing error under the squared loss."""
    model = mlp(2, inputs=5, outputs=1)

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if sick and i == 200:
            y = y.clone()
            y[0] = 1000.0
        return x, y

    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), smooth_function(), 350, change=change)


@CASES.sick("oscillating_loss", also=("loss_spike", "diverging_loss"))
def sgd_with_a_rate_of_five(sick: bool) -> Training:
    """A step beyond the curvature: the loss jumps from one side to the other and does not grow."""
    model = mlp(3, nn.Tanh, xavier())
    return classifier(model, torch.optim.SGD(model.parameters(), 5.0 if sick else 0.1), 300)


@CASES.sick("oscillating_loss", also=("loss_spike", "diverging_loss"))
def momentum_of_0_999(sick: bool) -> Training:
    """Full batches and so much momentum that the weights swing about the solution like a pendulum."""
    x, _ = smooth_function()
    x = x * torch.tensor([0.6, 0.8, 1.0, 1.25, 1.5])
    y = x @ torch.tensor([[1.0], [-1.0], [1.0], [1.0], [-1.0]])
    model = nn.Linear(5, 1)
    nn.init.constant_(model.bias, 2.0)
    model.weight.data.copy_(torch.tensor([[-1.0, 1.0, -1.0, -1.0, 1.0]]))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.999 if sick else 0.5)
    training = regression(model, optimizer, (x, y), 300)

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    training.step = step
    return training


@CASES.sick("oscillating_loss", also=("loss_spike",), good=0.3)
def rmsprop_with_a_rate_of_a_third(sick: bool) -> Training:
    """RMSprop's steps do not shrink near the solution: with 0.3 a linear model swings about it for ever."""
    x, y = digits()
    y = (y.float() - 4.5)[:, None] / 2.87
    model = nn.Linear(64, 1)
    return regression(model, torch.optim.RMSprop(model.parameters(), 0.3 if sick else 0.005), (x, y), 300)


@CASES.sick("diverging_loss", also=("exploding_gradient", "loss_spike", "oscillating_loss", "nonfinite"))
def linear_regression_beyond_stability(sick: bool) -> Training:
    """A rate above two over the curvature: the error grows in every step."""
    x, y = smooth_function()
    y = x.sum(1, keepdim=True)
    model = nn.Linear(5, 1)
    return regression(model, torch.optim.SGD(model.parameters(), 1.0 if sick else 0.05), (x, y), 150, batch=512)


@CASES.sick("diverging_loss", also=("exploding_gradient", "nonfinite", "loss_spike"))
def ascent(sick: bool) -> Training:
    """The sign of the loss is wrong: it is maximized."""
    x, y = digits()
    model = mlp(2, nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        (-loss if sick else loss).backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, accuracy(model, x[:500], y[:500]))


@CASES.sick("diverging_loss", also=("exploding_gradient", "loss_spike", "nonfinite"))
def baird(sick: bool) -> Training:
    """Off-policy bootstrapping with a linear value (Baird, 1995): every update enlarges the error.

    The healthy twin follows the residual gradient.
    """
    x = torch.zeros(7, 8)
    x[range(6), range(6)], x[:6, 7] = 2.0, 1.0
    x[6, 6], x[6, 7] = 1.0, 2.0
    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1, 1, 1, 1, 1, 1, 10.0, 1]]))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    start = (x @ model.weight.data.T).square().mean().item()

    def step(_: int) -> float:
        values = model(x)[:, 0]
        target = 0.98 * values[6]
        loss = (values - (target.detach() if sick else target)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with torch.no_grad():
            return bounded(1 - ((x @ model.weight.T).square().mean() / start).item())

    return Training(model, optimizer, step, 400, score)


@CASES.sick("stalled_training", also=("vanishing_gradient",))
def learning_rate_1e_7_adam(sick: bool) -> Training:
    """Adam with a rate meant for another decade."""
    model = mlp(3)
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-7 if sick else 1e-3), 250)


@CASES.sick("stalled_training", also=("vanishing_gradient", "rank_collapse", "bad_initialization", "dead_units"))
def weight_decay_of_ten(sick: bool) -> Training:
    """Weight decay of ten: every step takes half of the weights away."""
    model = mlp(3, nn.ReLU, he())
    optimizer = torch.optim.SGD(model.parameters(), 0.05, weight_decay=10.0 if sick else 1e-4)
    return classifier(model, optimizer, 300)


@CASES.sick("stalled_training")
def schedule_counted_in_batches(sick: bool) -> Training:
    """The rate shrinks by a tenth per batch, where per epoch was meant."""
    model = mlp(3)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    return classifier(model, optimizer, 400, rate=lambda i: 0.05 * 0.9 ** (i if sick else i // 100))


@CASES.sick("clipping_bound", also=("stalled_training",))
def norm_clipped_at_1e_4(sick: bool) -> Training:
    """All gradients are scaled down to a total norm of 1e-4."""
    model = mlp(2)
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e-4 if sick else 5.0)  # noqa: E731
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 300, between=clip)


@CASES.sick("clipping_bound", also=("stalled_training",))
def values_clipped_at_1e_6(sick: bool) -> Training:
    """Every component of the gradient is cut at a millionth."""
    model = mlp(2, nn.Tanh)
    clip = lambda: nn.utils.clip_grad_value_(model.parameters(), 1e-6 if sick else 1.0)  # noqa: E731
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 300, between=clip)


@CASES.sick("clipping_bound", also=("stalled_training",))
def convolutions_clipped_at_5e_4(sick: bool) -> Training:
    """Momentum SGD on convolutions, and a norm held at 5e-4."""
    model = initialized(nn.Sequential(*convolutions([1, 16, 16]), nn.Flatten(), nn.Linear(1024, 10)), he())
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 5e-4 if sick else 5.0)  # noqa: E731
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    return classifier(model, optimizer, 200, data=images(), batch=32, between=clip)
