"""Gradients that shrink or grow with depth or with time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import accuracy, explained, first_symbol, fit, surface
from torch import Tensor, nn

CASES = Cases()


class Tower(nn.Module):
    """A stem, a body of equal layers and a readout."""

    def __init__(self, depth: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.body = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.readout = nn.Linear(width, 10)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.stem(x))
        for layer in self.body:
            h = self.activation(layer(h))
        return self.readout(h)


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse"), good=0.6)
def sigmoid_tower(sick: bool) -> Training:
    """Logistic units in eight layers (Glorot & Bengio 2010)."""
    x, y = digits()
    model = Tower(7, 48, nn.Sigmoid() if sick else nn.Tanh())
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.xavier_uniform_(p)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500]))


class PlainConvolutions(nn.Module):
    """Convolution upon convolution, no shortcut and no normalization."""

    def __init__(self, depth: int = 20, channels: int = 12) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.trunk = nn.Sequential()
        for i in range(depth):
            self.trunk.add_module(f"conv{i}", nn.Conv2d(channels, channels, 3, padding=1))
            self.trunk.add_module(f"relu{i}", nn.ReLU())
        self.head = nn.Linear(channels * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(F.relu(self.first(x))).flatten(1))


@CASES.sick("vanishing_gradient", "bad_initialization", also=("stalled_training", "rank_collapse"))
def xavier_in_a_deep_relu_network(sick: bool) -> Training:
    """Glorot's initialization where rectifiers ask for He's: twenty layers that do not start (He et al. 2015)."""
    x, y = images()
    model = PlainConvolutions()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            if sick:
                nn.init.xavier_normal_(module.weight)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    return fit(model, optimizer, 200, x, y, lambda: accuracy(model, x[:500], y[:500]), batch=32)


class Memory(nn.Module):
    """A recurrent cell run by hand, read at the end."""

    def __init__(self, cell: nn.RNNCell, symbols: int = 4) -> None:
        super().__init__()
        self.symbols = symbols
        self.cell = cell
        self.out = nn.Linear(cell.hidden_size, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        h = torch.zeros(len(tokens), self.cell.hidden_size)
        for t in range(tokens.shape[1]):
            h = self.cell(F.one_hot(tokens[:, t], self.symbols).float(), h)
        return self.out(h)


@CASES.sick("vanishing_gradient", also=("stalled_training",))
def default_rnn_cell_over_fifty_steps(sick: bool) -> Training:
    """A plain recurrent cell as PyTorch initializes it forgets what came fifty steps ago (Pascanu et al. 2013)."""
    x, y = first_symbol(50)
    cell = nn.RNNCell(4, 32)
    if not sick:
        nn.init.orthogonal_(cell.weight_hh)
        nn.init.normal_(cell.weight_ih, std=0.05)
        nn.init.zeros_(cell.bias_ih)
        nn.init.zeros_(cell.bias_hh)
    model = Memory(cell)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def clip() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    return fit(model, optimizer, 160, x, y, lambda: accuracy(model, x[:500], y[:500], 4), before_step=clip)


class Tagger(nn.Module):
    """Embedding, LSTM, linear."""

    def __init__(self, forget: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 8)
        self.lstm = nn.LSTM(8, 24, batch_first=True)
        self.classify = nn.Linear(24, 4)
        with torch.no_grad():
            self.lstm.bias_hh_l0[24:48] = forget

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(tokens))
        return self.classify(states[:, -1])


@CASES.sick("vanishing_gradient", also=("saturated_units", "bad_initialization", "stalled_training"))
def forget_bias_of_the_wrong_sign(sick: bool) -> Training:
    """The forget gate's bias set to -3 instead of +3: the cell forgets at every one of forty steps."""
    x, y = first_symbol(40)
    model = Tagger(-3.0 if sick else 3.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return fit(model, optimizer, 220, x, y, lambda: accuracy(model, x[:500], y[:500], 4))


@CASES.sick(
    "exploding_gradient", "bad_initialization", also=("nonfinite", "diverging_loss", "loss_spike", "dead_units")
)
def one_deviation_for_every_width(sick: bool) -> Training:
    """Every weight drawn with a standard deviation of 0.3, whatever the layer's width."""
    x, y = digits()
    model = Tower(8, 64, nn.ReLU())
    for name, p in model.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3 if sick else (2 / p.shape[1]) ** 0.5)
        elif "bias" in name:
            nn.init.zeros_(p)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    return fit(model, optimizer, 250, x, y, lambda: accuracy(model, x[:500], y[:500]))


class RectifiedRecurrence(nn.Module):
    """Rows of an image, one after the other, through a rectified recurrence; every row is read twice."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, 40, nonlinearity="relu", batch_first=True)
        self.fc = nn.Linear(40, 10)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(scale * torch.eye(40))
            nn.init.normal_(self.rnn.weight_ih_l0, std=0.1)
            nn.init.zeros_(self.rnn.bias_ih_l0)
            nn.init.zeros_(self.rnn.bias_hh_l0)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, 8, 8).repeat(1, 2, 1)
        return self.fc(self.rnn(rows)[0][:, -1])


@CASES.sick(
    "exploding_gradient",
    "bad_initialization",
    also=("nonfinite", "diverging_loss", "loss_spike", "oscillating_loss", "dead_units"),
    sites="rnn",
)
def recurrence_above_one(sick: bool) -> Training:
    """A recurrent matrix of 1.5 times the identity: the gradient grows in every step of time (Pascanu et al. 2013)."""
    x, y = digits()
    model = RectifiedRecurrence(1.5 if sick else 1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.03)
    return fit(model, optimizer, 500, x, y, lambda: accuracy(model, x[:500], y[:500]))


class Doubling(nn.Module):
    """x + f(x), twelve times over."""

    def __init__(self, scale: float, width: int = 32) -> None:
        super().__init__()
        self.up = nn.Linear(6, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(12)
        )
        self.down = nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        for block in self.blocks:
            x = x + self.scale * block(x)
        return self.down(x)


@CASES.sick(
    "exploding_gradient", "bad_initialization", also=("nonfinite", "diverging_loss", "loss_spike", "dead_units")
)
def residual_stream_without_a_scale(sick: bool) -> Training:
    """Twelve residual branches of full size and nothing that normalizes: the stream grows by every block."""
    x, y = surface()
    model = Doubling(1.0 if sick else 12**-1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    return fit(model, optimizer, 350, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


class NormalizedPlain(nn.Module):
    """Linear, batch norm, rectifier, many times; with shortcuts or without."""

    def __init__(self, depth: int, shortcut: bool) -> None:
        super().__init__()
        self.proj = nn.Linear(64, 32)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU()) for _ in range(depth)
        )
        self.logits = nn.Linear(32, 10)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        for layer in self.layers:
            x = x + 0.3 * layer(x) if self.shortcut else layer(x)
        return self.logits(x)


@CASES.sick("exploding_gradient", also=("rank_collapse", "stalled_training", "oscillating_loss"))
def batch_norm_without_shortcuts(sick: bool) -> Training:
    """Fifty layers of batch norm and no shortcut: the gradient grows by 1.2 a layer (Yang et al. 2019)."""
    x, y = digits()
    model = NormalizedPlain(50, shortcut=not sick)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    return fit(model, optimizer, 100, x, y, lambda: accuracy(model, x[:500], y[:500]), batch=128)


class RowEncoder(nn.Module):
    """A transformer encoder over the rows of an image."""

    def __init__(self, norm_first: bool, depth: int = 10, width: int = 24) -> None:
        super().__init__()
        self.emb = nn.Linear(8, width)
        self.pos = nn.Parameter(0.02 * torch.randn(8, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 48, 0.0, batch_first=True, norm_first=norm_first) for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.emb(x.view(-1, 8, 8)) + self.pos
        for layer in self.layers:
            h = layer(h)
        return self.head(h.mean(1))


@CASES.sick("vanishing_gradient", "rank_collapse", also=("stalled_training", "loss_spike", "dead_units"))
def norm_behind_and_no_warm_up(sick: bool) -> Training:
    """Ten blocks normalized behind the sum, at full rate from the first step (Xiong et al. 2020)."""
    x, y = digits()
    model = RowEncoder(norm_first=not sick)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return fit(model, optimizer, 130, x, y, lambda: accuracy(model, x[:500], y[:500]), batch=16)
