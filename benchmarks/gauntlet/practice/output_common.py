"""What these cases share: scores by likelihood and by classes of any frequency, small data, and causal networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import characters, minibatches
from benchmarks.gauntlet.training import Training
from benchmarks.gauntlet.tuned.common import bounded, undisturbed
from torch import Tensor, nn

Outputs = Callable[[Tensor], Tensor]


def balanced(model: nn.Module, x: Tensor, y: Tensor, said: Outputs) -> Callable[[], float]:
    """For two classes: the rate of hits minus that of false alarms; ``said`` makes decisions of outputs."""

    def score() -> float:
        with undisturbed(model):
            yes = said(model(x)).reshape(y.shape).float()
        true = y > 0
        return bounded((yes[true].mean() - yes[~true].mean()).item())

    return score


def likely(model: nn.Module, x: Tensor, y: Tensor, log_probabilities: Outputs, classes: int) -> Callable[[], float]:
    """One at a log-likelihood of zero, zero at that of a uniform guess."""

    def score() -> float:
        with undisturbed(model):
            loss = F.nll_loss(log_probabilities(model(x)), y).item()
        return bounded(1 - loss / math.log(classes))

    return score


def next_character(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    log_probabilities: Outputs,
    *,
    length: int = 24,
    batch: int = 16,
    clip: float | None = None,
) -> Training:
    """Prediction of the next character under any loss; scored by the likelihood of text."""
    text = characters()
    draw = minibatches(batch, len(text) - length - 1)
    window = torch.arange(length + 1)
    held = text[torch.arange(0, 50_000, 1000)[:, None] + window]

    def step(_: int) -> float:
        b = text[draw()[:, None] + window]
        optimizer.zero_grad()
        value = loss(model(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten())
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return value.item()

    def score() -> float:
        with undisturbed(model):
            nll = F.nll_loss(log_probabilities(model(held[:, :-1]).flatten(0, 1)), held[:, 1:].flatten()).item()
        return bounded((math.log(24) - nll) / (math.log(24) - 0.92))

    return Training(model, optimizer, step, steps, score)


class Recurrent(nn.Module):
    """Embedding, a recurrent layer, a linear head."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 64, classes: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.recurrent = kind(width, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0])


class Decoder(nn.Module):
    """A small causal transformer with norms before its branches."""

    def __init__(self, width: int = 48, layers: int = 2, heads: int = 4, classes: int = 24, length: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        x = self.embedding(tokens) + self.positions[:n]
        mask = torch.ones(n, n, dtype=torch.bool).triu(1)
        for block in self.blocks:
            x = block(x, src_mask=mask)
        return self.head(self.norm(x))


def table(count: int = 2000, inputs: int = 6, seed: int = 11) -> tuple[Tensor, Tensor]:
    """Normal features ``(N, inputs)`` and a smooth function of them ``(N,)``, near mean zero and variance one."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=g)
    y = (1.5 * x[:, 0]).sin() + 0.5 * x[:, 1] * x[:, 2] + 0.5 * x[:, 3]
    return x, (y + 0.1 * torch.randn(count, generator=g)) / 1.05
