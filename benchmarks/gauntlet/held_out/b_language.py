"""Language models and readers of sequences that are well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.held_out.b_networks import Block, RecurrentText, SmallGPT
from benchmarks.gauntlet.held_out.common_b import accuracy, chains, explained, fit, language, warm_cosine, weather
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.7)
def gpt_with_warm_up_and_cosine() -> Training:
    """Three pre-norm blocks with dropout, AdamW with two groups of weight decay, clipping at one."""
    model = SmallGPT(3, dropout=0.05)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 4e-3, betas=(0.9, 0.95))
    between = lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # noqa: E731
    return language(model, optimizer, 220, rate=warm_cosine(220, 20), between=between)


@CASES.healthy(good=0.7)
def lstm_of_two_layers_with_dropout_and_clipping() -> Training:
    """Clipping at a norm that the early steps reach and the later ones do not."""
    model = RecurrentText(nn.LSTM, num_layers=2, dropout=0.1)
    optimizer = torch.optim.Adam(model.parameters(), 8e-3)
    between = lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.2)  # noqa: E731
    return language(model, optimizer, 250, between=between)


class TiedText(nn.Module):
    """A GRU whose output weights are its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(20, 48), nn.GRU(48, 48, batch_first=True)
        nn.init.normal_(self.embedding.weight, std=0.2)
        self.head = nn.Linear(48, 20)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


@CASES.healthy(good=0.7)
def gru_with_tied_embeddings_under_rmsprop() -> Training:
    """One matrix for the symbols at the input and at the output."""
    model = TiedText()
    return language(model, torch.optim.RMSprop(model.parameters(), 3e-3), 250)


@CASES.healthy(good=0.6)
def plain_recurrent_network_with_orthogonal_weights() -> Training:
    """An Elman network, orthogonal between the steps, with clipping."""
    model = RecurrentText(nn.RNN)
    nn.init.orthogonal_(model.rnn.weight_hh_l0)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    between = lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.4)  # noqa: E731
    return language(model, optimizer, 300, between=between)


class Reader(nn.Module):
    """Symbols and positions, blocks normed after their sums, the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.positions = nn.Embedding(12, 32), nn.Parameter(0.1 * torch.randn(24, 32))
        self.norm = nn.LayerNorm(32)
        self.blocks = nn.Sequential(*[Block(32, 4, post=True, dropout=0.05) for _ in range(3)])
        self.head = nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.norm(self.symbols(tokens) + self.positions)).mean(1))


@CASES.healthy(good=0.7)
def post_norm_transformer_with_warm_up() -> Training:
    """Which chain wrote a sequence, as the transformer of 2017 reads it."""
    x, y = chains()
    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, betas=(0.9, 0.98))

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen], label_smoothing=0.05)

    score = accuracy(model, x[:500], y[:500], 4)
    return fit(model, optimizer, loss, len(x), 160, score, batch=32, rate=warm_cosine(160, 30))


class BothWays(nn.Module):
    """A bidirectional LSTM with the maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols = nn.Embedding(12, 16)
        self.rnn = nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(48, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.drop(self.rnn(self.symbols(tokens))[0].amax(1)))


@CASES.healthy(good=0.7)
def bidirectional_lstm_classifier() -> Training:
    """Sequence classification with Nadam."""
    x, y = chains()
    model = BothWays()
    optimizer = torch.optim.NAdam(model.parameters(), 5e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 200, accuracy(model, x[:500], y[:500], 4), batch=32)


class Dilated(nn.Module):
    """Causal convolutions, each looking twice as far back, on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(1, 16, 1), nn.Linear(16, 1)
        self.layers = nn.ModuleList(nn.Conv1d(16, 16, 3, dilation=2**k) for k in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.transpose(1, 2))
        for k, layer in enumerate(self.layers):
            x = x + F.relu(layer(F.pad(x, (2 * 2**k, 0))))
        return self.head(x[:, :, -1])


@CASES.healthy(good=0.7)
def forecast_by_dilated_convolutions() -> Training:
    """A temperature three hours on, with the Huber loss, down to the noise of the measurement."""
    x, y = weather()
    x = (x - x.mean()) / x.std()
    model = Dilated()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.huber_loss(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 250, explained(model, x[:400], y[:400], model), batch=32)
