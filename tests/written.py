"""A cure as a user would write it, run beside the treated recipe: both must train the same network."""

from __future__ import annotations

import copy
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import nn

from gradiometer.remedies.base import Code, Proof, Remedy, Situation, treated
from gradiometer.remedies.recipe import Recipe, loss_of
from gradiometer.trials.examination import examine
from gradiometer.trials.training import Training, endless, seed_everything


@cache
def known(proof: Proof) -> Situation:
    """What an untreated training tells."""
    return examine(proof.recipe())[1]


def by_hand(recipe: Recipe, code: Code, steps: int) -> tuple[nn.Module, list[float]]:
    """Trains a recipe with the lines of a cure in their places."""
    scope: dict[str, Any] = {"nn": nn, "torch": torch}
    exec("\n".join(code.imports), scope)
    exec(code.definitions, scope)

    def run(lines: str) -> None:
        exec(lines, scope)

    seed_everything(0)
    scope["model"] = recipe.model().train()
    run(code.model)
    model = scope["model"].train()
    scope["optimizer"] = recipe.optimizer(model.parameters())
    scope["loss"] = recipe.loss
    run(code.optimizer)
    run(code.loss)
    replaced = "schedule" in scope or "leave out the step of the scheduler" in code.after_step
    schedule = None if recipe.schedule is None or replaced else recipe.schedule(scope["optimizer"])
    losses = []
    for batch in islice(endless(recipe, 0), steps):
        optimizer, loss = scope["optimizer"], scope["loss"]
        if recipe.step is not None:
            value = recipe.step(model, optimizer, loss, batch)
        else:
            optimizer.zero_grad()
            value = loss_of(model, loss, batch)
            value.backward()
            value = value.detach()
            if "clip_grad" not in code.step and recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            run(code.step)
            optimizer.step()
        run(code.after_step)
        if schedule is not None:
            schedule.step()
        losses.append(float(value))
    return model, losses


def same_training(remedy: Remedy, proof: Proof, steps: int = 4) -> None:
    """Raises unless the code of a cure does what the cure does."""
    situation = known(proof)
    before = copy.deepcopy(situation.model.state_dict())
    training = Training(treated(situation.recipe, (remedy,), situation), 0)
    training.advance(steps)
    assert not training.failure
    model, losses = by_hand(situation.recipe, remedy.code(situation), steps)
    torch.testing.assert_close(losses, training.losses, rtol=0, atol=0, equal_nan=True)
    ours, theirs = training.model.state_dict(), model.state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(before[name], value) for name, value in situation.model.state_dict().items())
