"""Well: networks that make weights, share them, or learn from equations and graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import images, minibatches
from benchmarks.gauntlet.practice.well_common import cosine, loop
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, classifier, explained, language, mlp, undisturbed
from torch import Tensor, nn

CASES = Cases()


class Tied(nn.Module):
    """A small causal transformer whose output weights are those of its embedding."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(24, width)
        self.places = nn.Parameter(torch.randn(24, width) * 0.1)
        nn.init.normal_(self.embedding.weight, std=0.15)
        layer = nn.TransformerEncoderLayer(width, 4, 96, 0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 24, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.body(self.embedding(x) + self.places[: x.shape[1]], mask, is_causal=True))


@CASES.healthy(good=0.6)
def tied_transformer_with_decay_of_one_half() -> Training:
    """Weights tied between embedding and output, AdamW with a decay of 0.5 at a small rate, warm-up and clipping."""
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.5)
    rate = lambda i: 4e-3 * min(1.0, (i + 1) / 30) * (1 - i / 350)  # noqa: E731
    return language(model, optimizer, 300, length=16, batch=32, rate=rate, clip=1.0)


class Maker(nn.Module):
    """Makes the weights of a small network out of a description of its task."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.maker = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 3 * width + 1))

    def forward(self, task: Tensor, x: Tensor) -> Tensor:
        w, b, v, c = self.maker(task).split([self.width, self.width, self.width, 1], 1)
        hidden = torch.tanh(x[:, :, None] * w[:, None] + b[:, None])
        return (hidden * v[:, None]).sum(2) + c


@CASES.healthy(good=0.8)
def weights_made_by_another_network() -> Training:
    """A hypernetwork for sines of any amplitude and phase."""
    g = torch.Generator().manual_seed(71)
    model = Maker()

    def draw(count: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        task, x = torch.rand(count, 2, generator=g) * 2 - 1, torch.rand(count, 20, generator=g) * 4 - 2
        return task, x, (1.2 + task[:, :1]) * (x + 1.5 * task[:, 1:]).sin()

    def loss(_: int) -> Tensor:
        task, x, y = draw(32, g)
        return F.mse_loss(model(task, x), y)

    task, x, y = draw(300, torch.Generator().manual_seed(72))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    score = explained(lambda x: model(task, x), x, y, model)
    return loop(model, optimizer, loss, 300, score, schedule=cosine(300))


class Towers(nn.Module):
    """Two encoders into one space and a learned temperature, as in CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = mlp(1, nn.ReLU, width=96, inputs=20, outputs=24), mlp(1, nn.ReLU, width=96, outputs=24)
        self.log_scale = nn.Parameter(torch.tensor(2.6593))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = F.normalize(self.a(a), dim=1), F.normalize(self.b(b), dim=1)
        return self.log_scale.clamp(max=4.6).exp() * a @ b.T


@CASES.healthy(good=0.6)
def two_towers_with_a_learned_temperature() -> Training:
    """Two views of one hidden cause find each other among 64; logits reach tens."""
    g = torch.Generator().manual_seed(73)
    cause = torch.randn(4000, 8, generator=g)
    a = cause @ torch.randn(8, 20, generator=g) / 8**0.5 + 0.1 * torch.randn(4000, 20, generator=g)
    b = torch.tanh(cause @ torch.randn(8, 64, generator=g) / 4) + 0.1 * torch.randn(4000, 64, generator=g)
    model = Towers()
    draw = minibatches(64, 3800)

    def loss(_: int) -> Tensor:
        chosen = draw()
        z, same = model(a[chosen], b[chosen]), torch.arange(64)
        return (F.cross_entropy(z, same) + F.cross_entropy(z.T, same)) / 2

    def score() -> float:
        with undisturbed(model):
            return (model(a[3800:], b[3800:]).argmax(1) == torch.arange(200)).float().mean().item()

    return loop(model, torch.optim.Adam(model.parameters(), 2e-3), loss, 300, score)


class Graph(nn.Module):
    """Two graph convolutions with dropout."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(inputs, 32), nn.Linear(32, classes), nn.Dropout(0.5)

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        h = F.relu(neighbours @ self.first(self.drop(x)))
        return neighbours @ self.second(self.drop(h))


@CASES.healthy(good=0.7)
def graph_with_few_labels() -> Training:
    """Kipf and Welling's setting: one graph, all nodes in each step, ten labels a class, half the inputs dropped."""
    g = torch.Generator().manual_seed(74)
    y = torch.arange(400) % 4
    chance = torch.where(y[:, None] == y, 0.07, 0.006)
    edges = torch.bernoulli(chance, generator=g).triu(1)
    edges = edges + edges.T + torch.eye(400)
    degree = edges.sum(1).rsqrt()
    edges = degree[:, None] * edges * degree
    x = torch.randn(400, 24, generator=g) + 0.7 * F.one_hot(y, 24)
    model = Graph(24, 4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, weight_decay=5e-4)

    def score() -> float:
        with undisturbed(model):
            right = model(x, edges)[40:].argmax(1) == y[40:]
        return bounded((right.float().mean().item() - 0.25) / 0.75)

    return loop(model, optimizer, lambda _: F.cross_entropy(model(x, edges)[:40], y[:40]), 200, score)


@CASES.healthy(good=0.9)
def sine_from_its_equation() -> Training:
    """A physics-informed network: y'' = -y with its initial values is all that the loss knows."""
    g = torch.Generator().manual_seed(75)
    model = mlp(2, nn.Tanh, width=32, inputs=1, outputs=1)
    zero = torch.zeros(1, 1)

    def loss(_: int) -> Tensor:
        t = torch.cat([zero, torch.rand(63, 1, generator=g) * 3]).requires_grad_()
        y = model(t)
        slope = torch.autograd.grad(y.sum(), t, create_graph=True)[0]
        bend = torch.autograd.grad(slope.sum(), t, create_graph=True)[0]
        return (bend + y).square().mean() + 5 * y[0, 0].square() + 5 * (slope[0, 0] - 1).square()

    t = torch.linspace(0, 3, 100)[:, None]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return loop(model, optimizer, loss, 400, explained(model, t, t.sin()), schedule=cosine(400))


class Sine(nn.Module):
    """SIREN's layer: ``sin(30 w x)`` with the weights that go with it (Sitzmann et al., 2020)."""

    def __init__(self, inputs: int, outputs: int, first: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else (6 / inputs) ** 0.5 / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return (30 * self.linear(x)).sin()


@CASES.healthy(good=0.8)
def picture_in_a_network_of_sines() -> Training:
    """SIREN memorizes four digits side by side, by coordinates, all pixels in each step."""
    x, _ = images()
    picture = torch.cat(list(x[:4, 0]), 1)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 32), indexing="ij")
    place, y = torch.stack([rows, columns], 2).flatten(0, 1), picture.flatten()[:, None]
    model = nn.Sequential(Sine(2, 64, first=True), Sine(64, 64), Sine(64, 64), nn.Linear(64, 1))
    nn.init.uniform_(model[3].weight, -0.01, 0.01)
    optimizer = torch.optim.Adam(model.parameters(), 5e-4)
    return loop(
        model, optimizer, lambda _: F.mse_loss(model(place), y), 250, explained(model, place, y), schedule=cosine(250)
    )


class Patches(nn.Module):
    """A vision transformer on sixteen patches with layer scale and stochastic depth."""

    def __init__(self, width: int = 48, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 2, 2)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 96, 0.0, batch_first=True, norm_first=True) for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        nn.init.normal_(self.places, std=0.02)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.places
        for block in self.blocks:
            change = block(h) - h
            if self.training:
                change = change * (torch.rand(len(h), 1, 1) < 0.8) / 0.8
            h = h + change
        return self.head(self.norm(h[:, 0]))


@CASES.healthy(good=0.6)
def patches_with_stochastic_depth() -> Training:
    """A class token and a head that begin at zero; each block is left out for a fifth of the images."""
    model = Patches()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    rate = lambda i: 2e-3 * min(1.0, (i + 1) / 20)  # noqa: E731
    return classifier(model, optimizer, 220, data=images(), batch=32, rate=rate)
