"""Well: unusual batches, steps and schedules."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.practice.well_common import loop
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, convolutions, language, mlp, pooled_head
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, OneCycleLR

CASES = Cases()


@CASES.healthy(good=0.6)
def one_example_at_a_time() -> Training:
    """Plain stochastic gradient descent as of old: batches of one, losses all over the place."""
    model = mlp(1, nn.Tanh)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 400, batch=1)


@CASES.healthy(good=0.8)
def lbfgs_on_all_data() -> Training:
    """Softmax regression by L-BFGS with line search, all examples at every step."""
    x, y = digits()
    model = nn.Linear(64, 10)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) + 1e-3 * model.weight.square().sum()
        loss.backward()
        return loss

    def step(_: int) -> float:
        return float(optimizer.step(closure))

    return Training(model, optimizer, step, 25, accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.8)
def rate_of_one_with_batch_norm() -> Training:
    """SGD at a rate of 1.0; batch norm after every convolution makes that a moderate step."""
    x, y = images()
    layers = convolutions([1, 16, 16, 32], norm=nn.BatchNorm2d)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.bias = None
    model = nn.Sequential(*layers, *pooled_head(32))
    draw = minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.cross_entropy(model(x[chosen]), y[chosen])

    def warm(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 20))

    optimizer = torch.optim.SGD(model.parameters(), 1.0, weight_decay=1e-4)
    return loop(model, optimizer, loss, 150, accuracy(model, x[:500], y[:500]), schedule=warm)


@CASES.healthy(good=0.8)
def one_cycle_with_dropout() -> Training:
    """One cycle up to 0.02 and down again, with 60 % dropout."""
    x, y = digits()
    model = nn.Sequential(
        nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.6), nn.Linear(128, 128), nn.BatchNorm1d(128)
    ).extend([nn.ReLU(), nn.Dropout(0.6), nn.Linear(128, 10)])
    draw = minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.cross_entropy(model(x[chosen]), y[chosen])

    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    score = accuracy(model, x[:500], y[:500])
    return loop(model, optimizer, loss, 200, score, schedule=lambda o: OneCycleLR(o, 0.02, total_steps=201))


@CASES.healthy(good=0.8)
def warm_restarts_with_momentum() -> Training:
    """The rate falls along a cosine and jumps back at 60 and 180 steps; small losses are rougher just after."""
    x, y = digits()
    model = mlp(3, nn.ReLU)
    draw = minibatches(32, len(y))
    optimizer = torch.optim.SGD(model.parameters(), 0.04, momentum=0.9, nesterov=True)

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.cross_entropy(model(x[chosen]), y[chosen])

    score = accuracy(model, x[:500], y[:500])
    return loop(model, optimizer, loss, 360, score, schedule=lambda o: CosineAnnealingWarmRestarts(o, 60, 2))


@CASES.healthy(good=0.8)
def step_after_every_fourth_batch() -> Training:
    """Gradients of four batches of eight are averaged; three steps in four leave the weights where they are."""
    x, y = digits()
    model = mlp(2, nn.GELU)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    draw = minibatches(8, len(y))

    def step(i: int) -> float:
        chosen = draw()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        (loss / 4).backward()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    return Training(model, optimizer, step, 400, accuracy(model, x[:500], y[:500]))


class Gru(nn.Module):
    """Embedding, GRU, linear."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(24, 32)
        self.gru = nn.GRU(32, width, batch_first=True)
        self.head = nn.Linear(width, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(x))[0])


@CASES.healthy(good=0.5)
def clipped_in_nearly_every_step_under_adam() -> Training:
    """A GRU on text with the small norm of 0.1, which nearly all gradients exceed; Adam rescales anyway."""
    model = Gru()
    return language(model, torch.optim.Adam(model.parameters(), 1e-2), 250, batch=32, clip=0.1)


@CASES.healthy(good=0.8)
def lookahead_every_five_steps() -> Training:
    """Fast weights go back half way to slow ones at every fifth step."""
    x, y = digits()
    model = mlp(2, nn.ReLU, width=96)
    slow = [p.detach().clone() for p in model.parameters()]
    draw = minibatches(48, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.cross_entropy(model(x[chosen]), y[chosen])

    @torch.no_grad()
    def after(i: int) -> None:
        if i % 5 == 4:
            for fast, anchor in zip(model.parameters(), slow, strict=True):
                anchor.lerp_(fast, 0.5)
                fast.copy_(anchor)

    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return loop(model, optimizer, loss, 180, accuracy(model, x[:500], y[:500]), after=after)


@CASES.healthy(good=0.8)
def averaged_weights_at_a_constant_rate() -> Training:
    """Stochastic weight averaging in the last half; the average is scored."""
    x, y = digits()
    model = mlp(2, nn.ReLU)
    average = torch.optim.swa_utils.AveragedModel(model)
    draw = minibatches(16, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.cross_entropy(model(x[chosen]), y[chosen])

    def after(i: int) -> None:
        if i >= 150 and i % 5 == 0:
            average.update_parameters(model)

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return loop(model, optimizer, loss, 300, accuracy(average, x[:500], y[:500]), after=after)


@CASES.healthy(good=0.8)
def evaluates_keeps_the_best_and_goes_back() -> Training:
    """Every forty steps: evaluation without gradient; the best weights are kept, and loaded before the last phase."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.3), nn.Linear(96, 96), nn.ReLU())
    model.append(nn.Linear(96, 10))
    draw = minibatches(32, len(y) - 500)
    best: dict[str, object] = {"loss": float("inf"), "state": copy.deepcopy(model.state_dict())}
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def loss(_: int) -> Tensor:
        chosen = 500 + draw()
        return F.cross_entropy(model(x[chosen]), y[chosen])

    def after(i: int) -> None:
        if i % 40 == 39:
            model.eval()
            with torch.no_grad():
                held = F.cross_entropy(model(x[:500]), y[:500]).item()
            model.train()
            if held < best["loss"]:  # type: ignore[operator]
                best.update(loss=held, state=copy.deepcopy(model.state_dict()))
        if i == 199:
            model.load_state_dict(best["state"])  # type: ignore[arg-type]
            optimizer.param_groups[0]["lr"] = 2e-4

    return loop(model, optimizer, loss, 260, accuracy(model, x[:500], y[:500]), after=after)
