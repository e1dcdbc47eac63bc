"""Losses that hardly move, or stop far from fitted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, accuracy, digit_recipe, drawn, language_recipe
from benchmarks.gauntlet.held_out.b_networks import SmallGPT, dense, small_cnn
from benchmarks.gauntlet.held_out.b_stalled import Classifier
from benchmarks.gauntlet.held_out.common_b import chains
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("stalled_training")
def language_model_whose_warm_up_counts_in_epochs(sick: bool) -> Recipe:
    """The warm-up of 20 was meant in steps and is read as epochs of ten thousand: the rate stays near nothing."""
    warm = 200_000 if sick else 20
    return language_recipe(
        SmallGPT,
        lambda parameters: torch.optim.AdamW(parameters, 3e-3),
        200,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / warm)),
    )


@CASES.sick("stalled_training")
def step_decay_called_every_batch(sick: bool) -> Recipe:
    """A decay by ten every five epochs, whose scheduler is stepped in the loop over batches."""
    every = 5 if sick else 5 * 28
    return digit_recipe(
        lambda: dense(64, 64, 64, 10, activation=nn.SiLU),
        lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9),
        220,
        schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, every, 0.1),
    )


@CASES.sick("stalled_training")
def cnn_under_a_weight_decay_of_two(sick: bool) -> Recipe:
    """A decay of 2 (a slip for 2e-4) pulls all weights to zero, and the loss stays at the logarithm of ten."""
    return digit_recipe(
        lambda: small_cnn(norm=False),
        lambda parameters: torch.optim.SGD(parameters, 0.03, momentum=0.9, weight_decay=2.0 if sick else 2e-4),
        220,
        shape=(1, 8, 8),
    )


@CASES.sick("stalled_training")
def transformer_classifier_with_sgd_at_a_ten_thousandth(sick: bool) -> Recipe:
    """The rate 1e-5 of recipes that fine-tune with AdamW is given to SGD and a network from scratch."""
    x, y = chains()
    return Recipe(
        model=Classifier,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 1e-5 if sick else 0.03, momentum=0.9),
        loss=F.cross_entropy,
        batches=drawn(x[HELD:], y[HELD:], 32),
        evaluate=accuracy(x[:HELD], y[:HELD], 4),
        steps=200,
    )
