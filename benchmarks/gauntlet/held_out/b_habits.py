"""Ways of training that look odd in their curves and are well."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense, small_cnn
from benchmarks.gauntlet.held_out.common_b import accuracy, chains, explained, fit, language, tidy_houses
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.7)
def gradients_of_four_batches_to_a_step() -> Training:
    """Accumulation: the loss of each batch is divided by four, and the optimizer moves at every fourth."""
    x, y = images()
    model = small_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    draw = minibatches(16, len(x))

    def step(i: int) -> float:
        chosen = draw()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        (loss / 4).backward()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    return Training(model, optimizer, step, 320, accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.7)
def cosine_with_warm_restarts() -> Training:
    """SGD with Nesterov momentum; the rate falls along a cosine and starts anew after 60 and 180 steps."""
    x, y = digits()
    model = dense(64, 96, 96, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 60, 2, eta_min=5e-4)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    plain = fit(model, optimizer, loss, len(x), 300, accuracy(model, x[:500], y[:500]))

    def step(i: int) -> float:
        value = plain.step(i)
        schedule.step()
        return value

    return Training(model, optimizer, step, plain.steps, plain.score)


@CASES.healthy(good=0.6)
def one_example_at_a_time() -> Training:
    """SGD with batches of one: single losses leap, their mean falls."""
    x, y = digits()
    model = dense(64, 48, 10, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 1500, accuracy(model, x[:500], y[:500]), batch=1)


@CASES.healthy(good=0.7)
def all_examples_at_once() -> Training:
    """Full batches under Adam: a curve without any noise."""
    x, y = tidy_houses()
    model = dense(6, 64, 64, 1, activation=nn.GELU)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 200, explained(model, x, y, model))


@CASES.healthy(good=0.7)
def arithmetic_in_bfloat16() -> Training:
    """Autocast to bfloat16 with weights in float32, in a network with layer norms."""
    x, y = chains()
    body = [nn.Embedding(12, 16), nn.Flatten(), nn.Linear(384, 96), nn.LayerNorm(96), nn.GELU()]
    model = nn.Sequential(*body, nn.Dropout(0.1), nn.Linear(96, 4))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)

    def loss(chosen: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 250, accuracy(model, x[:500], y[:500], 4), batch=32)


@CASES.healthy(good=0.7)
def clipping_of_rare_large_gradients() -> Training:
    """Targets with heavy tails under a squared loss; the limit holds the few large gradients that they make."""
    x, y = tidy_houses()
    g = torch.Generator().manual_seed(15)
    tails = torch.randn(y.shape, generator=g)
    heavy = tails / (torch.randn(len(y), 3, generator=g).square().mean(1, keepdim=True)).sqrt()
    noisy = y + 0.3 * heavy.clamp(-8, 8)
    model = dense(6, 48, 48, 1, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(x[chosen]), noisy[chosen])

    score = explained(model, x[:1000], y[:1000], model)
    between = lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.5)  # noqa: E731
    return fit(model, optimizer, loss, len(x), 350, score, batch=32, between=between)


@CASES.healthy(good=0.7)
def averaged_weights_beside_the_trained_ones() -> Training:
    """An exponential average of the weights is kept and scored; only the other network is trained."""
    x, y = digits()
    model = dense(64, 64, 64, 10, activation=nn.SiLU)
    mean = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    g = torch.Generator().manual_seed(4)

    def loss(chosen: Tensor) -> Tensor:
        with torch.no_grad():
            for old, new in zip(mean.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 0.05)
        noise = 0.3 * torch.randn(len(chosen), 64, generator=g)
        return F.cross_entropy(model(x[chosen] + noise), y[chosen], label_smoothing=0.1)

    return fit(model, optimizer, loss, len(x), 250, accuracy(mean, x[:500], y[:500]))


@CASES.healthy(good=0.7)
def cyclic_rate_of_a_language_model() -> Training:
    """A GRU under a rate that rises and falls three times between a tenth and the whole."""
    model = RecurrentText(nn.GRU)
    optimizer = torch.optim.Adam(model.parameters(), 6e-3)
    return language(model, optimizer, 210, rate=lambda i: 0.1 + 0.9 * abs((i % 70) / 35 - 1))
