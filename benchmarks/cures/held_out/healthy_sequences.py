"""Language models, readers of sequences and odd ways of training that need nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, accuracy, digit_recipe, drawn, language_recipe
from benchmarks.gauntlet.held_out.b_language import Reader, TiedText
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, SmallGPT, small_cnn
from benchmarks.gauntlet.held_out.common_b import chains, warm_cosine
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.healthy()
def gpt_with_warm_up_and_cosine() -> Recipe:
    """Three pre-norm blocks with dropout, AdamW with two groups of weight decay, clipping at one."""

    def optimizer(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        every = list(parameters)
        groups = [
            {"params": [p for p in every if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in every if p.dim() == 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, 4e-3, betas=(0.9, 0.95))

    return language_recipe(
        lambda: SmallGPT(3, dropout=0.05),
        optimizer,
        220,
        clip=1.0,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, warm_cosine(220, 20)),
    )


@CASES.healthy()
def lstm_of_two_layers_with_dropout_and_clipping() -> Recipe:
    """Clipping at a norm that the early steps reach and the later ones do not."""
    return language_recipe(
        lambda: RecurrentText(nn.LSTM, num_layers=2, dropout=0.1),
        lambda parameters: torch.optim.Adam(parameters, 8e-3),
        250,
        clip=0.2,
    )


@CASES.healthy()
def gru_with_tied_embeddings_under_rmsprop() -> Recipe:
    """One matrix for the symbols at the input and at the output."""
    return language_recipe(TiedText, lambda parameters: torch.optim.RMSprop(parameters, 3e-3), 250)


@CASES.healthy()
def post_norm_transformer_with_warm_up() -> Recipe:
    """Which chain wrote a sequence, as the transformer of 2017 reads it."""
    x, y = chains()
    return Recipe(
        model=Reader,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 2e-3, betas=(0.9, 0.98)),
        loss=nn.CrossEntropyLoss(label_smoothing=0.05),
        batches=drawn(x[HELD:], y[HELD:], 32),
        evaluate=accuracy(x[:HELD], y[:HELD], 4),
        steps=160,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, warm_cosine(160, 30)),
    )


@CASES.healthy()
def arithmetic_in_bfloat16() -> Recipe:
    """Autocast to bfloat16 with weights in float32, in a network with layer norms."""
    x, y = chains()
    return Recipe(
        model=lambda: nn.Sequential(
            *[nn.Embedding(12, 16), nn.Flatten(), nn.Linear(384, 96), nn.LayerNorm(96), nn.GELU()],
            *[nn.Dropout(0.1), nn.Linear(96, 4)],
        ),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 2e-3),
        loss=F.cross_entropy,
        batches=drawn(x[HELD:], y[HELD:], 32),
        evaluate=accuracy(x[:HELD], y[:HELD], 4),
        steps=250,
        autocast=torch.bfloat16,
    )


@CASES.healthy()
def gradients_of_four_batches_to_a_step() -> Recipe:
    """Accumulation in a step of one's own: four parts of a batch, one step of the optimizer."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, batch: Any) -> float:
        optimizer.zero_grad()
        total = 0.0
        for x, y in zip(batch[0].chunk(4), batch[1].chunk(4), strict=True):
            value = loss(model(x), y) / 4
            value.backward()
            total += value.item()
        optimizer.step()
        return total

    return digit_recipe(
        small_cnn, lambda parameters: torch.optim.AdamW(parameters, 4e-3), 100, shape=(1, 8, 8), step=step
    )


@CASES.healthy()
def one_example_at_a_time() -> Recipe:
    """SGD with batches of one: single losses leap, their mean falls."""
    return digit_recipe(
        lambda: nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10)),
        lambda parameters: torch.optim.SGD(parameters, 0.02),
        1500,
        batch=1,
    )
