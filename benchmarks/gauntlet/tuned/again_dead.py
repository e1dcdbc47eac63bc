"""Rectified units that no example activates: by bias, by sign, by a long step; all of a layer, or most of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import classify, reviews, spirals, table, textures, waves
from benchmarks.gauntlet.tuned.common import classifier, he, initialized, mlp, regression
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("dead_units", "saturated_units", also=("stalled_training", "vanishing_gradient", "bad_initialization"))
def stuck_at_six(sick: bool) -> Training:
    """ReLU6 under biases of forty: every unit of the second layer says six to everything."""
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU6(), nn.Linear(32, 32), nn.ReLU6(), nn.Linear(32, 3))
    initialized(model, he())
    if sick:
        nn.init.constant_(model[2].bias, 40.0)
    return classify(model, torch.optim.Adam(model.parameters(), 1e-2), spirals(), 350, batch=50)


@CASES.sick("dead_units", "oscillating_loss", also=("loss_spike", "stalled_training", "vanishing_gradient"))
def channels_killed_by_the_first_steps(sick: bool) -> Training:
    """Momentum and a rate of six throw the biases of all channels below zero within a few steps."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 20, 3, stride=2), nn.ReLU()),
        *(nn.Conv2d(20, 20, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)),
    )
    initialized(model, he())
    optimizer = torch.optim.SGD(model.parameters(), 6.0 if sick else 0.02, momentum=0.9)
    return classify(model, optimizer, textures(), 200, batch=32)


class Coder(nn.Module):
    """An autoencoder whose code is rectified."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, 40), nn.ReLU())
        self.code = nn.Linear(40, 24)
        self.decode = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 64))
        initialized(self, he())

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(F.relu(self.code(self.encode(x))))


@CASES.sick(
    "dead_units", sites=r"code|relu", also=("stalled_training", "vanishing_gradient", "rank_collapse"), good=0.3
)
def code_below_zero(sick: bool) -> Training:
    """The code's biases are minus thirty: all images have the same code, nought."""
    x = digits()[0]
    model = Coder()
    if sick:
        nn.init.constant_(model.code.bias, -30.0)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), (x, x), 300, batch=64)


@CASES.sick("dead_units", "output_mismatch", sites=r"^(out|4|5)\b", also=("stalled_training", "vanishing_gradient"))
def output_that_begins_below_zero(sick: bool) -> Training:
    """A rectified output for positive targets, with a bias of minus fifteen: it says nought, and learns nothing."""
    x, y = table()
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1), nn.ReLU())
    nn.init.constant_(model[4].bias, -15.0 if sick else 4.0)
    return regression(model, torch.optim.SGD(model.parameters(), 0.02, momentum=0.5), (x, y + 5), 300, batch=32)


class Counts(nn.Module):
    """Word counts through two rectified layers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(120, 48)
        self.deep = nn.Linear(48, 24)
        self.out = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.deep(self.hidden(x).relu()).relu())


@CASES.sick(
    "dead_units",
    "bad_initialization",
    sites=r"hidden|relu",
    also=("stalled_training", "vanishing_gradient", "rank_collapse"),
)
def negative_weights_for_counts(sick: bool) -> Training:
    """Counts are never negative, and all weights and biases that read them are."""
    words, y = reviews()
    x = F.one_hot(words, 120).sum(1).float()
    model = Counts()
    if sick:
        model.hidden.weight.data.abs_().neg_()
        model.hidden.bias.data.abs_().neg_()
    return classify(model, torch.optim.Adam(model.parameters(), 3e-3), (x, y), 200, batch=32)


@CASES.sick("dead_units", sites=r"^(2|3)\b", also=("stalled_training", "bad_initialization"), good=0.75)
def two_units_left_of_thirty(sick: bool) -> Training:
    """A layer in which two units live: ten classes have to pass through them."""
    model = mlp(2, nn.ReLU, he(), width=30)
    if sick:
        model[2].bias.data[2:] = -40.0
    return classifier(model, torch.optim.RMSprop(model.parameters(), 2e-3), 300, batch=40)


@CASES.sick(
    "dead_units", sites=r"blocks\.2|down|relu", also=("stalled_training", "vanishing_gradient", "bad_initialization")
)
def one_stage_of_a_signal_network_dead(sick: bool) -> Training:
    """Three stages of two convolutions; what joins the second to the third is dead."""

    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Conv1d(1, 16, 5, padding=2)
            self.blocks = nn.ModuleList(nn.Conv1d(16, 16, 3, padding=1) for _ in range(3))
            self.down = nn.ModuleList(nn.Conv1d(16, 16, 2, stride=2) for _ in range(3))
            self.head = nn.Linear(96, 4)
            initialized(self, he())

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            for block, down in zip(self.blocks, self.down, strict=True):
                x = x + 0.5 * F.relu(block(x))
                x = F.relu(down(x))
            return self.head(x.flatten(1))

    model = Stages()
    if sick:
        nn.init.constant_(model.down[1].bias, -60.0)
    return classify(model, torch.optim.SGD(model.parameters(), 0.02, momentum=0.9), waves(), 150, batch=32)
