"""Parameters that nothing moves, and gradients that nobody clears."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, bounded, digit_recipe, drawn, explained
from benchmarks.cures.held_out.networks import Resting, trunk
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.b_networks import dense
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("frozen_parameters", "stalled_training")
def autoencoder_whose_decoder_no_optimizer_holds(sick: bool) -> Recipe:
    """The optimizer was given the parameters of the encoder alone."""
    x, _ = digits()
    return Recipe(
        model=lambda: nn.Sequential(OrderedDict(encoder=dense(64, 64, 8), decoder=dense(8, 64, 64))),
        optimizer=lambda parameters: torch.optim.Adam(list(parameters)[: 4 if sick else None], 3e-3),
        loss=F.mse_loss,
        batches=drawn(x[HELD:], x[HELD:]),
        evaluate=explained(x[:HELD], x[:HELD]),
        steps=300,
    )


@CASES.sick("frozen_parameters", "oscillating_loss", "diverging_loss", "loss_spike", "exploding_gradient")
def cnn_without_zero_grad(sick: bool) -> Recipe:
    """Nobody clears the gradients: every step follows the sum of all before it."""

    def model() -> nn.Module:
        body = [nn.Conv2d(1, 12, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.SiLU()]
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(384, 10))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, batch: Any) -> float:
        x, y = batch
        if not sick:
            optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return value.item()

    return digit_recipe(model, lambda parameters: torch.optim.SGD(parameters, 0.1), 200, shape=(1, 8, 8), step=step)


@CASES.sick("frozen_parameters", "stalled_training")
def new_head_that_the_optimizer_never_saw(sick: bool) -> Recipe:
    """Fine-tuning of the head of a frozen network, but the optimizer holds the head that was there before."""
    before = nn.Linear(128, 10)

    def optimizer(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        trained = before.parameters() if sick else [p for p in parameters if p.requires_grad]
        return torch.optim.Adam(trained, 1e-2)

    return digit_recipe(
        lambda: nn.Sequential(Resting(*trunk()), nn.Flatten(), nn.Linear(128, 10)),
        optimizer,
        200,
        shape=(1, 8, 8),
        batch=32,
    )


class ActorCritic(nn.Module):
    """Two actions, and what the state is worth."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.critic = dense(4, 32, 2, activation=nn.Tanh), dense(4, 32, 1, activation=nn.Tanh)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(state), self.critic(state)[:, 0]


@CASES.sick("frozen_parameters", "stalled_training")
def critic_whose_optimizer_never_steps(sick: bool) -> Recipe:
    """Only the policy's parameters are stepped: the values of the states stay what they were at birth."""
    states = torch.randn(4000, 4, generator=torch.Generator().manual_seed(12))
    best = (states[:, 0] + states[:, 1] > 0).float()
    told = torch.stack([best, 1.5 * states[:, 2]], 1)  # the better action, and what comes on top of either

    def pay(actions: Tensor, told: Tensor) -> Tensor:
        return 2 * (actions == told[:, 0]).float() + told[:, 1]

    def loss(outputs: tuple[Tensor, Tensor], told: Tensor) -> Tensor:
        chances, value = torch.distributions.Categorical(logits=outputs[0]), outputs[1]
        actions = chances.sample()
        reward = pay(actions, told)
        return -(chances.log_prob(actions) * (reward - value.detach())).mean() + (reward - value).square().mean()

    def evaluate(model: nn.Module) -> float:
        logits, value = model(states[:1000])
        reward = pay(logits.argmax(1), told[:1000])
        return bounded(1 - ((value - reward).square().mean() / reward.var()).item())

    return Recipe(
        model=ActorCritic,
        optimizer=lambda parameters: torch.optim.Adam(list(parameters)[: 4 if sick else None], 5e-3),
        loss=loss,
        batches=drawn(states[1000:], told[1000:]),
        evaluate=evaluate,
        steps=300,
    )
