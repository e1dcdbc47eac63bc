"""Well: plateaus before the idea comes, curricula and tasks that change, memory over many steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.practice.well_common import loop
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, explained, mlp, undisturbed
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.9)
def parity_of_three_hidden_bits() -> Training:
    """Three of twenty signs decide by their product: the loss waits at log 2 and then falls at once."""
    g = torch.Generator().manual_seed(21)
    model = mlp(1, nn.ReLU, width=256, inputs=20, outputs=1)

    def draw(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randint(2, (count, 20), generator=g) * 2.0 - 1
        return x, (x[:, 2] * x[:, 7] * x[:, 11] > 0).float()

    def loss(_: int) -> Tensor:
        x, y = draw(256, g)
        return F.binary_cross_entropy_with_logits(model(x)[:, 0], y)

    held = draw(1000, torch.Generator().manual_seed(22))

    def score() -> float:
        with undisturbed(model):
            return bounded(2 * ((model(held[0])[:, 0] > 0) == (held[1] > 0)).float().mean().item() - 1)

    return loop(model, torch.optim.Adam(model.parameters(), 4e-3), loss, 400, score)


class Sum(nn.Module):
    """Two embedded numbers, one hidden layer, the class of their sum."""

    def __init__(self, modulus: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(modulus, 32)
        self.hidden, self.head = nn.Linear(64, 128), nn.Linear(128, modulus)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.embedding(x).flatten(1))))


@CASES.healthy(good=0.9)
def addition_modulo_nineteen() -> Training:
    """The whole table of sums in every step; at first it looks like chance."""
    x = torch.cartesian_prod(torch.arange(19), torch.arange(19))
    y = x.sum(1) % 19
    model = Sum(19)

    def score() -> float:
        with undisturbed(model):
            return (model(x).argmax(1) == y).float().mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0.1)
    return loop(model, optimizer, lambda _: F.cross_entropy(model(x), y), 250, score)


class Last(nn.Module):
    """A recurrent layer and a linear one on its last state."""

    def __init__(self, inputs: int, width: int, outputs: int, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.head = kind(inputs, width, batch_first=True), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@CASES.healthy(good=0.8)
def adding_problem_over_twenty_steps() -> Training:
    """The sum of two marked numbers among twenty: the variance of the targets for a while, then nearly nothing."""
    g = torch.Generator().manual_seed(23)
    model = Last(2, 48, 1, nn.GRU)

    def draw(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        values, marks = torch.rand(count, 20, generator=g), torch.zeros(count, 20)
        rows = torch.arange(count)
        marks[rows, torch.randint(10, (count,), generator=g)] = 1
        marks[rows, torch.randint(10, 20, (count,), generator=g)] = 1
        return torch.stack([values, marks], 2), (values * marks).sum(1, keepdim=True)

    def loss(_: int) -> Tensor:
        x, y = draw(64, g)
        return F.mse_loss(model(x), y)

    held = draw(500, torch.Generator().manual_seed(24))
    return loop(model, torch.optim.Adam(model.parameters(), 1e-2), loss, 400, explained(model, *held), clip=1.0)


@CASES.healthy(good=0.9)
def first_symbol_after_thirty_steps() -> Training:
    """An LSTM whose forget gates begin open recalls the first of thirty symbols; the rest are noise."""
    g = torch.Generator().manual_seed(25)
    model = Last(6, 40, 6, nn.LSTM)
    with torch.no_grad():
        model.rnn.bias_ih_l0[40:80] = 3.0

    def draw(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        symbols = torch.randint(6, (count, 30), generator=g)
        return F.one_hot(symbols, 6).float(), symbols[:, 0]

    def loss(_: int) -> Tensor:
        x, y = draw(48, g)
        return F.cross_entropy(model(x), y)

    held = draw(500, torch.Generator().manual_seed(26))

    def score() -> float:
        with undisturbed(model):
            return bounded(((model(held[0]).argmax(1) == held[1]).float().mean().item() - 1 / 6) * 6 / 5)

    return loop(model, torch.optim.Adam(model.parameters(), 5e-3), loss, 400, score, clip=1.0)


@CASES.healthy(good=0.7)
def sums_that_grow_longer() -> Training:
    """A curriculum: totals of 4 numbers at first and of 16 at last; the loss rises with the length."""
    g = torch.Generator().manual_seed(27)
    model = Last(1, 32, 1, nn.GRU)

    def draw(count: int, length: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randint(-1, 2, (count, length, 1), generator=g).float()
        return x, x.sum(1)

    def loss(i: int) -> Tensor:
        x, y = draw(64, min(16, 4 + i // 16), g)
        return F.mse_loss(model(x), y)

    held = draw(500, 16, torch.Generator().manual_seed(28))
    return loop(model, torch.optim.Adam(model.parameters(), 5e-3), loss, 350, explained(model, *held), clip=1.0)


@CASES.healthy(good=0.7)
def rare_digits_that_become_common() -> Training:
    """Digits 5 to 9 are one in twenty at first and as common as the others later: the loss rises as the task does."""
    x, y = digits()
    few = (y < 5).nonzero()[:, 0]
    model = mlp(2, nn.ReLU, width=96)
    first, second = minibatches(64, len(few)), minibatches(64, len(y), seed=2)
    g = torch.Generator().manual_seed(32)

    def loss(i: int) -> Tensor:
        share = min(1.0, max(0.1, (i - 80) / 100))
        chosen = torch.where(torch.rand(64, generator=g) < share, second(), few[first()])
        return F.cross_entropy(model(x[chosen]), y[chosen])

    def score() -> float:
        with undisturbed(model):
            return bounded(((model(x[:500]).argmax(1) == y[:500]).float().mean().item() - 0.1) / 0.9)

    return loop(model, torch.optim.Adam(model.parameters(), 2e-3), loss, 300, score)


class Dictionary(nn.Module):
    """Keys, values and a query: one head of attention looks the query up."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.keys, self.values = nn.Embedding(symbols, width), nn.Embedding(symbols, width)
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)
        self.head = nn.Linear(width, symbols)

    def forward(self, keys: Tensor, values: Tensor, query: Tensor) -> Tensor:
        k, v, q = self.keys(keys), self.values(values), self.keys(query)[:, None]
        return self.head(self.attention(q, k, v)[0][:, 0])


@CASES.healthy(good=0.9)
def lookup_by_attention_that_becomes_sharp() -> Training:
    """The right answer needs one key of ten alone: attention near one on it, and near zero entropy, is the solution."""
    g = torch.Generator().manual_seed(29)
    model = Dictionary(16, 48)

    def draw(count: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        keys = torch.rand(count, 16, generator=g).argsort(1)[:, :10]
        values = torch.randint(16, (count, 10), generator=g)
        which = torch.randint(10, (count, 1), generator=g)
        return keys, values, keys.gather(1, which)[:, 0], values.gather(1, which)[:, 0]

    def loss(_: int) -> Tensor:
        *inputs, y = draw(64, g)
        return F.cross_entropy(model(*inputs), y)

    held = draw(500, torch.Generator().manual_seed(30))

    def score() -> float:
        with undisturbed(model):
            return bounded(((model(*held[:3]).argmax(1) == held[3]).float().mean().item() - 1 / 16) * 16 / 15)

    return loop(model, torch.optim.Adam(model.parameters(), 1.5e-3), loss, 350, score)
