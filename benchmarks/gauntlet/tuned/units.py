"""Units that are saturated or dead."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    classifier,
    convolutions,
    he,
    initialized,
    mlp,
    normal,
    pooled_head,
    regression,
    smooth_function,
    xavier,
)
from torch import nn

CASES = Cases()


@CASES.sick("saturated_units", "bad_initialization", also=("vanishing_gradient", "stalled_training"), good=0.7)
def wide_tanh_with_unit_weights(sick: bool) -> Training:
    """Weights of standard deviation one, as ``torch.randn`` gives them, in four layers of 128 tanh units."""
    model = mlp(4, nn.Tanh, normal(1.0) if sick else xavier(), width=128)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02), 200)


@CASES.sick("saturated_units", sites=r"^[0-3]\b", also=("vanishing_gradient", "stalled_training", "bad_initialization"))
def sigmoid_units_with_bias_twenty(sick: bool) -> Training:
    """A bias that holds every unit of two layers at one."""
    model = mlp(2, nn.Sigmoid, xavier())
    if sick:
        nn.init.constant_(model[0].bias, 20.0)
        nn.init.constant_(model[2].bias, 20.0)
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 300)


@CASES.sick("saturated_units", "loss_spike", also=("vanishing_gradient", "stalled_training", "oscillating_loss"))
def tanh_saturated_by_a_burst_of_long_steps(sick: bool) -> Training:
    """Three steps with a rate of 200 drive every tanh into its flat part, from where it does not return."""
    model = mlp(4, nn.Tanh, xavier())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    rate = lambda i: 200.0 if sick and 100 <= i < 103 else 0.01  # noqa: E731
    return classifier(model, optimizer, 300, rate=rate)


@CASES.sick("saturated_units", sites=r"^3\b", also=("stalled_training", "output_mismatch"))
def sigmoid_outputs_wrong_from_birth(sick: bool) -> Training:
    """Outputs that begin at one, under the squared loss (Nielsen, chapter 3): the sigmoid's slope is gone."""
    x, y = digits()
    model = nn.Sequential(*mlp(1, nn.Tanh, xavier()), nn.Sigmoid())
    if sick:
        nn.init.constant_(model[2].bias, 15.0)
    optimizer = torch.optim.SGD(model.parameters(), 5.0)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        loss = F.mse_loss(model(x[chosen]), F.one_hot(y[chosen], 10).float())
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 250, accuracy(model, x[:500], y[:500]))


@CASES.sick("dead_units", sites=r"^(8|9)\b", also=("stalled_training", "bad_initialization", "vanishing_gradient"))
def one_layer_with_bias_minus_hundred(sick: bool) -> Training:
    """Nothing passes the fifth of eight layers."""
    model = mlp(8, nn.ReLU, he())
    if sick:
        nn.init.constant_(model[8].bias, -100.0)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05), 250)


@CASES.sick("dead_units", also=("oscillating_loss", "loss_spike", "stalled_training"))
def adam_with_a_rate_of_one(sick: bool) -> Training:
    """The first steps throw all units to where no example reaches them."""
    model = mlp(5, nn.ReLU, he())
    return classifier(model, torch.optim.Adam(model.parameters(), 1.0 if sick else 1e-3), 250)


@CASES.sick("dead_units", "loss_spike", also=("stalled_training", "oscillating_loss"))
def relu_killed_by_a_burst_of_long_steps(sick: bool) -> Training:
    """Four steps with three hundred times the rate, at step 120."""
    model = mlp(5, nn.ReLU, he())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    rate = lambda i: 0.3 if sick and 120 <= i < 124 else 1e-3  # noqa: E731
    return classifier(model, optimizer, 300, rate=rate)


@CASES.sick("dead_units", also=("stalled_training", "bad_initialization", "vanishing_gradient"))
def dead_convolution_channels(sick: bool) -> Training:
    """A bias of -5 under the second of three convolutions."""
    model = nn.Sequential(*convolutions([1, 16, 16, 16]), *pooled_head(16))
    initialized(model, he())
    if sick:
        nn.init.constant_(model[2].bias, -15.0)
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 200, data=images(), batch=32)


@CASES.sick(
    "dead_units", also=("stalled_training", "rank_collapse", "vanishing_gradient", "bad_initialization"), good=0.3
)
def born_dead(sick: bool) -> Training:
    """Twenty layers three units wide: one of them is dead at birth almost surely (Lu et al., 2019)."""
    x, y = smooth_function()
    y = x[:, :1].abs() + x[:, 1:2]
    model = mlp(20, nn.ReLU, he(), width=3, inputs=5, outputs=1) if sick else mlp(4, nn.ReLU, he(), inputs=5, outputs=1)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), (x, y), 300)


@CASES.sick("dead_units", also=("stalled_training", "vanishing_gradient"), good=0.3)
def relu_of_what_is_never_positive(sick: bool) -> Training:
    """A sign lost between a distance and a ReLU: the features are all zero for ever."""
    x, y = smooth_function()
    y = x[:, :1].square() + x[:, 1:2]

    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centres = nn.Parameter(torch.randn(64, 5))
            self.act = nn.ReLU()
            self.head = nn.Linear(64, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            d = (x[:, None] - self.centres).square().sum(2)
            return self.head(self.act(-d if sick else 4 - d))

    model = Distances()
    return regression(model, torch.optim.Adam(model.parameters(), 1e-2), (x, y), 300)


@CASES.healthy()
def most_units_dead_and_enough_alive() -> Training:
    """Two thirds of the units never fire; the others do the work."""
    model = mlp(2, nn.ReLU, he(), width=128)
    for layer in (model[0], model[2]):
        layer.bias.data[:80].fill_(-30.0)
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 300)


@CASES.healthy()
def sparse_relu_code() -> Training:
    """Ninety of a hundred activations are zero by design."""

    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Linear(64, 512), nn.Linear(512, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(F.relu(self.encoder(x) - 0.7))

    model = Sparse()
    return classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 250)
