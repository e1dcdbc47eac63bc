"""Inputs at a wrong scale, harmful ones and harmless ones."""

from __future__ import annotations

import torch
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    classifier,
    convolutions,
    he,
    initialized,
    lecun,
    mlp,
    pooled_head,
    regression,
    smooth_function,
)
from torch import Tensor, nn

CASES = Cases()

DIVERGED = ("loss_spike", "nonfinite", "diverging_loss", "oscillating_loss", "dead_units", "exploding_gradient")


def bytes_of_digits() -> tuple[Tensor, Tensor]:
    """The digits as pixels from 0 to 255."""
    x, y = digits()
    return ((x - x.min()) / (x.max() - x.min()) * 255).round(), y


@CASES.sick("unscaled_inputs", also=(*DIVERGED, "stalled_training"))
def bytes_into_an_mlp(sick: bool) -> Training:
    """Pixels from 0 to 255, nobody divided by 255."""
    model = mlp(2, nn.ReLU, he())
    data = bytes_of_digits() if sick else digits()
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 250, data=data)


@CASES.sick("unscaled_inputs", also=(*DIVERGED, "stalled_training"))
def bytes_into_convolutions(sick: bool) -> Training:
    """The same before convolutions, trained with momentum."""
    model = initialized(nn.Sequential(*convolutions([1, 16, 16]), *pooled_head(16)), he())
    x, y = bytes_of_digits() if sick else images()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return classifier(model, optimizer, 200, data=(x.view(-1, 1, 8, 8), y), batch=32)


@CASES.sick("unscaled_inputs", "saturated_units", sites=r"^[01]\b", also=("vanishing_gradient", "stalled_training"))
def bytes_into_tanh(sick: bool) -> Training:
    """Raw pixels saturate the first tanh layer; what is behind it sees signs only."""
    model = mlp(4, nn.Tanh, lecun(), width=16)
    data = bytes_of_digits() if sick else digits()
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 300, data=data)


@CASES.sick("unscaled_inputs", also=(*DIVERGED, "stalled_training"), good=0.4)
def offset_of_a_thousand(sick: bool) -> Training:
    """Features such as years: a small spread on a large offset."""
    x, y = smooth_function()
    model = mlp(2, nn.ReLU, he(), inputs=5, outputs=1)
    data = (x + 1000 if sick else x, y)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), data, 300)


@CASES.sick("unscaled_inputs", also=(*DIVERGED, "stalled_training"), good=0.4)
def one_feature_in_other_units(sick: bool) -> Training:
    """One feature of five is given in euros where the others are given in shares."""
    x, y = smooth_function()
    x = x.clone()
    if sick:
        x[:, 3] *= 1e5
    model = mlp(2, nn.ReLU, he(), inputs=5, outputs=1)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), (x, y), 300)


@CASES.sick("unscaled_inputs", "stalled_training", also=(*DIVERGED,), good=0.4)
def inputs_of_one_millionth(sick: bool) -> Training:
    """Features in metres where micrometres were meant."""
    x, y = smooth_function()
    model = mlp(2, nn.Tanh, inputs=5, outputs=1)
    data = (x * 1e-6 if sick else x, y)
    return regression(model, torch.optim.SGD(model.parameters(), 0.1), data, 350)


@CASES.healthy()
def bytes_before_batch_norm() -> Training:
    """Raw pixels are harmless where the first layer is a batch norm."""
    model = nn.Sequential(nn.BatchNorm1d(64), *mlp(2, nn.ReLU, he()))
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 250, data=bytes_of_digits())


@CASES.healthy()
def bytes_with_adam() -> Training:
    """Raw pixels, and Adam learns all the same."""
    model = mlp(2)
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-3), 300, data=bytes_of_digits())


@CASES.healthy()
def pixels_between_zero_and_one() -> Training:
    """Inputs that are not centred, as everybody feeds them."""
    x, y = bytes_of_digits()
    model = mlp(2, nn.ReLU, he())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 300, data=(x / 255, y))


@CASES.healthy()
def one_hot_inputs() -> Training:
    """Inputs that are almost all zero."""
    g = torch.Generator().manual_seed(5)
    levels = torch.randint(16, (2000, 4), generator=g)
    y = levels.float().sub(7.5).prod(1, keepdim=True).sign() + levels[:, :1] / 8 - 1
    y = y - levels[:, 1:2] / 4
    model = mlp(2, inputs=64, outputs=1)
    x = nn.functional.one_hot(levels, 16).float().flatten(1)
    return regression(model, torch.optim.Adam(model.parameters(), 5e-3), (x, y), 300)
