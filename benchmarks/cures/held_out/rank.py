"""Representations of different inputs that become the same."""

from __future__ import annotations

import torch
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import digit_recipe, node_recipe
from benchmarks.gauntlet.held_out.a_rank import Patches, Smoothing
from benchmarks.gauntlet.held_out.common_a import he_
from torch import nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("rank_collapse", "vanishing_gradient")
def graph_network_that_smooths_everything_away(sick: bool) -> Recipe:
    """Sixteen graph convolutions without skips: all nodes end with the same features (Li et al., 2018)."""

    def model() -> nn.Module:
        made = he_(Smoothing(16, skips=not sick))
        nn.init.normal_(made.head.weight, std=0.05)
        return made

    return node_recipe(model, lambda parameters: torch.optim.Adam(parameters, 5e-3), 120)


@CASES.sick("rank_collapse", "vanishing_gradient", "attention_collapse")
def vision_transformer_without_skips(sick: bool) -> Recipe:
    """Six layers of attention without connections around them: the tokens become one (Dong et al., 2021)."""
    return digit_recipe(
        lambda: Patches(6, skips=not sick),
        lambda parameters: torch.optim.AdamW(parameters, 2e-3),
        120,
        shape=(8, 8),
        batch=32,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20),
    )
