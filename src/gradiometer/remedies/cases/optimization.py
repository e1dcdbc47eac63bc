"""Sick recipes that another way of stepping cures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.remedies.cases.examples import adam, drawn, images, layers, sgd, telling_digits
from gradiometer.remedies.recipe import Recipe

plain = torch.optim.SGD


# -- spikes, and clipping ---------------------------------------------------------------------------------------------


def odd_batches() -> Recipe:
    """Every twentieth batch was never divided by 255, and then some."""
    data = images()

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, (x, y) in enumerate(drawn(data.train_inputs, data.train_targets, seed)):
            yield (3e4 * x if step >= 40 and step % 20 == 0 else x), y

    return replace(telling_digits(optimizer=partial(plain, lr=0.1), steps=250), batches=batches)


def bound_by_clipping() -> Recipe:
    """A threshold a thousand times too low."""
    return replace(telling_digits(optimizer=partial(plain, lr=0.3)), clip=1e-4)


def bound_by_own_clipping() -> Recipe:
    """The same in a step of one's own."""

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> float:
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-4)
        optimizer.step()
        return value.item()

    return replace(telling_digits(optimizer=partial(plain, lr=0.3)), step=step)


# -- rates ------------------------------------------------------------------------------------------------------------


def swinging() -> Recipe:
    """Steps thirty times too long."""
    return telling_digits(partial(layers, 64, 10, activation=nn.Tanh), partial(plain, lr=20.0))


def one_cycle_too_high() -> Recipe:
    """The same, by a schedule that sets rates of its own."""
    recipe = telling_digits(partial(layers, 64, 10, activation=nn.Tanh), partial(plain, lr=0.1))
    return replace(
        recipe,
        schedule=lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 60.0, total_steps=1000, pct_start=0.1, cycle_momentum=False
        ),
    )


def own_step_too_long() -> Recipe:
    """The same, by a step that sets the rate itself."""

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> float:
        for group in optimizer.param_groups:
            group["lr"] = 20.0
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
        return value.item()

    return replace(swinging(), step=step)


def short_steps() -> Recipe:
    """Steps ten thousand times too short."""
    return telling_digits(optimizer=partial(plain, lr=3e-5))


def cold_start() -> Recipe:
    """A rate that only a network under way endures: its weights begin twice as large as He's."""

    def model() -> nn.Module:
        network = layers(64, 10, 64, 5)
        for layer in network:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=2 * (2 / layer.in_features) ** 0.5)
                nn.init.zeros_(layer.bias)
        return network

    return telling_digits(model, partial(plain, lr=0.15), 400)


@cache
def noisy_line() -> tuple[Tensor, Tensor, Tensor]:
    """A linear function of twenty numbers: inputs, its values, and the same with noise of half their size."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 20, generator=generator)
    y = x @ torch.randn(20, 1, generator=generator) / 20**0.5
    return x, y, y + 0.5 * torch.randn(3000, 1, generator=generator)


def noise_at_the_end() -> Recipe:
    """Four examples a batch, and steps so long that what is learned from one is lost with the next."""
    x, truth, noisy = noisy_line()

    def explained(network: nn.Module) -> float:
        return float(1 - (network(x) - truth).square().mean() / truth.var())

    return Recipe(
        model=lambda: nn.Linear(20, 1),
        optimizer=partial(plain, lr=0.16),
        loss=F.mse_loss,
        batches=lambda seed: drawn(x, noisy, seed, 4),
        evaluate=explained,
        steps=300,
    )


def schedule_that_ended() -> Recipe:
    """A schedule of epochs that was stepped after every batch."""
    recipe = telling_digits(optimizer=partial(plain, lr=0.1))
    return replace(recipe, schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.7))


# -- momentum and decay -----------------------------------------------------------------------------------------------


def steps_a_tenth_too_short() -> Recipe:
    """A deep network on a plateau, which steps ten times longer would leave."""
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    y = 1.5 * torch.tanh(x.sum(1, keepdim=True) / 8**0.5)

    def explained(network: nn.Module) -> float:
        return float(1 - (network(x[2000:]) - y[2000:]).square().mean() / y[2000:].var())

    return Recipe(
        model=partial(layers, 8, 1, 32, 5, nn.Tanh),
        optimizer=partial(plain, lr=5e-4),
        loss=F.mse_loss,
        batches=lambda seed: drawn(x[:2000], y[:2000], seed),
        evaluate=explained,
        steps=400,
    )


def weights_far_too_large() -> Recipe:
    """Weights drawn twenty times too large, that drown what is learned."""

    def model() -> nn.Module:
        network = layers(64, 10, 64, 2, nn.Tanh)
        for layer in network:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=3.0)
        return network

    return telling_digits(model, partial(plain, lr=0.05), 300)


def decay_that_kills() -> Recipe:
    """Weights that decay faster than they learn."""
    return telling_digits(optimizer=partial(plain, lr=0.1, weight_decay=1.0))


# -- optimizers -------------------------------------------------------------------------------------------------------


def adagrad_that_dies() -> Recipe:
    """Adagrad at a rate that suits Adam."""
    return telling_digits(optimizer=partial(torch.optim.Adagrad, lr=1e-4))


def large_epsilon() -> Recipe:
    """An epsilon that is far larger than the gradient."""
    return telling_digits(optimizer=partial(torch.optim.Adam, lr=3e-3, eps=10.0))


def maximizing() -> Recipe:
    """An optimizer that goes uphill."""
    return telling_digits(optimizer=partial(plain, lr=0.1, maximize=True))


def no_rate() -> Recipe:
    """A learning rate of zero."""
    return telling_digits(optimizer=partial(sgd, lr=0.0))


# -- wiring -----------------------------------------------------------------------------------------------------------


class Hidden(nn.Module):
    """A network whose layers lie in a plain list, or in a plain dictionary."""

    def __init__(self, *, named: bool) -> None:
        """Three layers of eight units."""
        super().__init__()
        made = [nn.Sequential(nn.Linear(64 if i == 0 else 8, 8), nn.Tanh()) for i in range(3)]
        self.body: Any = {f"layer{i}": layer for i, layer in enumerate(made)} if named else made
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        for layer in self.body.values() if isinstance(self.body, (dict, nn.ModuleDict)) else self.body:
            x = layer(x)
        return self.head(x)


def layers_in_a_list() -> Recipe:
    """Layers that the model does not know of."""
    return telling_digits(partial(Hidden, named=False), steps=300)


def layers_in_a_dictionary() -> Recipe:
    """The same in a dictionary."""
    return telling_digits(partial(Hidden, named=True), steps=300)


def frozen_as_drawn() -> Recipe:
    """All but the head is switched off, and was never trained."""

    def model() -> nn.Module:
        network = layers(64, 10, 24, 5, nn.Tanh)
        network[:-1].requires_grad_(False)
        return network

    return telling_digits(model, adam)


def held_by_nobody() -> Recipe:
    """An optimizer that holds the head alone."""
    return telling_digits(partial(layers, 64, 10, 8, 3, nn.Tanh), lambda parameters: sgd(list(parameters)[-2:]), 300)


def left_in_evaluation() -> Recipe:
    """A step that puts the network into eval mode, so that its batch norm never learns what the inputs are like."""

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> float:
        model.eval()
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
        return value.item()

    model = lambda: nn.Sequential(nn.BatchNorm1d(64), *layers(64, 10, activation=nn.Tanh))  # noqa: E731
    return replace(telling_digits(model, partial(plain, lr=0.1), inputs=lambda x: 1e3 * x), step=step)


def zero_grad_too_late() -> Recipe:
    """A step of one's own that sets the gradients to zero before it uses them."""

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> float:
        value = loss(model(batch[0]), batch[1])
        value.backward()
        optimizer.zero_grad()
        optimizer.step()
        return value.item()

    return replace(telling_digits(optimizer=partial(plain, lr=0.1)), step=step)


def without_zero_grad() -> Recipe:
    """A step of one's own that never sets the gradients to zero."""

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> float:
        value = loss(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
        return value.item()

    return replace(telling_digits(optimizer=partial(plain, lr=0.1)), step=step)
