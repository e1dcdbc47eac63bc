"""Units that are saturated, dead or copies of each other, and weights of a wrong scale."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import (
    accuracy,
    chain,
    explained,
    first_symbol,
    fit,
    next_symbol_score,
    surface,
    two_moons,
    windows,
)
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("saturated_units", "bad_initialization", also=("vanishing_gradient", "stalled_training"), good=0.75)
def tanh_with_huge_weights(sick: bool) -> Training:
    """Weights drawn by ``3 * torch.randn``: every hyperbolic tangent is at plus or minus one."""
    x, y = surface()
    model = nn.Sequential(
        nn.Linear(6, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1)
    )
    for layer in (model[0], model[2], model[4]):
        fan = layer.in_features
        layer.weight.data = torch.randn(layer.weight.shape) * (3.0 if sick else fan**-0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    return fit(model, optimizer, 400, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


class HashCoder(nn.Module):
    """An autoencoder with a nearly binary code."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decode = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64))
        self.steepness = steepness

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(torch.sigmoid(self.steepness * self.encode(x)))


@CASES.sick("saturated_units", also=("vanishing_gradient", "stalled_training"), sites="sigmoid", good=0.45)
def steep_sigmoid_for_binary_codes(sick: bool) -> Training:
    """A sigmoid of slope 1000 "to make the code binary": its derivative is nothing, the encoder does not learn."""
    x, _ = digits()
    model = HashCoder(1000.0 if sick else 1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    return fit(model, optimizer, 300, x, x, lambda: explained(model, x[:500], x[:500]), loss=F.mse_loss)


class Highway(nn.Module):
    """Layers whose gates choose between what comes in and its transformation."""

    def __init__(self, gate_bias: float, depth: int = 4, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(2, width)
        self.transform = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.classify = nn.Linear(width, 2)
        for gate in self.gate:
            nn.init.constant_(gate.bias, gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for transform, gate in zip(self.transform, self.gate, strict=True):
            t = torch.sigmoid(gate(h))
            h = t * torch.tanh(transform(h)) + (1 - t) * h
        return self.classify(h)


@CASES.sick("saturated_units", "bad_initialization", also=("vanishing_gradient",), sites="gate|sigmoid", good=0.9)
def highway_gates_shut(sick: bool) -> Training:
    """Gates with a bias of -20 instead of -2: nothing ever passes through the transformations."""
    x, y = two_moons()
    model = Highway(-20.0 if sick else -2.0)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x, y, 2))


@CASES.sick("dead_units", also=("rank_collapse", "stalled_training", "vanishing_gradient"), good=0.45)
def narrow_and_deep_relu(sick: bool) -> Training:
    """Three units a layer, fourteen layers: born dead, the output is one constant (Lu et al. 2019)."""
    g = torch.Generator().manual_seed(8)
    x = torch.rand(800, 1, generator=g) * 4 - 2
    y = x.abs() - 1
    layers: list[nn.Module] = [nn.Linear(1, 3)]
    for _ in range(13):
        layers += [nn.ReLU() if sick else nn.LeakyReLU(0.5), nn.Linear(3, 3)]
    layers += [nn.ReLU() if sick else nn.LeakyReLU(0.5), nn.Linear(3, 1)]
    model = nn.Sequential(*layers)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return fit(model, optimizer, 400, x, y, lambda: explained(model, x, y), loss=F.mse_loss, batch=128)


@CASES.sick("dead_units", "bad_initialization", also=("stalled_training", "vanishing_gradient", "rank_collapse"))
def detector_prior_in_every_bias(sick: bool) -> Training:
    """The bias of a rare-class prior, -4.6, given to all layers and not to the last alone: no rectifier is active."""
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear) and (sick or isinstance(layer, nn.Linear)):
            nn.init.constant_(layer.bias, -4.6)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return fit(model, optimizer, 150, x, y, lambda: accuracy(model, x[:500], y[:500]), batch=32)


class Dictionary(nn.Module):
    """An overcomplete sparse autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(64, 128)
        self.dec = nn.Linear(128, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = F.relu(self.enc(x))
        return self.dec(code), code


@CASES.sick("dead_units", also=("stalled_training", "rank_collapse"), sites="enc|relu")
def sparsity_penalty_too_strong(sick: bool) -> Training:
    """An L1 penalty a thousand times too strong kills the whole dictionary in a few steps."""
    x, _ = digits()
    model = Dictionary()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw = minibatches(128, len(x))
    weight = 1.0 if sick else 1e-3

    def step(_: int) -> float:
        batch = x[draw()]
        rebuilt, code = model(batch)
        loss = F.mse_loss(rebuilt, batch) + weight * code.mean(0).sum() / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, lambda: explained(model, x[:500], x[:500], lambda v: model(v)[0]))


class TiedModel(nn.Module):
    """A language model whose readout is its embedding, transposed."""

    def __init__(self, std: float, width: int = 128) -> None:
        super().__init__()
        self.wte = nn.Embedding(16, width)
        nn.init.normal_(self.wte.weight, std=std)
        self.ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 16, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.wte(tokens)
        return self.lm_head(self.ln_f(h + self.mlp(self.ln(h))))


@CASES.sick("bad_initialization", also=("exploding_gradient", "stalled_training"), sites="wte|lm_head")
def tied_embedding_of_unit_normals(sick: bool) -> Training:
    """The embedding's default of N(0, 1) shared with the readout: the first loss is many times that of chance."""
    x, y = windows(chain(), 16)
    model = TiedModel(1.0 if sick else 0.02)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    return fit(
        model,
        optimizer,
        80,
        x,
        y,
        lambda: next_symbol_score(model, x[:100], y[:100], 0.61, 2.77),
        loss=lambda logits, target: F.cross_entropy(logits.flatten(0, 1), target.flatten()),
        batch=8,
    )


@CASES.sick("bad_initialization", "vanishing_gradient", also=("stalled_training", "rank_collapse"))
def weights_of_a_thousandth(sick: bool) -> Training:
    """``init.normal_(w, std=1e-3)`` in six layers: neither signal nor gradient comes through."""
    x, y = digits()
    widths = [64, 100, 100, 100, 100, 100]
    model = nn.Sequential()
    for a, b in pairwise(widths):
        model.append(nn.Linear(a, b)).append(nn.GELU())
    model.append(nn.Linear(100, 10))
    for p in model.parameters():
        nn.init.normal_(p, std=1e-3 if sick or p.dim() < 2 else (2 / p.shape[1]) ** 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500]))


class Zeroed(nn.Module):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = nn.Linear(6, 64)
        self.l2 = nn.Linear(64, 64)
        self.l3 = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.l3(torch.tanh(self.l2(torch.tanh(self.l1(x)))))


@CASES.sick("bad_initialization", "symmetric_units", also=("vanishing_gradient", "stalled_training", "rank_collapse"))
def everything_starts_at_zero(sick: bool) -> Training:
    """All weights and biases zero: only the last bias ever moves."""
    x, y = surface()
    model = Zeroed()
    if sick:
        for p in model.parameters():
            nn.init.zeros_(p)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return fit(model, optimizer, 300, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


@CASES.sick("symmetric_units", "bad_initialization", also=("rank_collapse",), good=0.7)
def constant_weights(sick: bool) -> Training:
    """Every weight of a classifier is 0.05: each hidden layer is one unit, copied."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
    if sick:
        for p in model.parameters():
            nn.init.constant_(p, 0.05)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500]))


class Counter(nn.Module):
    """An LSTM that reads symbols and names the first."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 32, batch_first=True)
        self.fc = nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.lstm(F.one_hot(tokens, 4).float())[0][:, -1])


@CASES.sick("symmetric_units", "bad_initialization", good=0.7)
def lstm_of_constants(sick: bool) -> Training:
    """All of an LSTM's parameters, and the readout's, filled with 0.1: its cells stay copies of one."""
    x, y = first_symbol(6)
    model = Counter()
    if sick:
        for p in model.parameters():
            nn.init.constant_(p, 0.1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return fit(model, optimizer, 200, x, y, lambda: accuracy(model, x[:500], y[:500], 4))


@CASES.sick("symmetric_units", sites="filters", good=0.8)
def filters_copied_from_one(sick: bool) -> Training:
    """One filter repeated over all channels of a stem whose readout averages the channels: they stay equal."""
    x, y = images()
    filters = nn.Conv2d(1, 16, 3, padding=1)
    dense = nn.Linear(16 * 16, 10)
    if sick:
        with torch.no_grad():
            filters.weight.copy_(copy.deepcopy(filters.weight[:1]).expand_as(filters.weight))
            filters.bias.zero_()
            dense.weight.copy_(dense.weight.view(10, 16, 16)[:, :1].expand(10, 16, 16).reshape(10, 256))
    model = nn.Sequential()
    for name, part in (("filters", filters), ("act", nn.ReLU()), ("pool", nn.MaxPool2d(2)), ("flat", nn.Flatten())):
        model.add_module(name, part)
    model.add_module("dense", dense)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    return fit(model, optimizer, 250, x, y, lambda: accuracy(model, x[:500], y[:500]))
