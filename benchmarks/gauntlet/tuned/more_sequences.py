"""Sequence models that are well: tied embeddings, gated convolutions, translation, alignment, linear recurrences."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, explained, language, supervised, undisturbed
from benchmarks.gauntlet.tuned.more_tasks import finding, generator, series, trained
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.4)
def tied_embeddings_and_a_long_warm_up() -> Training:
    """A GPT with one matrix for input and output, decay for matrices only, warm-up over half of the run."""

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(24, 32)
            self.places = nn.Parameter(0.02 * torch.randn(16, 32))
            nn.init.normal_(self.tokens.weight, std=0.1)
            self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(5))
            self.attentions = nn.ModuleList(nn.MultiheadAttention(32, 2, batch_first=True) for _ in range(2))
            self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(32, 96), nn.GELU(), nn.Linear(96, 32)) for _ in range(2))

        def forward(self, tokens: Tensor) -> Tensor:
            T = tokens.shape[1]
            later = torch.ones(T, T, dtype=torch.bool).triu(1)
            x = self.tokens(tokens) + self.places[:T]
            for k in range(2):
                h = self.norms[2 * k](x)
                x = x + self.attentions[k](h, h, h, attn_mask=later, need_weights=False)[0]
                x = x + self.mlps[k](self.norms[2 * k + 1](x))
            return F.linear(self.norms[4](x), self.tokens.weight)

    model = GPT()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-3, betas=(0.9, 0.95))
    return language(model, optimizer, 260, length=16, rate=lambda i: 8e-3 * min(1.0, (i + 1) / 130), clip=1.0)


@CASES.healthy()
def dilated_gates() -> Training:
    """Causal convolutions with doubling dilation, tanh times sigmoid, and skips to the output (WaveNet)."""

    class Layer(nn.Module):
        def __init__(self, dilation: int) -> None:
            super().__init__()
            self.pad = dilation
            self.both, self.mix = nn.Conv1d(32, 64, 2, dilation=dilation), nn.Conv1d(32, 32, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            a, b = self.both(F.pad(x, (self.pad, 0))).chunk(2, 1)
            h = self.mix(a.tanh() * b.sigmoid())
            return x + h, h

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.layers = nn.Embedding(24, 32), nn.ModuleList(Layer(d) for d in (1, 2, 4))
            self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(32, 48, 1), nn.ReLU(), nn.Conv1d(48, 24, 1))

        def forward(self, tokens: Tensor) -> Tensor:
            x, skips = self.tokens(tokens).transpose(1, 2), []
            for layer in self.layers:
                x, skip = layer(x)
                skips.append(skip)
            return self.head(sum(skips)).transpose(1, 2)

    model = Gated()
    return language(model, torch.optim.Adam(model.parameters(), 5e-3), 250, length=20)


@CASES.healthy()
def reversed_by_encoder_and_decoder() -> Training:
    """GRU to GRU with teacher forcing; sequences grow from two to six symbols as a curriculum."""

    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.symbols = nn.Embedding(9, 16)
            self.encoder, self.decoder = nn.GRU(16, 64, batch_first=True), nn.GRU(16, 64, batch_first=True)
            self.head = nn.Linear(64, 8)

        def forward(self, x: Tensor) -> Tensor:
            start = torch.full_like(x[:, :1], 8)
            _, h = self.encoder(self.symbols(x))
            return self.head(self.decoder(self.symbols(torch.cat([start, x.flip(1)[:, :-1]], 1)), h)[0])

    model, g = Translator(), generator(1)
    held = torch.randint(8, (200, 4), generator=generator(2))

    def loss(i: int) -> Tensor:
        x = torch.randint(8, (48, 2 + min(4, i // 80)), generator=g)
        return F.cross_entropy(model(x).flatten(0, 1), x.flip(1).flatten())

    def score() -> float:
        with undisturbed(model):
            return bounded(((model(held).argmax(2) == held.flip(1)).float().mean().item() - 1 / 8) * 8 / 7)

    return trained(model, torch.optim.Adam(model.parameters(), 5e-3), loss, score, 350)


@CASES.healthy()
def aligned_by_ctc() -> Training:
    """Three symbols somewhere among eighteen noisy frames, and no word on where."""
    shapes = torch.randn(5, 6, generator=generator(61))

    def speech(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.stack([torch.randperm(5, generator=g)[:3] for _ in range(count)])
        starts = torch.arange(3) * 6 + torch.randint(0, 3, (count, 3), generator=g)
        x = 0.3 * torch.randn(count, 18, 6, generator=g)
        for k in range(3):
            for d in range(3):
                x[torch.arange(count), starts[:, k] + d] += shapes[y[:, k]]
        return x, y

    x, y = speech(600, generator(62))
    model = nn.Sequential(nn.Conv1d(6, 32, 3, padding=1), nn.ReLU(), nn.Conv1d(32, 32, 3, padding=1), nn.ReLU())
    model.append(nn.Conv1d(32, 6, 1))

    def loss(z: Tensor, y: Tensor) -> Tensor:
        sizes = torch.full((len(y),), 18), torch.full((len(y),), 3)
        return F.ctc_loss(z.permute(2, 0, 1).log_softmax(2), y + 1, *sizes)

    def score() -> float:
        with undisturbed(model):
            best = model(x[:200].transpose(1, 2)).argmax(1)
        read = [[s for s in row.unique_consecutive().tolist() if s] for row in best]
        return sum(a == b for a, b in zip(read, (y[:200] + 1).tolist(), strict=True)) / 200

    data = x[200:].transpose(1, 2), y[200:]
    return supervised(model, torch.optim.Adam(model.parameters(), 5e-3), data, loss, score, 300, batch=24)


@CASES.healthy()
def decaying_memories() -> Training:
    """A linear recurrence with learned decays, and a loss that is the sum over all time steps."""
    x, y = series()
    following = torch.cat([x[:, 1:], y], 1)

    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decay, self.read = nn.Parameter(torch.linspace(-2, 3, 24)), nn.Linear(1, 24)
            self.head = nn.Sequential(nn.Linear(25, 32), nn.SiLU(), nn.Linear(32, 1))

        def forward(self, x: Tensor) -> Tensor:
            keep, h, out = self.decay.sigmoid(), x.new_zeros(len(x), 24), []
            for value in x.split(1, 1):
                h = keep * h + (1 - keep) * self.read(value)
                out.append(self.head(torch.cat([h, value], 1)))
            return torch.cat(out, 1)

    model = Memory()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return (out - y).square().sum(1).mean()

    score = explained(model, x[:300], following[:300])
    return supervised(model, torch.optim.Adam(model.parameters(), 1e-2), (x, following), loss, score, 200, batch=48)


@CASES.healthy()
def sinusoids_for_places() -> Training:
    """Fixed sinusoidal places, one attention layer by hand, RAdam: which symbol is marked?"""
    t, k = torch.arange(10)[:, None], torch.arange(16)
    places = torch.cat([(t / 100 ** (k / 16)).sin(), (t / 100 ** (k / 16)).cos()], 1)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.head = nn.Linear(9, 32), nn.Linear(32, 96), nn.Linear(32, 8)
            self.register_buffer("places", places)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x) + self.places
            q, k, v = self.qkv(h).chunk(3, 2)
            weights = torch.softmax(q @ k.mT / math.sqrt(32), 2)
            return self.head((h + weights @ v).amax(1))

    model = Reader()
    return finding(model, torch.optim.RAdam(model.parameters(), 1e-2), 220)
