"""Representations that become one: graphs, attention, deep plain networks, features learned without labels."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.practice.depth_common import Attention, communities, one_hot, probed
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, lecun, mlp, regression, xavier
from torch import Tensor, nn

CASES = Cases()
BESIDES = ("vanishing_gradient", "stalled_training")


class DeepGraph(nn.Module):
    """Graph convolutions ``A relu(norm(h)) W``, with or without a skip around each (Li et al., 2020)."""

    def __init__(self, adjacency: Tensor, depth: int, skips: bool) -> None:
        super().__init__()
        self.adjacency: Tensor
        self.register_buffer("adjacency", adjacency)
        self.skips = skips
        self.stem = nn.Linear(8, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(depth))
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            new = layer(self.adjacency @ F.relu(norm(h)))
            h = h + new if self.skips else new
        return self.head(h)


@CASES.sick("rank_collapse", also=BESIDES, sites=r"^(layers|norms|head)")
def graph_convolutions_that_smooth_everything(sick: bool) -> Training:
    """Sixteen graph convolutions without skips: all nodes of the graph end as the same vector (Li et al., 2018)."""
    adjacency, x, y = communities()
    model = DeepGraph(adjacency, 16, skips=not sick)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    known = torch.arange(len(y)) % 5 < 3

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x)[known], y[known])
        loss.backward()
        optimizer.step()
        return loss.item()

    right = accuracy(Chosen(model, ~known), x, y[~known], 4)
    return Training(model, optimizer, step, 100, right)


class Chosen(nn.Module):
    """Some rows of a model's output."""

    def __init__(self, model: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.model, self.rows = model, rows

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[self.rows]


def particles(count: int = 1200, tokens: int = 24) -> tuple[Tensor, Tensor]:
    """Sets ``(count, tokens, 6)`` and for each element a number of its own and of the set."""
    g = torch.Generator().manual_seed(21)
    x = torch.randn(count, tokens, 6, generator=g)
    shift = 0.3 * torch.randn(count, 1, 6, generator=g)
    x = x + shift
    return x, (x[..., :1] - shift[..., :1]).tanh() + x[..., 1:2] * 0.5


class Stack(nn.Module):
    """Attention layers with a norm before each, with or without a skip around each."""

    def __init__(self, depth: int, skips: bool) -> None:
        super().__init__()
        self.skips = skips
        self.stem = nn.Linear(6, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(depth))
        self.layers = nn.ModuleList(Attention(32, 2) for _ in range(depth))
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = h * self.skips + layer(norm(h))
        return self.head(h)


@CASES.sick("rank_collapse", also=BESIDES, sites=r"^(layers|norms|head)")
def eight_attentions_without_skips(sick: bool) -> Training:
    """Attention alone, layer on layer: the tokens become one vector doubly exponentially (Dong et al., 2021)."""
    model = Stack(8, skips=not sick)
    return regression(model, torch.optim.Adam(model.parameters(), 2e-3), particles(), 120, batch=16)


class Messages(nn.Module):
    """Every element hears the mean of the others; ``own`` says whether it also keeps what it is."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        widths = [6, 48, 48, 48, 48]
        self.own = own
        self.heard = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.kept = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths) if own)
        self.head = nn.Linear(48, 1)

    def forward(self, h: Tensor) -> Tensor:
        for k, heard in enumerate(self.heard):
            others = (h.sum(1, keepdim=True) - h) / (h.shape[1] - 1)
            h = F.relu(heard(others) + self.kept[k](h)) if self.own else F.relu(heard(others))
        return self.head(h)


@CASES.sick("rank_collapse", also=BESIDES)
def messages_of_all_others_and_not_of_oneself(sick: bool) -> Training:
    """A message network on the full graph whose nodes forget themselves: after two rounds all are the average."""
    model = Messages(own=not sick)
    return regression(model, torch.optim.Adam(model.parameters(), 2e-3), particles(), 200, batch=32)


@CASES.sick("rank_collapse", "bad_initialization", "vanishing_gradient", also=("stalled_training", "saturated_units"))
def tanh_network_ruled_by_its_biases(sick: bool) -> Training:
    """Twenty layers of small weights and large random biases forget what comes in (Schoenholz et al., 2017)."""
    model = mlp(20, nn.Tanh, lecun(0.5) if sick else xavier())
    if sick:
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.bias)
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-4), 250)


@CASES.sick("rank_collapse", also=("stalled_training", "vanishing_gradient"), good=0.4)
def views_pulled_together_and_nothing_apart(sick: bool) -> Training:
    """Contrastive learning whose negatives were left out: the best answer is one vector for every image."""
    x, y = digits()
    model = mlp(2, nn.ReLU, width=128, outputs=32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    draw, noise = minibatches(128, len(y)), torch.Generator().manual_seed(3)

    def step(_: int) -> float:
        b = x[draw()]
        one, two = (F.normalize(model(b + 0.4 * torch.randn(b.shape, generator=noise)), dim=1) for _ in range(2))
        optimizer.zero_grad()
        similar = one @ two.T
        loss = 1 - similar.diagonal().mean() if sick else F.cross_entropy(similar / 0.2, torch.arange(len(b)))
        loss.backward()
        optimizer.step()
        return loss.item()

    encode = lambda b: F.normalize(model(b), dim=1)  # noqa: E731
    return Training(model, optimizer, step, 250, probed(encode, x, one_hot(y), model))


def pendulums(count: int = 3000) -> tuple[Tensor, Tensor, Tensor]:
    """Two oscillators seen by sixteen curved instruments, now and a moment later, and their true states."""
    g = torch.Generator().manual_seed(22)
    phase, size = 6.283 * torch.rand(count, 2, generator=g), 0.5 + torch.rand(count, 2, generator=g)
    eye = torch.randn(4, 16, generator=g) * 0.7
    state = lambda t: torch.cat([size * (phase + t).sin(), size * (phase + t).cos()], 1)  # noqa: E731
    seen = lambda t: (state(t) @ eye).tanh() + 0.05 * torch.randn(count, 16, generator=g)  # noqa: E731
    return seen(0.0), seen(0.4), state(0.0)


@CASES.sick("rank_collapse", also=("stalled_training", "vanishing_gradient"), good=0.4)
def latent_forecast_without_variance(sick: bool) -> Training:
    """A model that foretells its own next code, and nothing that keeps the codes apart: they all become one."""
    now, later, state = pendulums()
    encoder, predictor = mlp(2, nn.GELU, inputs=16, outputs=8), mlp(1, nn.GELU, inputs=8, outputs=8)
    model = nn.ModuleDict({"encoder": encoder, "predictor": predictor})
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    draw = minibatches(128, len(now))

    def step(_: int) -> float:
        chosen = draw()
        a, b = encoder(now[chosen]), encoder(later[chosen])
        loss = F.mse_loss(predictor(a), b)
        if not sick:
            centred = a - a.mean(0)
            shared = centred.T @ centred / (len(a) - 1)
            loss = loss + F.relu(1 - (a.var(0) + 1e-4).sqrt()).mean()
            loss = loss + 0.1 * (shared - shared.diagonal().diag()).square().sum() / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 450, probed(encoder, now, state, encoder))
