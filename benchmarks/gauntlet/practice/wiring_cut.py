"""Graphs that are cut in the middle: what lies before the cut never learns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.practice.wiring_common import bags, block_graph, loop, seeded
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    bounded,
    classifier,
    explained,
    regression,
    supervised,
    undisturbed,
)
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("frozen_parameters", sites=r"^relevance", also=("stalled_training",), good=0.7)
def bag_pooling_takes_the_item_of_highest_score(sick: bool) -> Training:
    """Attention over a bag of digits by ``argmax``: the layer that scores the items gets no gradient."""

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relevance = nn.Sequential(nn.Linear(66, 32), nn.Tanh(), nn.Linear(32, 1))
            self.embed = nn.Sequential(nn.Linear(66, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
            self.head = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            scores, h = self.relevance(x).squeeze(2), self.embed(x)
            if sick:
                return self.head(h[torch.arange(len(x)), scores.argmax(1)])
            return self.head((scores.softmax(1)[:, :, None] * h).sum(1))

    x, y = bags()
    model = Bag()
    return classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 300, data=(x, y))


@CASES.sick("frozen_parameters", sites=r"^sender", also=("stalled_training",), good=0.7)
def noisy_channel_sampled_and_not_reparameterized(sick: bool) -> Training:
    """Digits go as three numbers through a noisy channel; ``sample()`` in place of ``rsample()`` cuts the sender."""

    class Link(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sender = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
            self.receiver = nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 10))

        def forward(self, x: Tensor) -> Tensor:
            sent = F.layer_norm(self.sender(x), (3,))
            received = torch.distributions.Normal(sent, 0.1)
            return self.receiver(received.sample() if sick else received.rsample())

    model = Link()
    return classifier(model, torch.optim.Adam(model.parameters(), 4e-3), 400)


@CASES.sick("frozen_parameters", sites=r"^first", also=("stalled_training",), good=0.7)
def graph_convolution_through_numpy(sick: bool) -> Training:
    """Neighbours are summed in NumPy after the first layer, which leaves the graph there."""
    adjacency, x, y = block_graph()

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            h = torch.from_numpy(adjacency.numpy() @ h.detach().numpy()) if sick else adjacency @ h
            return adjacency @ self.second(F.relu(h))

    model = Graph()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, weight_decay=5e-4)
    loss = lambda: F.cross_entropy(model(x), y)  # noqa: E731
    return loop(model, optimizer, loss, 120, accuracy(model, x, y, 4))


class Captions(nn.Module):
    """An image becomes a few numbers, and a recurrent decoder spells the digit's name."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.cut = cut
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(128, 6), nn.LayerNorm(6)),
        )
        self.start = nn.Linear(6, 48)
        self.decoder = nn.GRU(5, 48, batch_first=True)
        self.letters = nn.Linear(48, 27)

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        if self.cut:
            code = code.detach()
        place = torch.eye(5).expand(len(x), 5, 5)
        return self.letters(self.decoder(place, self.start(code).tanh()[None])[0])


@CASES.sick("frozen_parameters", sites=r"^encoder", also=("stalled_training",), good=0.75)
def image_code_detached_before_the_captions(sick: bool) -> Training:
    """Captioning: what the convolutions say is detached on its way to the decoder, which learns alone."""
    x, y = images()
    words = "zero one two three four five six seven eight nine".split()
    spelled = torch.tensor([[0 if c == " " else ord(c) - 96 for c in word.ljust(5)] for word in words])[y]
    model = Captions(sick)
    loss = lambda out, letters: F.cross_entropy(out.flatten(0, 1), letters.flatten())  # noqa: E731

    def score() -> float:
        with undisturbed(model):
            right = (model(x[:500]).argmax(2) == spelled[:500]).all(1).float().mean().item()
        return bounded((right - 0.1) / 0.9)

    return supervised(model, torch.optim.Adam(model.parameters(), 3e-3), (x, spelled), loss, score, 400)


class Spring(nn.Module):
    """Stiffness and damping, as logarithms."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness, self.damping = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(-1.0))


@CASES.sick("frozen_parameters", sites=r"^spring", also=("stalled_training",), good=0.8)
def stiffness_of_a_simulated_spring_by_item(sick: bool) -> Training:
    """A simulator whose physical constants are taken out with ``.item()``: only the sensor is fitted."""

    class Simulator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spring, self.sensor = Spring(), nn.Linear(1, 1)

        def forward(self, start: Tensor) -> Tensor:
            k, c = self.spring.stiffness.exp(), self.spring.damping.exp()
            if sick:
                k, c = k.item(), c.item()
            x, v, path = start, torch.zeros_like(start), []
            for _ in range(40):
                v = v + 0.1 * (-k * x - c * v)
                x = x + 0.1 * v
                path.append(x)
            return self.sensor(torch.stack(path, 1).unsqueeze(2)).squeeze(2)

    g = seeded(5)
    start = torch.randn(400, generator=g)
    truth = Simulator()
    truth.spring.stiffness.data.fill_(0.7)
    truth.spring.damping.data.fill_(-1.6)
    truth.sensor.weight.data.fill_(1.3)
    truth.sensor.bias.data.fill_(0.2)
    with torch.no_grad():
        y = truth(start)
        y += 0.05 * torch.randn(y.shape, generator=g)
    model = Simulator()
    return regression(model, torch.optim.Adam(model.parameters(), 3e-2), (start, y), 150, batch=32)


@CASES.sick("frozen_parameters", sites=r"^(hyper|main)", also=("stalled_training",), good=0.7)
def generated_weights_copied_into_the_layer(sick: bool) -> Training:
    """A hypernetwork whose weights go into the main layers by ``.data``: they hold numbers and no graph."""
    g = seeded(6)
    tasks = 8
    wave = torch.randn(tasks, 2, 4, generator=g)
    which = torch.randint(tasks, (3000,), generator=g)
    x = torch.randn(3000, 4, generator=g)
    y = (wave[which, 0] * x).sum(1, keepdim=True).tanh() + (wave[which, 1] * x).sum(1, keepdim=True)

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hyper = nn.Sequential(nn.Embedding(tasks, 8), nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4 * 16))
            self.out = nn.Linear(16, 1)
            if sick:
                self.main = nn.Linear(4, 16, bias=False)

        def forward(self, both: Tensor) -> Tensor:
            task, x = both[:, 0].long(), both[:, 1:]
            h = torch.zeros(len(x), 16)
            for t in range(tasks):
                weight = self.hyper(torch.tensor(t)).view(16, 4)
                if sick:
                    self.main.weight.data.copy_(weight.data)
                    h = torch.where((task == t)[:, None], self.main(x), h)
                else:
                    h = torch.where((task == t)[:, None], F.linear(x, weight), h)
            return self.out(h + h.tanh())

    model = Hyper()
    data = (torch.cat([which[:, None].float(), x], 1), y)
    return regression(model, torch.optim.Adam(model.parameters(), 1e-2), data, 300)


@CASES.sick("frozen_parameters", sites=r"^encoder", also=("stalled_training",), good=0.5)
def levels_looked_up_without_passing_straight_through(sick: bool) -> Training:
    """An autoencoder of four levels a number: levels are looked up in a table, and the encoder stays random."""
    x, _ = digits()
    bounds, levels = torch.tensor([-0.5, 0.0, 0.5]), torch.tensor([-0.75, -0.25, 0.25, 0.75])

    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 8), nn.Tanh())
            self.decoder = nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 64))

        def forward(self, x: Tensor) -> Tensor:
            z = self.encoder(x)
            q = levels[torch.bucketize(z.detach(), bounds)]
            return self.decoder(q if sick else z + (q - z).detach())

    model, draw = Quantized(), minibatches(64, len(x))

    def loss() -> Tensor:
        batch = x[draw()]
        return F.mse_loss(model(batch), batch)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return loop(model, optimizer, loss, 500, explained(model, x[:500], x[:500]))
