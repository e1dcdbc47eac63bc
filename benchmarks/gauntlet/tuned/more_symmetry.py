"""Units that are copies of each other and stay so: factors, cells, filters, tiled rows, maxout."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, explained, regression, smooth_function, supervised
from benchmarks.gauntlet.tuned.more_tasks import generator, ratings, spirals, waves
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("symmetric_units", sites=r"users|items", also=("rank_collapse", "bad_initialization"), good=0.6)
def factors_all_alike(sick: bool) -> Training:
    """Users' and items' factors all begin at 0.1: eight factors do the work of one."""

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(80, 8), nn.Embedding(60, 8)
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.3)
                if sick:
                    nn.init.constant_(table.weight, 0.1)

        def forward(self, pairs: Tensor) -> Tensor:
            return torch.einsum("nk,nk->n", self.users(pairs[:, 0]), self.items(pairs[:, 1]))

    pairs, y = ratings()
    model = Factors()
    score = explained(model, pairs[:800], y[:800])
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    return supervised(model, optimizer, (pairs[800:], y[800:]), F.mse_loss, score, 300, batch=256)


@CASES.sick(
    "symmetric_units", sites=r"^cell", also=("rank_collapse", "bad_initialization", "stalled_training"), good=0.6
)
def lstm_of_constants(sick: bool) -> Training:
    """Every weight of an LSTM is 0.05 and the head begins at zero: thirty-two cells are one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)
            nn.init.zeros_(self.head.weight)
            if sick:
                for weights in self.cell.parameters():
                    nn.init.constant_(weights, 0.05)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x.view(-1, 8, 8))[0][:, -1])

    model = Net()
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-2), 220)


@CASES.sick("symmetric_units", sites=r"hidden|weights", also=("rank_collapse", "bad_initialization"), good=0.35)
def rows_by_tile(sick: bool) -> Training:
    """``np.tile`` of one row of weights, written without any module but the one that holds the numbers."""
    x, y = smooth_function()
    rng = np.random.default_rng(3)
    row = rng.normal(size=(1, 5)) / 5**0.5
    hidden = np.tile(row, (48, 1)) if sick else rng.normal(size=(48, 5)) / 5**0.5
    out = np.full((1, 48), 0.1) if sick else rng.normal(size=(1, 48)) / 48**0.5

    class Numbers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            arrays = {"hidden": hidden, "shift": np.zeros(48), "out": out, "base": np.zeros(1)}
            tensors = {name: nn.Parameter(torch.tensor(a, dtype=torch.float32)) for name, a in arrays.items()}
            self.weights = nn.ParameterDict(tensors)

        def forward(self, x: Tensor) -> Tensor:
            w = self.weights
            return torch.tanh(x @ w["hidden"].T + w["shift"]) @ w["out"].T + w["base"]

    model = Numbers()
    return regression(model, torch.optim.Adam(model.parameters(), 1e-2), (x, y), 400, batch=100)


@CASES.sick("symmetric_units", sites=r"^[03]\b", also=("rank_collapse", "bad_initialization"), good=0.75)
def one_filter_copied(sick: bool) -> Training:
    """Two layers of filters over time, each a single filter repeated, below a head of zeros."""
    x, y = waves()
    model = nn.Sequential(
        *[nn.Conv1d(1, 16, 5, stride=2), nn.GroupNorm(1, 16), nn.GELU()],
        *[nn.Conv1d(16, 16, 5, stride=2), nn.GELU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 4)],
    )
    nn.init.zeros_(model[7].weight)
    if sick:
        for k in (0, 3):
            w = model[k].weight.data
            w.copy_(w[:1, :1].expand_as(w) * (1.0 if k == 0 else 0.5))
            nn.init.zeros_(model[k].bias)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    score = accuracy(model, x[:400], y[:400], 4)
    return supervised(model, optimizer, (x, y), F.cross_entropy, score, 250, batch=32)


@CASES.sick(
    "symmetric_units",
    "bad_initialization",
    also=("vanishing_gradient", "stalled_training", "rank_collapse", "dead_units"),
    good=0.4,
)
def bag_of_zeros(sick: bool) -> Training:
    """Embedding and both layers above it begin at zero: only the last bias ever learns."""
    g = generator(5)
    tokens = torch.randint(40, (1500, 12), generator=g)
    side = torch.randn(40, generator=g)
    y = (side[tokens].sum(1) > 0).long()

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.hidden, self.head = nn.EmbeddingBag(40, 16), nn.Linear(16, 24), nn.Linear(24, 2)
            if sick:
                for part in (self.bag, self.hidden, self.head):
                    nn.init.zeros_(part.weight)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(torch.tanh(self.hidden(self.bag(tokens))))

    model = Bag()
    score = accuracy(model, tokens[:400], y[:400], 2)
    optimizer = torch.optim.Adagrad(model.parameters(), 0.05)
    return supervised(model, optimizer, (tokens, y), F.cross_entropy, score, 250, batch=50)


@CASES.sick("symmetric_units", sites=r"pieces", also=("stalled_training",), good=0.6)
def maxout_of_equal_pieces(sick: bool) -> Training:
    """The four pieces of every maxout unit are copies: their maximum is linear, and ties share the gradient."""
    x, y = spirals()

    class Maxout(nn.Module):
        def __init__(self, inputs: int, units: int) -> None:
            super().__init__()
            self.pieces = nn.Linear(inputs, 4 * units)
            if sick:
                for p in self.pieces.parameters():
                    p.data.copy_(p.data[:units].repeat(4, *[1] * (p.ndim - 1)))

        def forward(self, x: Tensor) -> Tensor:
            return self.pieces(x).unflatten(1, (4, -1)).amax(1)

    model = nn.Sequential(Maxout(2, 24), Maxout(24, 24), nn.Linear(24, 3))
    score = accuracy(model, x[:500], y[:500], 3)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return supervised(model, optimizer, (x, y), F.cross_entropy, score, 400, batch=64)
