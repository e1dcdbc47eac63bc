"""Attention that looks at one token only: by scale, temperature, position, weights, or rates that let it sharpen."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.again_data import classify, reviews, sets
from benchmarks.gauntlet.tuned.common import explained, language, regression
from torch import Tensor, nn

CASES = Cases()


class Pool(nn.Module):
    """Tokens of a set are encoded; learned queries attend to them; a number is read from what they found."""

    def __init__(self, scale: float, width: int = 96, queries: int = 4) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, width), nn.LayerNorm(width))
        self.seeds = nn.Parameter(torch.randn(queries, width))
        self.to_k, self.to_v = nn.Linear(width, width), nn.Linear(width, width)
        self.read = nn.Linear(queries * width, 1)
        nn.init.orthogonal_(self.to_k.weight)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x)
        weights = torch.einsum("qd,btd->bqt", self.seeds, self.to_k(h)).mul(self.scale).softmax(-1)
        return self.read(torch.einsum("bqt,btd->bqd", weights, self.to_v(h)).flatten(1))


@CASES.sick(
    "attention_collapse",
    also=("saturated_units", "bad_initialization", "stalled_training", "oscillating_loss"),
    good=0.7,
)
def products_without_a_scale(sick: bool) -> Training:
    """Products of 96 numbers go into the softmax without division by their root."""
    model = Pool(1.0 if sick else 96**-0.5)
    return regression(model, torch.optim.Adam(model.parameters(), 1e-3), sets(), 400, batch=32)


class Additive(nn.Module):
    """Words weighed by ``v . tanh(W h)`` over a temperature (Bahdanau et al., 2015)."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.words = nn.Embedding(120, 24)
        self.look, self.weigh = nn.Linear(24, 24), nn.Linear(24, 1, bias=False)
        self.out = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x)
        a = F.softmax(self.weigh(self.look(h).tanh()) / self.temperature, dim=1)
        return self.out((a * h).sum(1))


@CASES.sick("attention_collapse", also=("saturated_units", "stalled_training", "exploding_gradient"), good=0.75)
def temperature_of_a_thousandth(sick: bool) -> Training:
    """Of twelve words each review is read by one."""
    model = Additive(0.001 if sick else 1.0)
    return classify(model, torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.01), reviews(), 250, batch=50)


class Retrieval(nn.Module):
    """Noisy copies of prototypes are compared with all of them; the answer mixes what belongs to them."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(8, 32), nn.Linear(8, 32)
        self.sharpness = nn.Parameter(torch.tensor(start))
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k = F.normalize(self.q(x), dim=-1), F.normalize(self.k(memory), dim=-1)
        return self.out(torch.softmax(self.sharpness.exp() * q @ k.T, -1) @ memory)


@CASES.sick("attention_collapse", also=("saturated_units", "oscillating_loss", "loss_spike", "stalled_training"))
def bonus_on_certainty(sick: bool) -> Training:
    """The logarithm of a softmax's sharpness is pulled up by a bonus that is a thousand times too heavy."""
    g = torch.Generator().manual_seed(31)
    memory = torch.randn(24, 8, generator=g)
    x = torch.randn(1500, 8, generator=g)
    y = torch.softmax(x @ memory.T / 3, -1) @ memory
    model = Retrieval(1.5)
    groups = [
        {"params": [model.sharpness], "lr": 0.05},
        {"params": [*model.q.parameters(), *model.k.parameters(), *model.out.parameters()]},
    ]
    optimizer = torch.optim.Adam(groups, 5e-3)
    draw = minibatches(64, 1500)

    def step(_: int) -> float:
        chosen = draw()
        error = F.mse_loss(model(x[chosen], memory), y[chosen])
        loss = error - (3.0 if sick else 0.003) * model.sharpness
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return error.item()

    score = explained(lambda inputs: model(inputs, memory), x[:500], y[:500], model)
    return Training(model, optimizer, step, 250, score)


class Neighbours(nn.Module):
    """Self-attention over a set with a penalty on distance (Press et al., 2022), twice, and a mean of one token."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        place = torch.arange(12)
        self.register_buffer("penalty", -slope * (place[:, None] - place).abs().float())
        self.embed = nn.Sequential(nn.Linear(4, 48), nn.GELU(), nn.Linear(48, 24))
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(2))
        self.out = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for layer in self.qkv:
            q, k, v = layer(h).chunk(3, -1)
            logits = q @ k.transpose(1, 2) / math.sqrt(24) + self.penalty
            h = h + logits.softmax(-1) @ v
        return self.out(h[:, 0])


@CASES.sick("attention_collapse", also=("saturated_units", "stalled_training"))
def slope_that_leaves_only_oneself(sick: bool) -> Training:
    """A penalty of a hundred for each place of distance: every token attends to itself."""
    model = Neighbours(100.0 if sick else 0.02)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), sets(), 300, batch=32)


class TwoBack(nn.Module):
    """A small causal language model: two layers of attention in plain operations with weights of a given size."""

    def __init__(self, std: float, width: int = 48, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.token, self.place = nn.Embedding(24, width), nn.Embedding(24, width)
        self.blocks = nn.ModuleList()
        for _ in range(2):
            block = nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width),
                    "qk": nn.Linear(width, 2 * width, bias=False),
                    "v": nn.Linear(width, width, bias=False),
                    "mlp": nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 96), nn.ReLU(), nn.Linear(96, width)),
                }
            )
            nn.init.normal_(block["qk"].weight, std=std)
            self.blocks.append(block)
        self.head = nn.Linear(width, 24)

    def forward(self, x: Tensor) -> Tensor:
        b, t = x.shape
        h = self.token(x) + self.place(torch.arange(t))
        for block in self.blocks:
            n = block["norm"](h)
            q, k, v = (
                z.view(b, t, self.heads, -1).transpose(1, 2) for z in (*block["qk"](n).chunk(2, -1), block["v"](n))
            )
            h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1)
            h = h + block["mlp"](h)
        return self.head(h)


@CASES.sick(
    "attention_collapse", "bad_initialization", sites=r"blocks", also=("saturated_units", "stalled_training"), good=0.4
)
def causal_model_with_queries_of_deviation_three(sick: bool) -> Training:
    """Queries and keys of a language model drawn with a deviation of three instead of a seventh."""
    model = TwoBack(3.0 if sick else 0.14)
    return language(model, torch.optim.AdamW(model.parameters(), 4e-3), 300)


@CASES.sick(
    "attention_collapse",
    sites=r"^(attend|encoder|layers)|attn",
    also=("saturated_units", "bad_initialization", "stalled_training", "vanishing_gradient"),
)
def packaged_encoder_drawn_too_sharp(sick: bool) -> Training:
    """One token that stands for the whole set reads the others through packed projections thirty times too large."""

    class Summary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32))
            self.attend = nn.MultiheadAttention(32, 4, batch_first=True)
            self.out = nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            return self.out(self.attend(h[:, :1], h, h)[0][:, 0])

    model = Summary()
    if sick:
        model.attend.in_proj_weight.data[:64].mul_(30)
        model.attend.in_proj_bias.data[:32].normal_(std=3.0)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), sets(), 350, batch=48)
