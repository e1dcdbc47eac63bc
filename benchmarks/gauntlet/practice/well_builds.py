"""Well: networks of unusual build, whose units, gates or codes look extreme and should."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.practice.well_common import loop
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import classifier, explained, mlp
from torch import Tensor, nn

CASES = Cases()


class Highway(nn.Module):
    """Layers that mostly pass on what they get: their gates begin almost shut (Srivastava et al., 2015)."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.change = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for gate in self.gate:
            nn.init.constant_(gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for change, gate in zip(self.change, self.gate, strict=True):
            t = torch.sigmoid(gate(x))
            x = t * torch.tanh(change(x)) + (1 - t) * x
        return self.head(x)


@CASES.healthy(good=0.8)
def highway_of_twenty_layers() -> Training:
    """Twenty highway layers."""
    model = Highway(20, 48)
    return classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 150, batch=48)


class Equilibrium(nn.Module):
    """Iterates one contracting layer to its fixed point; the gradient passes through the last two rounds."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.inject, self.turn = nn.Linear(64, width), nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.turn.weight, 0.6)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        u = self.inject(x)
        z = torch.zeros_like(u)
        with torch.no_grad():
            for _ in range(20):
                z = torch.tanh(self.turn(z) + u)
        for _ in range(2):
            z = torch.tanh(self.turn(z) + u)
        return self.head(z)


@CASES.healthy(good=0.8)
def equilibrium_of_one_layer() -> Training:
    """A deep equilibrium model with a gradient of few terms."""
    model = Equilibrium()
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 200)


class SignCode(nn.Module):
    """Thirty-two signs in the middle, straight-through gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        self.decoder = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x: Tensor) -> Tensor:
        soft = torch.tanh(self.encoder(x))
        return self.decoder(soft + (soft.sign() - soft).detach())


@CASES.healthy(good=0.45)
def autoencoder_of_thirty_two_bits() -> Training:
    """A binary bottleneck."""
    x, y = digits()
    model = SignCode()
    draw = minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        b = x[draw()]
        return F.mse_loss(model(b), b)

    return loop(model, torch.optim.Adam(model.parameters(), 3e-3), loss, 350, explained(model, x[:500], x[:500]))


class Dictionary(nn.Module):
    """Many more units than inputs, few of them active at a time."""

    def __init__(self, units: int = 128) -> None:
        super().__init__()
        self.encoder, self.act, self.decoder = nn.Linear(64, units), nn.ReLU(), nn.Linear(units, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.act(self.encoder(x)))


@CASES.healthy(good=0.6)
def sparse_dictionary_with_an_l1_penalty() -> Training:
    """A sparse autoencoder: the penalty silences most units on most inputs."""
    x, y = digits()
    model = Dictionary()
    draw = minibatches(128, len(y))

    def loss(_: int) -> Tensor:
        b = x[draw()]
        code = model.act(model.encoder(b))
        return (model.decoder(code) - b).square().sum(1).mean() + 0.15 * code.sum(1).mean()

    return loop(model, torch.optim.Adam(model.parameters(), 2e-3), loss, 250, explained(model, x[:500], x[:500]))


@CASES.healthy(good=0.95)
def sigmoid_that_is_sure() -> Training:
    """Zeros against ones: soon every output of the sigmoid is next to 0 or 1, rightly."""
    x, y = digits()
    chosen = (y < 2).nonzero()[:, 0]
    x, y = x[chosen], y[chosen].float()[:, None]
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
    draw = minibatches(32, len(y))

    def loss(_: int) -> Tensor:
        b = draw()
        return F.binary_cross_entropy(model(x[b]), y[b])

    return loop(model, torch.optim.Adam(model.parameters(), 5e-3), loss, 200, explained(model, x, y))


@CASES.healthy(good=0.7)
def batch_norm_on_raw_columns() -> Training:
    """A table with columns of scale 0.001 to 10,000 and offsets; the network's first layer normalizes them."""
    g = torch.Generator().manual_seed(61)
    z = torch.randn(3000, 6, generator=g)
    x = z * torch.tensor([1e-3, 0.1, 1.0, 20.0, 500.0, 1e4]) + torch.tensor([0.0, 5.0, -2.0, 100.0, 2e3, 5e4])
    y = z[:, :1] + (1.5 * z[:, 4:5]).sin() + z[:, 2:3] * z[:, 5:6] + 0.2 * torch.randn(3000, 1, generator=g)
    model = nn.Sequential(nn.BatchNorm1d(6, affine=False), *mlp(2, nn.SiLU, inputs=6, outputs=1))
    draw = minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.mse_loss(model(x[chosen]), y[chosen])

    return loop(model, torch.optim.Adam(model.parameters(), 5e-3), loss, 250, explained(model, x[:1000], y[:1000]))


@CASES.healthy(good=0.7)
def counts_of_words() -> Training:
    """Documents of forty words of a Zipfian vocabulary: most inputs are zero, and some words never occur."""
    g = torch.Generator().manual_seed(62)
    common = 1 / torch.arange(1, 401).float()
    topics = torch.stack([common[torch.randperm(400, generator=g)] ** 0.7 * common**0.5 for _ in range(10)])
    y = torch.randint(10, (2000,), generator=g)
    words = torch.multinomial(topics[y], 40, replacement=True, generator=g)
    x = torch.zeros(2000, 400).scatter_add_(1, words, torch.ones(2000, 40))
    model = nn.Sequential(nn.Linear(400, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 200, data=(x, y))


class Ratings(nn.Module):
    """Users times items, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(2000, 6, sparse=True), nn.Embedding(3000, 6, sparse=True)
        self.hidden, self.head = nn.Linear(12, 32), nn.Linear(32, 1)

    def forward(self, pair: Tensor) -> Tensor:
        both = torch.cat([self.users(pair[:, 0]), self.items(pair[:, 1])], 1)
        return self.head(F.relu(self.hidden(both)))[:, 0]


@CASES.healthy(good=0.5)
def ratings_with_rows_never_used() -> Training:
    """Sparse gradients, two optimizers, and tables of which only 80 and 60 rows are ever looked up."""
    g = torch.Generator().manual_seed(63)
    pair = torch.stack([torch.randint(80, (6000,), generator=g), torch.randint(60, (6000,), generator=g)], 1)
    user, item = torch.randn(80, 2, generator=g), torch.randn(60, 2, generator=g)
    y = user[pair[:, 0], 0] + item[pair[:, 1], 0] + user[pair[:, 0], 1] * item[pair[:, 1], 1]
    y = y + 0.3 * torch.randn(6000, generator=g)
    model = Ratings()
    optimizers = [
        torch.optim.SparseAdam([model.users.weight, model.items.weight], 1e-2),
        torch.optim.Adam([*model.hidden.parameters(), *model.head.parameters()], 3e-3),
    ]
    draw = minibatches(256, 5000)

    def step(_: int) -> float:
        chosen = draw()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = F.mse_loss(model(pair[chosen]), y[chosen])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return Training(model, optimizers, step, 300, explained(model, pair[5000:], y[5000:]))
