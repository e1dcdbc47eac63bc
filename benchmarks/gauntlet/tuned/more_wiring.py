"""Parameters that do not learn: more ways to lose them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, explained, regression, smooth_function, supervised
from benchmarks.gauntlet.tuned.more_tasks import ratings, spirals, waves
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("frozen_parameters", sites=r"^items", good=0.6)
def embedding_read_through_data(sick: bool) -> Training:
    """Matrix factorization that reads the items' factors from ``weight.data``."""

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(80, 3), nn.Embedding(60, 3)

        def forward(self, pairs: Tensor) -> Tensor:
            items = self.items.weight.data if sick else self.items.weight
            return (self.users(pairs[:, 0]) * items[pairs[:, 1]]).sum(1)

    pairs, y = ratings()
    model = Factors()
    score = explained(model, pairs[:1000], y[:1000])
    rest = pairs[1000:], y[1000:]
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    return supervised(model, optimizer, rest, F.mse_loss, score, 200, batch=256)


@CASES.sick("frozen_parameters", sites=r"^trunk", good=0.7)
def kernels_in_no_group(sick: bool) -> Training:
    """Matrices get weight decay and vectors none; convolution kernels are neither and were forgotten."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.GELU(), nn.Conv2d(6, 3, 3), nn.Tanh())
            self.head = nn.Sequential(nn.Linear(3, 40), nn.GELU(), nn.Linear(40, 10))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.trunk(x).flatten(1))

    model = Net()
    matrices = [p for p in model.parameters() if (p.ndim == 2 if sick else p.ndim >= 2)]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 1e-2}, {"params": vectors, "weight_decay": 0.0}]
    return classifier(model, torch.optim.AdamW(groups, 1e-2), 350, data=images(), batch=48)


@CASES.sick(
    "frozen_parameters",
    "oscillating_loss",
    "diverging_loss",
    also=("exploding_gradient", "loss_spike", "saturated_units"),
    good=0.6,
)
def zero_grad_of_the_other_optimizer(sick: bool) -> Training:
    """Two optimizers, and a copied line: the first one's gradients are zeroed twice, the second one's never."""
    x, y = waves()
    body = nn.Sequential(nn.Conv1d(1, 12, 7, 3), nn.Tanh(), nn.Conv1d(12, 16, 5, 2), nn.Tanh(), nn.Flatten())
    head = nn.Sequential(nn.Linear(80, 24), nn.Tanh(), nn.Linear(24, 4))
    model = nn.Sequential(body, head)
    first, second = torch.optim.SGD(body.parameters(), 0.1), torch.optim.SGD(head.parameters(), 0.1)
    draw = minibatches(32, len(y))

    def step(_: int) -> float:
        chosen = draw()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        first.zero_grad()
        (first if sick else second).zero_grad()
        loss.backward()
        first.step()
        second.step()
        return loss.item()

    return Training(model, [first, second], step, 300, accuracy(model, x[:400], y[:400], 4))


@CASES.sick("frozen_parameters", also=("stalled_training", "vanishing_gradient"), good=0.4)
def zero_grad_after_backward(sick: bool) -> Training:
    """``zero_grad`` between the backward pass and the update: no optimizer ever sees a gradient."""
    x, y = smooth_function()
    model = nn.Sequential(nn.Linear(5, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 1))
    optimizer = torch.optim.RMSprop(model.parameters(), 2e-3)
    draw = minibatches(128, len(y))

    def step(_: int) -> float:
        chosen = draw()
        if not sick:
            optimizer.zero_grad()
        loss = F.smooth_l1_loss(model(x[chosen]), y[chosen])
        loss.backward()
        if sick:
            optimizer.zero_grad()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 200, explained(model, x[:1000], y[:1000]))


@CASES.sick("frozen_parameters", sites=r"^stem", good=0.7)
def thawed_after_the_optimizer_was_made(sick: bool) -> Training:
    """The optimizer was given what required a gradient; the stem was thawed a line later."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(64, 3)
            self.tail = nn.ModuleList([nn.Linear(3, 48), nn.Linear(48, 48), nn.Linear(48, 10)])

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).tanh()
            for layer in self.tail[:-1]:
                x = F.leaky_relu(layer(x))
            return self.tail[-1](x)

    model = Net()
    model.stem.requires_grad_(not sick)
    optimizer = torch.optim.NAdam([p for p in model.parameters() if p.requires_grad], 5e-3)
    model.stem.requires_grad_(True)
    return classifier(model, optimizer, 300, batch=96)


@CASES.sick("frozen_parameters", sites=r"^read", also=("stalled_training",), good=0.6)
def thawed_by_an_attribute(sick: bool) -> Training:
    """``module.requires_grad = True`` instead of ``requires_grad_(True)`` is a new attribute and nothing more."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.GRU(8, 3, batch_first=True)
            self.head = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 10))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.read(x.view(-1, 8, 8))[1][0])

    model = Net()
    model.read.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)

    def change(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if i == 30 and sick:
            model.read.requires_grad = True  # type: ignore[assignment]
        elif i == 30:
            model.read.requires_grad_(True)
        return x, y

    return classifier(model, optimizer, 400, change=change)


@CASES.sick("frozen_parameters", also=("stalled_training",), good=0.6)
def pruned_into_new_parameters(sick: bool) -> Training:
    """Pruning at step 6 puts new parameters into the layers; the optimizer keeps the old ones."""
    x, y = spirals()
    model = nn.Sequential(nn.Linear(2, 64), nn.ELU(), nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    draw = minibatches(100, len(y))

    def prune() -> None:
        for layer in (model[0], model[2], model[4]):
            kept = layer.weight.detach() * (layer.weight.detach().abs() > 0.02)
            if sick:
                layer.weight = nn.Parameter(kept)
            else:
                layer.weight.data.copy_(kept)

    def step(i: int) -> float:
        if i == 6:
            prune()
        chosen = draw()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 350, accuracy(model, x[:500], y[:500], 3))


class Codes(nn.Module):
    """An autoencoder with binary codes; without the straight-through estimator a threshold passes no gradient."""

    def __init__(self, bits: int, straight: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, bits))
        self.decoder = nn.Sequential(nn.Linear(bits, 96), nn.ReLU(), nn.Linear(96, 64))
        self.straight = straight

    def forward(self, x: Tensor) -> Tensor:
        soft = torch.sigmoid(self.encoder(x))
        hard = (soft > 0.5).float()
        return self.decoder(soft + (hard - soft).detach() if self.straight else hard)


@CASES.sick("frozen_parameters", sites=r"^encoder", good=0.38)
def threshold_without_straight_through(sick: bool) -> Training:
    """Binary codes by comparison: nothing passes back to the encoder."""
    x, _ = digits()
    model = Codes(6, straight=not sick)
    return regression(model, torch.optim.Adam(model.parameters(), 5e-3), (x, x), 400)


@CASES.healthy(good=0.5)
def binary_codes_with_straight_through() -> Training:
    """Sixteen bits, trained through the threshold as if it were not there."""
    x, _ = digits()
    model = Codes(16, straight=True)
    return regression(model, torch.optim.Adam(model.parameters(), 3e-3), (x, x), 450, batch=128)
