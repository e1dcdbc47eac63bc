"""Units that sit in their flat part: gates, codes, recurrent states, gated convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    classifier,
    explained,
    language,
    mlp,
    pooled_head,
    regression,
    smooth_function,
    supervised,
    xavier,
)
from torch import Tensor, nn

CASES = Cases()


class Highway(nn.Module):
    """``gate * tanh(transform) + (1 - gate) * x``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.act, self.open = nn.Tanh(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.open(self.gate(x))
        return gate * self.act(self.transform(x)) + (1 - gate) * x


@CASES.sick(
    "saturated_units", "bad_initialization", sites=r"(open|gate)", also=("vanishing_gradient", "stalled_training")
)
def highway_gates_shut_by_a_bias_of_minus_thirty(sick: bool) -> Training:
    """Transform gates should begin nearly closed, by a bias of -2; with -30 they never open."""
    blocks = [Highway(32) for _ in range(10)]
    for block in blocks:
        nn.init.constant_(block.gate.bias, -30.0 if sick else -2.0)
    model = nn.Sequential(nn.Linear(5, 32), *blocks, nn.Linear(32, 1))
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), smooth_function(), 300)


class Squeezed(nn.Module):
    """A convolution whose channels are scaled by gates that look at their means."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b)
        self.squeeze, self.excite, self.gate = nn.Linear(b, 8), nn.Linear(8, b), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return x * self.gate(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))[:, :, None, None]


@CASES.sick(
    "saturated_units",
    "bad_initialization",
    "dead_units",
    also=("vanishing_gradient", "stalled_training", "rank_collapse", "frozen_parameters"),
)
def channel_gates_in_the_flat_part_of_a_hard_sigmoid(sick: bool) -> Training:
    """The gates' bias is -6, where a hard sigmoid is zero without slope: nothing passes and nothing changes that."""
    model = nn.Sequential(Squeezed(1, 16), nn.MaxPool2d(2), Squeezed(16, 32), *pooled_head(32))
    for block in (model[0], model[2]):
        nn.init.constant_(block.excite.bias, -6.0 if sick else 1.0)
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-2), 150, data=images(), batch=32)


@CASES.sick(
    "saturated_units",
    "bad_initialization",
    also=("vanishing_gradient", "exploding_gradient", "stalled_training", "oscillating_loss"),
    good=0.75,
)
def tanh_behind_norms_with_gain_forty(sick: bool) -> Training:
    """Batch norms whose weights begin at 40, so that every tanh after them says only -1 or 1."""
    model = mlp(6, nn.Tanh, xavier(), norm=nn.BatchNorm1d)
    if sick:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                nn.init.constant_(module.weight, 40.0)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.02, momentum=0.9), 200)


class Coder(nn.Module):
    """An autoencoder with a short code of tanh units."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(1, nn.ReLU, outputs=12)
        self.code = nn.Tanh()
        self.decoder = mlp(1, nn.ReLU, inputs=12, outputs=64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.code(self.encoder(x))
        return self.decoder(code), code


@CASES.sick(
    "saturated_units",
    "diverging_loss",
    also=("vanishing_gradient", "stalled_training", "rank_collapse"),
)
def penalty_on_activity_with_the_wrong_sign(sick: bool) -> Training:
    """The penalty that should keep a code small rewards large ones: its tanh units go to -1 and 1 and stay there."""
    x, _ = digits()
    model = Coder()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss(a: tuple[Tensor, Tensor], b: Tensor) -> Tensor:
        penalty = a[1].square().sum(1).mean()
        return F.mse_loss(a[0], b) + (-2.0 if sick else 0.001) * penalty

    score = explained(lambda inputs: model(inputs)[0], x[:500], x[:500], model)
    return supervised(model, optimizer, (x, x), loss, score, 300)


class Unrolled(nn.Module):
    """A recurrent network that reads the rows of an image."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, 64, batch_first=True)
        self.head = nn.Linear(64, 10)
        nn.init.orthogonal_(self.rnn.weight_hh_l0)
        nn.init.xavier_uniform_(self.rnn.weight_ih_l0, gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x[:, 0])[0][:, -1])


class Selected(nn.Module):
    """Features behind gates of their own, which may be learned, and a network on what passes."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(16))
        self.gate = nn.Sigmoid()
        self.body = mlp(2, nn.ReLU, inputs=16, outputs=1)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x * self.gate(self.logits / self.temperature))


@CASES.sick("saturated_units", "bad_initialization", also=("stalled_training", "frozen_parameters"), good=0.8)
def feature_gates_at_a_temperature_of_a_thousandth(sick: bool) -> Training:
    """Learned gates choose features; so cold, those that begin closed have no slope and never open."""
    g = torch.Generator().manual_seed(12)
    x = torch.randn(3000, 16, generator=g)
    y = ((x @ torch.randn(16, 8, generator=g) / 4).tanh() @ torch.randn(8, 1, generator=g)) + 0.05 * torch.randn(
        3000, 1, generator=g
    )
    model = Selected(1e-3 if sick else 1.0)
    return regression(model, torch.optim.Adam(model.parameters(), 5e-3), (x, y), 300)


class Causal(nn.Module):
    """Gated convolutions that look back, each twice as far, with residuals (van den Oord et al., 2016)."""

    def __init__(self, channels: int = 32, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(24, channels)
        self.filters, self.gates = (
            nn.ModuleList(nn.Conv1d(channels, channels, 2, dilation=2**k) for k in range(layers)) for _ in range(2)
        )
        self.mix = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(layers))
        self.tanh, self.sigmoid = nn.Tanh(), nn.Sigmoid()
        self.head = nn.Linear(channels, 24)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).transpose(1, 2)
        for k, mix in enumerate(self.mix):
            past = F.pad(x, (2**k, 0))
            x = x + mix(self.tanh(self.filters[k](past)) * self.sigmoid(self.gates[k](past)))
        return self.head(x.transpose(1, 2))


@CASES.sick(
    "saturated_units",
    "bad_initialization",
    sites=r"(tanh|sigmoid|filters|gates)",
    also=("vanishing_gradient", "exploding_gradient", "stalled_training"),
    good=0.6,
)
def gated_convolutions_with_kernels_of_deviation_five(sick: bool) -> Training:
    """Kernels of filters and gates drawn with deviation 5 where 0.12 is right."""
    model = Causal()
    for conv in [*model.filters, *model.gates]:
        nn.init.normal_(conv.weight, std=5.0 if sick else 0.12)
    return language(model, torch.optim.Adam(model.parameters(), 3e-3), 250)


@CASES.sick(
    "saturated_units",
    "bad_initialization",
    also=("vanishing_gradient", "exploding_gradient", "stalled_training"),
    good=0.75,
)
def recurrent_net_with_input_weights_times_sixty(sick: bool) -> Training:
    """Input weights of sixty times Glorot's scale: the states are saturated in all steps, and forget at once."""
    model = Unrolled(60.0 if sick else 1.0)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), 250, data=images())


@CASES.sick("saturated_units", "bad_initialization", also=("stalled_training", "vanishing_gradient", "rank_collapse"))
def update_gates_of_a_gru_held_at_one(sick: bool) -> Training:
    """A bias of 40 for the update gates, so that the state is never updated."""
    x, y = images()

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(8, 48, batch_first=True)
            self.head = nn.Linear(48, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x[:, 0])[0][:, -1])

    model = Rows()
    if sick:
        nn.init.constant_(model.gru.bias_ih_l0[48:96], 40.0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return supervised(model, optimizer, (x, y), F.cross_entropy, accuracy(model, x[:500], y[:500]), 200)
