"""Attention that looks at one place only, and cannot learn where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import accuracy, digit_recipe, drawn, regression_recipe
from benchmarks.gauntlet.held_out.a_attention import Lookup, Patches, Readings
from benchmarks.gauntlet.held_out.common_a import seeded
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("attention_collapse", "saturated_units")
def lookup_with_logits_multiplied_instead_of_divided(sick: bool) -> Recipe:
    """Attention logits times a thousand where they should be divided by the root of 32."""
    g = seeded(71)
    keys = torch.rand(4000, 12, generator=g).argsort(1)[:, :6]
    values = torch.randint(8, (4000, 6), generator=g)
    place = torch.randint(6, (4000, 1), generator=g)
    x = torch.cat([keys, values, keys.gather(1, place)], 1)
    y = values.gather(1, place)[:, 0]
    return Recipe(
        model=lambda: Lookup(1000.0 if sick else None),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3),
        loss=F.cross_entropy,
        batches=drawn(x[:3500], y[:3500]),
        evaluate=accuracy(x[3500:], y[3500:], 8),
        steps=100,
    )


@CASES.sick("attention_collapse", "saturated_units")
def readings_of_which_only_one_is_seen(sick: bool) -> Recipe:
    """A softmax at a temperature of 1e-4 picks one reading, where the mean of all reliable ones is asked for."""
    x = torch.randn(2500, 16, 3, generator=seeded(72))
    reliable = (x[:, :, 1] > 0).float()
    y = (reliable * (x[:, :, 0] + 0.5 * x[:, :, 2])).sum(1, keepdim=True) / reliable.sum(1, keepdim=True).clamp(min=1)
    return regression_recipe(
        lambda: Readings(1e-4 if sick else 1.0),
        lambda parameters: torch.optim.Adam(parameters, 5e-3),
        (x, y / y.std()),
        250,
    )


@CASES.sick("attention_collapse", "saturated_units", "bad_initialization")
def vision_transformer_with_loud_queries_and_keys(sick: bool) -> Recipe:
    """Projections to queries and keys a hundred times too large: one-hot attention from the first step."""

    def model() -> nn.Module:
        made = Patches()
        if sick:
            for layer in made.encoder.layers:
                layer.self_attn.in_proj_weight.data[:64] *= 100
        return made

    return digit_recipe(
        model,
        lambda parameters: torch.optim.AdamW(parameters, 2e-3),
        200,
        shape=(8, 8),
        batch=32,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20),
    )
