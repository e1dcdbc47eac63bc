"""Recurrent networks, transformers and language models without a fault."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import (
    accuracy,
    chain,
    explained,
    first_symbol,
    fit,
    next_symbol_score,
    recall,
    windows,
)
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

CASES = Cases()


def per_symbol(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of a language model's logits ``(B, T, V)``."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


class Gpt(nn.Module):
    """A causal pre-norm transformer of PyTorch's own layers, its readout tied to its embedding."""

    def __init__(self, vocabulary: int = 16, width: int = 32, length: int = 16) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.h = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        for p in (self.wte.weight, self.wpe.weight):
            nn.init.normal_(p, std=0.02)
        self.lm_head.weight = self.wte.weight
        self.register_buffer("causal", torch.full((length, length), float("-inf")).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        return self.lm_head(self.ln_f(self.h(x, mask=self.causal[: x.shape[1], : x.shape[1]])))


@CASES.healthy(good=0.7)
def small_gpt_with_warm_up() -> Training:
    """AdamW, linear warm-up, cosine decay and clipping at 1: the recipe of every language model."""
    x, y = windows(chain(), 16)
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / 40, 0.55 + 0.45 * math.cos(math.pi * i / 160))
    )
    score = lambda: next_symbol_score(model, x[:100], y[:100], 0.61, 2.77)  # noqa: E731
    return fit(
        model,
        optimizer,
        160,
        x,
        y,
        score,
        loss=per_symbol,
        batch=12,
        before_step=lambda: clip_grad_norm_(model.parameters(), 1.0),
        after_step=schedule.step,
    )


class GruModel(nn.Module):
    """A language model of one GRU."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.Linear(width, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.gru(self.embedding(tokens))[0])


@CASES.healthy(good=0.7)
def clipped_in_most_steps() -> Training:
    """A recurrent language model clipped at a norm of 0.15 that acts nearly always, and learns."""
    x, y = windows(chain(), 20)
    model = GruModel()
    optimizer = torch.optim.SGD(model.parameters(), 4.0)
    score = lambda: next_symbol_score(model, x[:100], y[:100], 0.61, 2.77)  # noqa: E731
    clip = lambda: clip_grad_norm_(model.parameters(), 0.15)  # noqa: E731
    return fit(model, optimizer, 250, x, y, score, loss=per_symbol, batch=16, before_step=clip)


class Latch(nn.Module):
    """An LSTM whose forget gates start wide open."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 24, batch_first=True)
        self.read = nn.Linear(24, 4)
        with torch.no_grad():
            self.lstm.bias_hh_l0[24:48] = bias
            self.lstm.bias_hh_l0[:24] = -bias / 4

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read(self.lstm(F.one_hot(tokens, 4).float())[0][:, -1])


@CASES.healthy(good=0.7)
def gates_saturated_to_remember() -> Training:
    """Forget gates held at one by a bias of 6, input gates nearly shut: it remembers over forty steps."""
    x, y = first_symbol(40)
    model = Latch(6.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    clip = lambda: clip_grad_norm_(model.parameters(), 1.0)  # noqa: E731
    score = lambda: accuracy(model, x[:500], y[:500], 4)  # noqa: E731
    return fit(model, optimizer, 250, x, y, score, before_step=clip)


class ElmanRegressor(nn.Module):
    """The mean of a sequence's products of neighbours by a plain recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, 32, batch_first=True)
        self.out = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


@CASES.healthy(good=0.6)
def plain_recurrence_over_ten_steps() -> Training:
    """A sine continued from ten noisy samples: an ordinary task for an ordinary recurrent network."""
    g = torch.Generator().manual_seed(15)
    phase, speed = torch.rand(1500, 1, generator=g) * 6.28, 0.2 + 0.6 * torch.rand(1500, 1, generator=g)
    wave = torch.sin(phase + speed * torch.arange(11)) + 0.05 * torch.randn(1500, 11, generator=g)
    x, y = wave[:, :10, None], wave[:, 10:]
    model = ElmanRegressor()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return fit(model, optimizer, 250, x, y, lambda: explained(model, x, y), loss=F.mse_loss)


class Lookup(nn.Module):
    """A question asks the tokens before it, by dot products."""

    def __init__(self, width: int = 48, heads: int = 1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(72, width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.answer = nn.Linear(width, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tokens(tokens)
        a, _ = self.attention(h[:, -1:], h, h, need_weights=False)
        return self.answer(self.norm(a[:, 0]))


@CASES.healthy(good=0.7)
def attention_sharp_because_it_must_be() -> Training:
    """Associative recall: the trained attention looks at one token of seven and nowhere else."""
    x, y = recall()
    model = Lookup()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    return fit(model, optimizer, 400, x, y, lambda: accuracy(model, x[:500], y[:500], 8), batch=128)


class Patches(nn.Module):
    """A vision transformer on four patches and a class token."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.to_patches = nn.Conv2d(1, width, 4, stride=4)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(0.02 * torch.randn(1, 5, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.to_patches(x.view(-1, 1, 8, 8)).flatten(2).transpose(1, 2)
        h = torch.cat([self.cls.expand(len(h), -1, -1), h], 1) + self.pos
        return self.head(self.encoder(h)[:, 0])


@CASES.healthy(good=0.8)
def vision_transformer_in_bfloat16() -> Training:
    """Weights in float32, the forward pass under autocast to bfloat16."""
    x, y = digits()
    model = Patches()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    draw = minibatches(32, len(y))

    def step(_: int) -> float:
        chosen = draw()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x[chosen]), y[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 140, lambda: accuracy(model, x[:500], y[:500]))


class Bag(nn.Module):
    """Averaged embeddings of a large vocabulary, looked up sparsely."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(5000, 16, mode="mean", sparse=True)
        self.fc = nn.Linear(16, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.bag(tokens))


@CASES.healthy(good=0.7)
def sparse_embeddings_and_two_optimizers() -> Training:
    """A batch touches a few hundred of 5,000 embeddings; SparseAdam for them and SGD for the rest."""
    g = torch.Generator().manual_seed(16)
    y = torch.randint(2, (3000,), generator=g)
    rank = (torch.rand(3000, 12, generator=g) ** 3 * 2500).long()
    x = 2 * rank + torch.where(torch.rand(3000, 12, generator=g) < 0.75, y[:, None], 1 - y[:, None])
    model = Bag()
    optimizers = [torch.optim.SparseAdam(model.bag.parameters(), 2e-2), torch.optim.SGD(model.fc.parameters(), 0.1)]
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return Training(model, optimizers, step, 250, lambda: accuracy(model, x[:500], y[:500], 2))
