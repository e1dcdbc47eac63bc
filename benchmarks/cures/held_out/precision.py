"""Numbers too small for their format, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, bounded, drawn, explained
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.b_networks import dense
from benchmarks.gauntlet.held_out.b_precision import Tagger
from benchmarks.gauntlet.held_out.common_b import chains
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("underflow", "stalled_training", "vanishing_gradient")
def small_term_of_the_loss_in_float16_without_scaling(sick: bool) -> Recipe:
    """A denoiser whose loss has a weight of 2e-5 and is a mean over pixels: its gradients are below 6e-8."""
    clean, _ = digits()
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return Recipe(
        model=lambda: dense(64, 96, 32, 96, 64, activation=nn.SiLU),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 5e-3, eps=1e-12),
        loss=lambda outputs, targets: 2e-5 * F.mse_loss(outputs.float(), targets),
        batches=drawn(noisy[HELD:], clean[HELD:]),
        evaluate=explained(noisy[:HELD], clean[:HELD]),
        steps=200,
        autocast=torch.float16,
        scaler=not sick,
    )


@CASES.sick("underflow", "stalled_training", "vanishing_gradient")
def loss_divided_by_its_scale_in_float16(sick: bool) -> Recipe:
    """A scale of 2**-14 where 2**14 is meant: the loss, a mean over all positions, is divided before ``backward``."""
    x, _ = chains()
    tags = (x[:, :-1] + x[:, 1:]) % 3
    scale = 2.0**-14 if sick else 2.0**14

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, batch: Any) -> float:
        tokens, targets = batch
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            value = loss(model(tokens), targets)
        (value * scale).backward()
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad /= scale
        optimizer.step()
        return value.item()

    def evaluate(model: nn.Module) -> float:
        right = (model(x[:HELD]).argmax(-1) == tags[:HELD]).float().mean().item()
        return bounded((3 * right - 1) / 2)

    return Recipe(
        model=Tagger,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 5e-3),
        loss=lambda outputs, targets: F.cross_entropy(outputs.float().flatten(0, 1), targets.flatten()),
        batches=drawn(x[HELD:], tags[HELD:]),
        evaluate=evaluate,
        steps=200,
        step=step,
    )


@CASES.sick("underflow", "stalled_training")
def bag_of_pairs_in_bfloat16(sick: bool) -> Recipe:
    """Weights of about one in bfloat16, under Adam with 1e-3: hardly a step reaches the next number."""
    x, y = chains()
    pairs = x[:, :-1] * 12 + x[:, 1:]

    def model() -> nn.Module:
        made = nn.EmbeddingBag(144, 4)
        return made.bfloat16() if sick else made

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.float(), targets)

    def evaluate(model: nn.Module) -> float:
        right = (model(pairs[:HELD]).argmax(1) == y[:HELD]).float().mean().item()
        return bounded((4 * right - 1) / 3)

    return Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-3),
        loss=loss,
        batches=drawn(pairs[HELD:], y[HELD:]),
        evaluate=evaluate,
        steps=700,
    )
