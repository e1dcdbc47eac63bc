"""Parameters that do not learn because of how a training is wired."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import learning
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.tuned.again_data import table, waves
from benchmarks.gauntlet.tuned.common import mlp
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


class Bottleneck(nn.Module):
    """An encoder into three numbers and a decoder to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 3))
        self.decoder = nn.Sequential(nn.Tanh(), nn.Linear(3, 96), nn.ReLU(), nn.Linear(96, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@CASES.sick("frozen_parameters")
def encoder_not_in_the_optimizer(sick: bool) -> Recipe:
    """Only the decoder's parameters were handed to the optimizer."""

    def optimizer(parameters: Any) -> Optimizer:
        every = list(parameters)
        return Adam(every[4:] if sick else every, 5e-3)

    return learning(Bottleneck, optimizer, digits(), 400)


@CASES.sick("frozen_parameters")
def too_much_frozen(sick: bool) -> Recipe:
    """The whole encoder is frozen, untrained, where only a bias was meant."""

    def model() -> nn.Module:
        net = Bottleneck()
        for parameter in net.encoder.parameters() if sick else [net.encoder[0].bias]:
            parameter.requires_grad_(False)
        return net

    return learning(model, lambda ps: Adam([p for p in ps if p.requires_grad], 5e-3), digits(), 400)


@CASES.sick("frozen_parameters", "stalled_training")
def layers_in_a_plain_list(sick: bool) -> Recipe:
    """Layers in a Python list: no module knows of them, and no optimizer."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(64, 32), nn.Linear(32, 3), nn.Linear(3, 32)]
            self.layers = layers if sick else nn.ModuleList(layers)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)

    return learning(Listed, lambda p: Adam(p, 5e-3), digits(), 400)


@CASES.sick("frozen_parameters", "stalled_training")
def convolutions_in_a_dictionary(sick: bool) -> Recipe:
    """Convolutions by name in a plain dictionary, read in the forward pass; only the head is trained."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            convs = {"low": nn.Conv2d(1, 8, 3, 2), "high": nn.Conv2d(8, 4, 3, 2)}
            self.convs = convs if sick else nn.ModuleDict(convs)
            self.head = nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.convs["high"](F.relu(self.convs["low"](x)))).flatten(1))

    return learning(Named, lambda p: AdamW(p, 1e-2), images(), 600)


@CASES.sick("frozen_parameters")
def kernels_in_no_group(sick: bool) -> Recipe:
    """Matrices get weight decay and vectors none; convolution kernels are neither and were forgotten."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(1, 8, 7, stride=3), nn.Conv1d(8, 3, 5, stride=2)
            self.out = nn.Linear(15, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.b(F.relu(self.a(x)))).flatten(1))

    def optimizer(parameters: Any) -> Optimizer:
        every = list(parameters)
        matrices = [p for p in every if p.ndim == 2 or (p.ndim > 2 and not sick)]
        vectors = [p for p in every if p.ndim == 1]
        return AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], 5e-3)

    return learning(Net, optimizer, waves(), 300, batch=32)


@CASES.sick("frozen_parameters", "oscillating_loss", "diverging_loss", "exploding_gradient")
def gradients_never_zeroed(sick: bool) -> Recipe:
    """``zero_grad`` is missing: every step uses the sum of all gradients so far."""

    def step(model: nn.Module, optimizer: Optimizer, loss: Any, batch: Any) -> Tensor:
        inputs, targets = batch
        value = loss(model(inputs), targets)
        value.backward()
        optimizer.step()
        if not sick:
            optimizer.zero_grad()
        return value.detach()

    return learning(lambda: mlp(2, nn.Tanh, inputs=8, outputs=1), lambda p: SGD(p, 0.05), table(), 400, step=step)


@CASES.sick("frozen_parameters", "oscillating_loss", "diverging_loss", "dead_units")
def gradients_never_zeroed_under_adam(sick: bool) -> Recipe:
    """The same before convolutions, under Adam: its mean of a sum that grows keeps one direction."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 24, 3, stride=2)
            self.fc = nn.Linear(24 * 9, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(1))

    def step(model: nn.Module, optimizer: Optimizer, loss: Any, batch: Any) -> float:
        images, labels = batch
        if not sick:
            optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        optimizer.step()
        return value.item()

    return learning(Net, lambda p: Adam(p, 1e-2), images(), 250, batch=32, step=step)


@CASES.sick("frozen_parameters", "stalled_training")
def zero_grad_after_backward(sick: bool) -> Recipe:
    """``zero_grad`` between the backward pass and the update: no optimizer ever sees a gradient."""

    def step(model: nn.Module, optimizer: Optimizer, loss: Any, batch: Any) -> Tensor:
        inputs, targets = batch
        if not sick:
            optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        if sick:
            optimizer.zero_grad()
        optimizer.step()
        return value.detach()

    return learning(lambda: mlp(2), lambda p: SGD(p, 0.1, momentum=0.5), digits(), 250, step=step)


@CASES.sick("frozen_parameters")
def stem_thawed_after_the_optimizer_was_made(sick: bool) -> Recipe:
    """The optimizer was given what required a gradient; the stem is thawed when the training begins."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mid, self.out = nn.Linear(64, 3), nn.Linear(3, 64), nn.Linear(64, 10)
            self.stem.requires_grad_(not sick)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.mid(torch.tanh(self.stem(x)))))

    def step(model: nn.Module, optimizer: Optimizer, loss: Any, batch: Any) -> Tensor:
        model.requires_grad_(True)
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
        return value.detach()

    return learning(Net, lambda ps: Adam([p for p in ps if p.requires_grad], 1e-2), digits(), 600, step=step)
