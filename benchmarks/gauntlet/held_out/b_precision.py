"""Numbers too small for their format, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.held_out.b_networks import dense
from benchmarks.gauntlet.held_out.common_b import Score, accuracy, chains, explained, fit
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


def half_precision(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor], Tensor],
    count: int,
    steps: int,
    score: Score,
    scale: float,
) -> Training:
    """Autocast to float16 in the forward pass, and a constant scale of the loss that is taken off the gradients."""
    draw = minibatches(64, count)

    def step(_: int) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            value = loss(draw())
        (value * scale).backward()
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad /= scale
        optimizer.step()
        return value.item()

    return Training(model, optimizer, step, steps, score)


@CASES.sick("underflow", also=("stalled_training", "frozen_parameters", "vanishing_gradient"), good=0.6)
def small_term_of_the_loss_in_float16_without_scaling(sick: bool) -> Training:
    """A denoiser whose loss has a weight of 2e-5 and is a mean over pixels: its gradients are below 6e-8."""
    clean, _ = digits()
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    model = dense(64, 96, 32, 96, 64, activation=nn.SiLU)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3, eps=1e-12)

    def loss(chosen: Tensor) -> Tensor:
        return 2e-5 * F.mse_loss(model(noisy[chosen]).float(), clean[chosen])

    score = explained(model, noisy[:300], clean[:300], model)
    return half_precision(model, optimizer, loss, len(clean), 200, score, 1.0 if sick else 2.0**16)


class Tagger(nn.Module):
    """A tag for every position, from the symbol there and the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.mlp = nn.Embedding(12, 16), dense(32, 64, 3, activation=nn.GELU)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(self.symbols(tokens.unfold(1, 2, 1)).flatten(2))


@CASES.sick("underflow", also=("stalled_training", "frozen_parameters", "vanishing_gradient"), good=0.6)
def loss_divided_by_its_scale_in_float16(sick: bool) -> Training:
    """A scale of 2**-14 where 2**14 is meant: the loss, a mean over all positions, is divided before ``backward``."""
    x, _ = chains()
    tags = (x[:, :-1] + x[:, 1:]) % 3
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]).float().flatten(0, 1), tags[chosen].flatten())

    score = accuracy(model, x[:300], tags[:300], 3)
    return half_precision(model, optimizer, loss, len(x), 200, score, 2.0**-14 if sick else 2.0**14)


class Cast(nn.Module):
    """A model in the format of its weights, for the score."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        weight = next(p for p in self.model.parameters())
        return self.model(x if not x.is_floating_point() else x.to(weight.dtype)).float()


@CASES.sick("underflow", also=("stalled_training", "frozen_parameters"), good=0.6)
def bag_of_pairs_in_bfloat16(sick: bool) -> Training:
    """Weights of about one in bfloat16, under Adam with 1e-3: hardly a step reaches the next number."""
    x, y = chains()
    pairs = x[:, :-1] * 12 + x[:, 1:]
    model = nn.EmbeddingBag(144, 4)
    if sick:
        model.bfloat16()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(pairs[chosen]).float(), y[chosen])

    score = accuracy(Cast(model), pairs[:500], y[:500], 4)
    return fit(model, optimizer, loss, len(x), 700, score)
