"""Sick recipes that other inputs, targets or batches cure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from gradiometer.remedies.cases.examples import curve, drawn, fitting_a_curve, images, layers, sgd, telling_digits
from gradiometer.remedies.recipe import Recipe

tanh = partial(layers, 64, 10, activation=nn.Tanh)


def bytes_as_inputs() -> Recipe:
    """Pixels from 0 to 255 into tanh units."""
    return telling_digits(tanh, partial(torch.optim.SGD, lr=0.1), inputs=lambda x: 60 * (x - x.min()))


def years_as_inputs() -> Recipe:
    """Features far from zero beside what they vary by."""
    return fitting_a_curve(inputs=lambda x: x + 2000)


def other_units() -> Recipe:
    """Two features in units that make them ten thousand times larger than the others."""
    units = torch.tensor([1, 1, 1, 1, 1e4, 1, 1, 1e4])
    return fitting_a_curve(inputs=lambda x: x * units)


def prices_as_targets() -> Recipe:
    """Targets of a hundred thousand, give or take some ten thousands."""
    return fitting_a_curve(targets=lambda y: 2e5 + 4e4 * y)


def targets_beyond_tanh() -> Recipe:
    """Targets that a tanh output never reaches."""
    model = lambda: nn.Sequential(*layers(8, 1, activation=nn.Tanh), nn.Tanh())  # noqa: E731
    return fitting_a_curve(model, targets=lambda y: 10 * y)


def missing_values() -> Recipe:
    """A missing value in a batch now and then."""
    data = images()

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, (x, y) in enumerate(drawn(data.train_inputs, data.train_targets, seed)):
            if step % 30 == 20:
                x[0, 5] = float("nan")
            yield x, y

    return replace(telling_digits(), batches=batches)


def stray_targets() -> Recipe:
    """Targets now and then that somebody has mistyped."""
    x, y, *_ = curve()

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, (inputs, targets) in enumerate(drawn(x, y, seed)):
            if step % 15 == 10:
                targets[:2] = 1e20
            yield inputs, targets

    return replace(fitting_a_curve(optimizer=partial(sgd, lr=0.03)), batches=batches)


def sorted_by_class() -> Recipe:
    """One class after the other, and long steps."""
    data = images()
    order = data.train_targets.argsort(stable=True)
    x, y = data.train_inputs[order], data.train_targets[order]

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        shift = torch.randint(len(x), (), generator=torch.Generator().manual_seed(seed))
        yield from zip(x.roll(int(shift), 0).split(36), y.roll(int(shift), 0).split(36), strict=True)

    return replace(telling_digits(optimizer=partial(torch.optim.SGD, lr=1.0), steps=250), batches=batches)
