"""ReLUs that no example reaches any more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.common_a import (
    HELD,
    dense_stack,
    digit_classifier,
    he_,
    looped,
    regression,
    table,
    variance_explained,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


class SparseCoder(nn.Module):
    """An overcomplete dictionary with ReLU codes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.act, self.decoder = nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)

    def code(self, x: Tensor) -> Tensor:
        return self.act(self.encoder(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.code(x))


@CASES.sick("dead_units", also=("stalled_training", "vanishing_gradient", "rank_collapse"))
def sparse_autoencoder_with_too_much_sparsity(sick: bool) -> Training:
    """The price of an active feature is ten thousand times too high: all features of the dictionary die."""
    x = digits()[0]
    seen, held = x[HELD:], x[:HELD]
    model = SparseCoder()
    price = 10.0 if sick else 1e-3

    def loss(chosen: Tensor) -> Tensor:
        codes = model.code(seen[chosen])
        return F.mse_loss(model.decoder(codes), seen[chosen]) + price * codes.sum(1).mean()

    score = variance_explained(model, lambda: model(held), held)
    return looped(model, torch.optim.Adam(model.parameters(), 2e-3), loss, len(seen), 300, score)


@CASES.sick("dead_units", "loss_spike", also=("stalled_training", "oscillating_loss", "vanishing_gradient"), good=0.6)
def convolutions_killed_by_long_steps(sick: bool) -> Training:
    """RMSprop with a rate of 0.1 throws the filters to where they never fire, in the first few steps."""
    layers: list[nn.Module] = []
    for k in range(4):
        layers += [nn.Conv2d(16 if k else 1, 16, 3, padding=1, stride=2 if k == 2 else 1), nn.ReLU()]
    model = he_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)))
    optimizer = torch.optim.RMSprop(model.parameters(), 0.1 if sick else 1e-3)
    return digit_classifier(model, optimizer, 150, shape=(1, 8, 8))


@CASES.sick(
    "dead_units", "loss_spike", also=("stalled_training", "oscillating_loss", "vanishing_gradient", "output_mismatch")
)
def targets_around_a_hundred_kill_the_hidden_layer(sick: bool) -> Training:
    """Targets around 100 instead of zero: the first errors push all ReLUs below zero, and the bias does the rest."""
    x, y = table()
    model = he_(dense_stack([8, 64, 64, 1]))
    return regression(model, torch.optim.SGD(model.parameters(), 0.01), (x, y + 100 if sick else y), 400)


@CASES.sick(
    "dead_units", "bad_initialization", also=("stalled_training", "vanishing_gradient", "rank_collapse"), good=0.6
)
def batch_norms_shifted_below_the_relus(sick: bool) -> Training:
    """Shifts of -8 instead of 0 in all batch norms: a normalized unit would have to be eight deviations out to fire."""
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    for part in model:
        if sick and isinstance(part, nn.BatchNorm2d):
            nn.init.constant_(part.bias, -8.0)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    return digit_classifier(model, optimizer, 120, shape=(1, 8, 8), batch=32)
