"""The learning rate over the course of a training: warm-up, decay, and no schedule at all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.optim import Optimizer

from gradiometer.remedies.base import Code, Proof, Remedy, Situation
from gradiometer.remedies.cases import optimization as cases
from gradiometer.remedies.known import objection
from gradiometer.remedies.rates import RateFactor, has_rate
from gradiometer.remedies.recipe import Recipe

WARM = 0.1
"""Share of the steps over which the rate rises."""


def warming(situation: Situation) -> int:
    """Steps of the warm-up."""
    return max(round(WARM * situation.recipe.steps), 2)


def _warm_up(recipe: Recipe, situation: Situation) -> Recipe:
    steps = warming(situation)
    if recipe.schedule is None:
        return recipe.with_schedule(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / steps, total_iters=steps - 1))

    def change(optimizer: Optimizer) -> Optimizer:
        RateFactor(warm_up=steps).attach(optimizer)
        return optimizer

    return recipe.with_optimizer(change)


def _warm_up_code(situation: Situation) -> Code:
    steps = warming(situation)
    if situation.recipe.schedule is None:
        return _scheduled(f"LinearLR(optimizer, 1 / {steps}, total_iters={steps - 1})")
    return Code(classes=(RateFactor,), optimizer=f"RateFactor(warm_up={steps}).attach(optimizer)")


def _scheduled(what: str) -> Code:
    return Code(
        imports=("import torch",),
        optimizer=f"schedule = torch.optim.lr_scheduler.{what}",
        after_step="schedule.step()",
    )


def _cosine(recipe: Recipe, situation: Situation) -> Recipe:
    steps = situation.recipe.steps
    return replace(recipe, schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, steps))


def _linear(recipe: Recipe, situation: Situation) -> Recipe:
    steps = situation.recipe.steps
    return replace(recipe, schedule=lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 1e-3, total_iters=steps))


def _no_schedule(situation: Situation) -> str | None:
    return (
        None if situation.recipe.schedule is not None else "there is no schedule: the learning rate is constant already"
    )


REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="warm_up",
        title="warm-up of the learning rate over a tenth of the steps",
        group="optimization",
        treats=(
            "diverging_loss",
            "oscillating_loss",
            "stalled_training",
            "loss_spike",
            "nonfinite",
            "attention_collapse",
            "exploding_gradient",
            "dead_units",
        ),
        changes_function=False,
        source="Goyal et al., Accurate, large minibatch SGD (2017), section 2.2; Xiong et al., On layer normalization "
        "in the transformer architecture (2020)",
        code=_warm_up_code,
        recipe=_warm_up,
        unusable=objection(has_rate),
        proofs=(Proof(cases.cold_start, 0.8),),
    ),
    Remedy(
        name="decay",
        title="cosine decay of the learning rate",
        group="optimization",
        treats=("oscillating_loss", "diverging_loss", "loss_spike"),
        changes_function=False,
        source="Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts (2017), equation 5",
        code=lambda s: _scheduled(f"CosineAnnealingLR(optimizer, {s.recipe.steps})"),
        recipe=_cosine,
        unusable=objection(has_rate),
        proofs=(Proof(cases.noise_at_the_end, 0.8),),
    ),
    Remedy(
        name="linear_decay",
        title="linear decay of the learning rate",
        group="optimization",
        treats=("oscillating_loss", "diverging_loss"),
        changes_function=False,
        source="Robbins and Monro, A stochastic approximation method (1951): steps that shrink; Defazio et al., "
        "Optimal linear decay learning rate schedules and further refinements (2023)",
        code=lambda s: _scheduled(f"LinearLR(optimizer, 1.0, 1e-3, total_iters={s.recipe.steps})"),
        recipe=_linear,
        unusable=objection(has_rate),
        proofs=(Proof(cases.noise_at_the_end, 0.8),),
    ),
    Remedy(
        name="constant_rate",
        title="a constant learning rate",
        group="optimization",
        treats=("stalled_training", "diverging_loss", "oscillating_loss", "loss_spike"),
        changes_function=False,
        source="none: without the schedule that ended too early",
        code=lambda _: Code(after_step="# leave out the step of the scheduler"),
        recipe=lambda recipe, _: replace(recipe, schedule=None),
        unusable=_no_schedule,
        proofs=(Proof(cases.schedule_that_ended, 0.8),),
    ),
)
