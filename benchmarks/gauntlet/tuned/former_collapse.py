"""Representations that become one, and attention that looks at one place."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import accuracy, at_rest, fit, recall
from torch import Tensor, nn

CASES = Cases()


class PureAttention(nn.Module):
    """Attention upon attention over the rows of an image, with the skip connections or without."""

    def __init__(self, depth: int, skip: bool, width: int = 32) -> None:
        super().__init__()
        self.rows = nn.Linear(8, width)
        self.positions = nn.Parameter(torch.randn(8, width) * 0.5)
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.head = nn.Linear(width * 8, 10)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        h = self.rows(x.view(-1, 8, 8)) + self.positions
        for attend, norm in zip(self.attention, self.norms, strict=True):
            z = norm(h)
            a, _ = attend(z, z, z, need_weights=False)
            h = h + a if self.skip else a
        return self.head(h.flatten(1))


@CASES.sick("rank_collapse", also=("vanishing_gradient", "stalled_training"))
def attention_without_skips(sick: bool) -> Training:
    """Ten layers of attention and no skip connection: all tokens become the same (Dong et al. 2021)."""
    x, y = digits()
    model = PureAttention(10, skip=not sick)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    return fit(model, optimizer, 100, x, y, lambda: accuracy(model, x[:500], y[:500]), batch=24)


class GraphNetwork(nn.Module):
    """Graph convolutions over a fixed graph, with a share of the first features in every layer or none."""

    def __init__(self, adjacency: Tensor, depth: int, initial: float) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.lift = nn.Linear(16, 32)
        self.convs = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(depth))
        self.classify = nn.Linear(32, 4)
        self.initial = initial
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, a=0.0 if initial == 0 else 2.0)

    def forward(self, x: Tensor) -> Tensor:
        h = first = F.relu(self.lift(x))
        for conv in self.convs:
            mixed = (1 - self.initial) * (self.adjacency @ h) + self.initial * first
            h = mixed + F.relu(conv(mixed)) if self.initial else F.relu(conv(mixed))
        return self.classify(h)


@CASES.sick("rank_collapse", also=("vanishing_gradient", "stalled_training"), good=0.6)
def oversmoothed_graph(sick: bool) -> Training:
    """A graph convolution twenty-four layers deep: every node ends as the average of all (Li et al. 2018)."""
    g = torch.Generator().manual_seed(9)
    nodes = 240
    y = torch.arange(nodes) % 4
    chance = torch.where(y[:, None] == y[None], 0.10, 0.04)
    edges = (torch.rand(nodes, nodes, generator=g) < chance).float().triu(1)
    edges = edges + edges.T + torch.eye(nodes)
    degree = edges.sum(1).rsqrt()
    x = torch.randn(nodes, 16, generator=g) + 1.2 * torch.randn(4, 16, generator=g)[y]
    model = GraphNetwork(degree[:, None] * edges * degree[None], 24, 0.0 if sick else 0.5)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3, weight_decay=5e-4)

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 100, lambda: accuracy(model, x, y, 4))


def spread(model: nn.Module, x: Tensor) -> float:
    """The standard deviation of the normalized embeddings, 1 where they fill the sphere and 0 where they are one."""
    with at_rest(model):
        z = F.normalize(model(x), dim=1)
    return z.std(0).mean().item() * z.shape[1] ** 0.5


class Siamese(nn.Module):
    """Encoder, projector and predictor."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 32))
        self.predictor = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


@CASES.sick("rank_collapse", also=("dead_units",), good=0.35)
def siamese_without_stop_gradient(sick: bool) -> Training:
    """Two views drawn together with nothing that holds others apart: all embeddings become one (Chen & He 2021)."""
    x, y = digits()
    model = Siamese()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    draw = minibatches(128, len(y))
    g = torch.Generator().manual_seed(10)

    def step(_: int) -> float:
        batch = x[draw()]
        a, b = (model(batch + 0.5 * torch.randn(batch.shape, generator=g)) for _ in range(2))
        pa, pb = model.predictor(a), model.predictor(b)
        if not sick:
            a, b = a.detach(), b.detach()
        loss = -(F.cosine_similarity(pa, b).mean() + F.cosine_similarity(pb, a).mean()) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 200, lambda: spread(model, x[:500]))


class Retrieval(nn.Module):
    """Tokens ask each other, once, by scores that the class method computes."""

    def __init__(self, multiply: float, tokens: int = 72, classes: int = 8, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, classes)
        self.multiply = multiply

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        scores = self.query(h[:, -1:]) @ self.key(h).transpose(1, 2) * self.multiply
        return self.out((scores.softmax(-1) @ self.value(h))[:, 0])


@CASES.sick("attention_collapse", "saturated_units", also=("vanishing_gradient", "stalled_training"), sites="softmax")
def scores_multiplied_by_the_root(sick: bool) -> Training:
    """Attention scores multiplied by the root, and by eight, where they should be divided by it: one-hot at once."""
    x, y = recall()
    model = Retrieval(math.sqrt(32) * 8 if sick else 1 / math.sqrt(32))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return fit(model, optimizer, 400, x, y, lambda: accuracy(model, x[:500], y[:500], 8), batch=128)


class Block(nn.Module):
    """A pre-norm transformer block with its attention written out."""

    def __init__(self, width: int, heads: int, normalize: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ln1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.ln2 = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        h = self.ln1(x)
        q, k, v = (f(h).view(B, T, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.normalize:
            q, k = F.layer_norm(q, q.shape[-1:]), F.layer_norm(k, k.shape[-1:])
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(C // self.heads), dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(B, T, C))
        return x + self.ff(self.ln2(x))


class RecallTransformer(nn.Module):
    """Blocks over the tokens; the last one is read."""

    def __init__(self, normalize: bool, width: int = 32) -> None:
        super().__init__()
        self.tok = nn.Embedding(72, width)
        self.blocks = nn.Sequential(*(Block(width, 2, normalize) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tok(tokens))[:, -1]))


@CASES.sick(
    "attention_collapse",
    "bad_initialization",
    "saturated_units",
    also=("exploding_gradient", "vanishing_gradient", "oscillating_loss", "stalled_training"),
)
def queries_and_keys_too_large(sick: bool) -> Training:
    """Query and key weights of standard deviation 3: logits in the thousands, entropy zero (Zhai et al. 2023)."""
    x, y = recall()
    model = RecallTransformer(normalize=False)
    if sick:
        for block in model.blocks:
            nn.init.normal_(block.q.weight, std=3.0)
            nn.init.normal_(block.k.weight, std=3.0)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    return fit(model, optimizer, 180, x, y, lambda: accuracy(model, x[:500], y[:500], 8), batch=48)


@CASES.sick("attention_collapse", also=("saturated_units", "oscillating_loss", "exploding_gradient", "loss_spike"))
def logits_grow_at_a_large_step(sick: bool) -> Training:
    """A large learning rate on queries and keys that nothing normalizes: the entropy falls to zero in training."""
    x, y = recall()
    base = Retrieval(1 / math.sqrt(32))
    model = copy.deepcopy(base)
    scores = [*model.query.parameters(), *model.key.parameters()]
    rest = [*model.embed.parameters(), *model.value.parameters(), *model.out.parameters()]
    groups = [{"params": scores, "lr": 1.0 if sick else 1e-2}, {"params": rest}]
    optimizer = torch.optim.Adam(groups, lr=1e-2)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500], 8), batch=128)
