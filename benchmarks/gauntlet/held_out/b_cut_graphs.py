"""Graphs that are cut in the middle: what lies before the cut never learns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.b_networks import dense
from benchmarks.gauntlet.held_out.common_b import accuracy, chains, explained, fit
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


class Copier(nn.Module):
    """A GRU reads a sequence backwards, another writes it down again from the last state."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.detached = detached
        self.symbols = nn.Embedding(8, 16)
        self.encoder, self.decoder = nn.GRU(16, 64, batch_first=True), nn.GRU(16, 64, batch_first=True)
        self.head = nn.Linear(64, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        _, state = self.encoder(self.symbols(tokens.flip(1)))
        if self.detached:
            state = state.detach()
        before = F.pad(tokens[:, :-1], (1, 0))
        return self.head(self.decoder(self.symbols(before), state)[0])


@CASES.sick("frozen_parameters", also=("stalled_training",), sites=r"^encoder", good=0.7)
def copying_network_with_a_detached_state(sick: bool) -> Training:
    """The encoder's state is detached before it enters the decoder (a habit from truncated backpropagation)."""
    tokens = torch.randint(8, (3000, 10), generator=torch.Generator().manual_seed(2))
    model = Copier(sick)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens[chosen]).flatten(0, 1), tokens[chosen].flatten())

    return fit(model, optimizer, loss, 3000, 350, accuracy(model, tokens[:300], tokens[:300], 8), batch=64)


class Reader(nn.Module):
    """The last state of a recurrent network, which may run without gradients, and a head."""

    def __init__(self, graph: bool) -> None:
        super().__init__()
        self.graph = graph
        self.symbols, self.rnn = nn.Embedding(12, 12), nn.GRU(12, 12, batch_first=True)
        self.head = dense(12, 32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.graph and torch.is_grad_enabled()):
            state = self.rnn(self.symbols(tokens))[0][:, -1]
        return self.head(state)


@CASES.sick("frozen_parameters", also=("stalled_training",), sites=r"^(symbols|rnn)", good=0.75)
def reader_from_scratch_left_under_no_grad(sick: bool) -> Training:
    """``no_grad`` around the encoder, right when it was a pretrained one; now it starts from scratch."""
    x, y = chains()
    model = Reader(not sick)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 250, accuracy(model, x[:500], y[:500], 4), batch=32)


class Codes(nn.Module):
    """An autoencoder of eight vectors out of a book of 32, with straight-through gradients or without."""

    def __init__(self, straight: bool) -> None:
        super().__init__()
        self.straight = straight
        self.encoder, self.decoder = dense(64, 64, 32), dense(32, 64, 64)
        self.book = nn.Parameter(torch.randn(32, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).view(-1, 4)
        q = self.book[torch.cdist(z.detach(), self.book.detach()).argmin(1)]
        extra = (q - z.detach()).square().mean()
        if self.straight:
            extra = extra + 0.25 * (z - q.detach()).square().mean()
            q = z + (q - z).detach()
        return self.decoder(q.view(-1, 32)), extra


@CASES.sick("frozen_parameters", also=("stalled_training",), sites=r"^encoder", good=0.55)
def quantized_autoencoder_without_straight_through(sick: bool) -> Training:
    """The nearest code is looked up and its gradient ends there: the encoder never learns."""
    x, _ = digits()
    model = Codes(not sick)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss(chosen: Tensor) -> Tensor:
        out, extra = model(x[chosen])
        return F.mse_loss(out, x[chosen]) + extra

    def rebuilt(images: Tensor) -> Tensor:
        return model(images)[0]

    return fit(model, optimizer, loss, len(x), 300, explained(rebuilt, x[:500], x[:500], model))
