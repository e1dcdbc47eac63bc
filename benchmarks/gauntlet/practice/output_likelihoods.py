"""Losses that want probabilities, logits, rates or their logarithms, and get another of these."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.practice.output_common import (
    Decoder,
    Recurrent,
    balanced,
    likely,
    next_character,
)
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    bounded,
    convolutions,
    explained,
    he,
    mlp,
    supervised,
    undisturbed,
)
from torch import Tensor, nn

CASES = Cases()


def log_softmax(logits: Tensor) -> Tensor:
    """Over the last axis."""
    return logits.log_softmax(-1)


@CASES.sick("output_mismatch", also=("stalled_training", "saturated_units"))
def language_model_with_nll_of_probabilities(sick: bool) -> Training:
    """``nll_loss`` is given probabilities; the logarithm is missing, and to be sure is all that counts."""
    model = Recurrent(nn.GRU)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.nll_loss(a.softmax(-1) if sick else a.log_softmax(-1), b)

    return next_character(model, optimizer, 300, loss, log_softmax)


@CASES.sick("output_mismatch", also=("stalled_training",))
def language_model_with_softmax_twice(sick: bool) -> Training:
    """The transformer's probabilities go through the softmax of the cross-entropy once more."""
    model = Decoder()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.cross_entropy(a.softmax(-1) if sick else a, b)

    def probabilities(a: Tensor) -> Tensor:
        return (a.softmax(-1) if sick else a).log_softmax(-1)

    return next_character(model, optimizer, 400, loss, probabilities)


@CASES.sick("output_mismatch", also=("stalled_training", "saturated_units"))
def distillation_without_the_logarithm(sick: bool) -> Training:
    """``kl_div`` wants log-probabilities of the student and gets probabilities."""
    x, _ = digits()
    g = torch.Generator().manual_seed(2)
    teacher = (x @ torch.randn(64, 6, generator=g) / 8).softmax(1)
    model = mlp(1, nn.ReLU, he(), outputs=6)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.kl_div(a.softmax(1) if sick else a.log_softmax(1), b, reduction="batchmean")

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    score = explained(lambda inputs: model(inputs).softmax(1), x[:500], teacher[:500], model)
    return supervised(model, optimizer, (x, teacher), loss, score, 250)


@CASES.sick("output_mismatch", also=("stalled_training", "saturated_units", "vanishing_gradient"), good=0.3)
def rates_taken_for_their_logarithms(sick: bool) -> Training:
    """A Poisson loss whose ``log_input`` is left true, and outputs that are rates already."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2000, 5, generator=g)
    rate = (0.8 * (2 * x[:, 0]).sin() + 0.7 * x[:, 1]).exp() * 0.25
    counts = torch.poisson(rate, generator=g)
    model = nn.Sequential(*mlp(2, nn.ReLU, he(), inputs=5, outputs=1), nn.Softplus())

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.poisson_nll_loss(a[:, 0], b, log_input=sick)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return supervised(model, optimizer, (x, counts), loss, explained(model, x[:1000], rate[:1000]), 300)


@CASES.sick("output_mismatch", also=("stalled_training",))
def several_labels_reduced_to_the_first(sick: bool) -> Training:
    """Properties of a digit, several of which may hold, made one class index by ``argmax``: the first."""
    x, digit = images()
    has = torch.tensor([[d % 2 == 0, d > 3, d in (0, 6, 8, 9), d in (2, 3, 5, 7), d % 3 == 0] for d in range(10)])
    y = has.float()[digit]
    model = nn.Sequential(*convolutions([1, 16, 32]), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 5))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.cross_entropy(a, b.argmax(1)) if sick else F.binary_cross_entropy_with_logits(a, b)

    def score() -> float:
        with undisturbed(model):
            exact = ((model(x[:500]) > 0) == (y[:500] > 0)).all(1).float().mean().item()
        return bounded((exact - 0.1) / 0.9)

    return supervised(model, optimizer, (x, y), loss, score, 250, batch=32)


class Same(nn.Module):
    """Whether two images show the same digit, from the differences of their features."""

    def __init__(self, squash: bool) -> None:
        super().__init__()
        self.features = mlp(1, nn.ReLU, he(), outputs=32)
        self.judge = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        self.squash = nn.Sigmoid() if squash else nn.Identity()

    def forward(self, pair: Tensor) -> Tensor:
        a, b = self.features(pair[:, 0]), self.features(pair[:, 1])
        return self.squash(self.judge((a - b).abs()))[:, 0]


@CASES.sick("output_mismatch", also=("stalled_training", "saturated_units"))
def pairs_with_two_sigmoids(sick: bool) -> Training:
    """The network ends in a sigmoid and the loss has its own, so no pair can be called different with any certainty."""
    x, digit = digits()
    g = torch.Generator().manual_seed(4)
    one = torch.randint(len(x), (4000,), generator=g)
    other = torch.randint(len(x), (4000,), generator=g)
    alike = torch.stack([torch.randint(len(x), (40,), generator=g) for _ in range(4000)])
    match = alike.gather(1, (digit[alike] == digit[one][:, None]).int().argmax(1, keepdim=True))[:, 0]
    other = torch.where(torch.arange(4000) % 2 == 0, match, other)
    pairs, y = torch.stack([x[one], x[other]], 1), (digit[one] == digit[other]).long()
    model = Same(squash=sick)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(a, b.float())

    def log_probabilities(a: Tensor) -> Tensor:
        return torch.stack([F.logsigmoid(-a), F.logsigmoid(a)], 1)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return supervised(
        model, optimizer, (pairs, y), loss, likely(model, pairs[:800], y[:800], log_probabilities, 2), 300
    )


@CASES.sick(
    "output_mismatch",
    "diverging_loss",
    "oscillating_loss",
    "loss_spike",
    "nonfinite",
    also=("exploding_gradient", "stalled_training", "dead_units"),
)
def dice_of_raw_scores(sick: bool) -> Training:
    """The soft Dice loss is taken of logits; without a sigmoid it is no overlap and has no bound."""
    clean, _ = images()
    x = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    mask = (clean > 0.5).float()
    model = nn.Sequential(*convolutions([1, 16, 16]), nn.Conv2d(16, 1, 1))

    def loss(a: Tensor, b: Tensor) -> Tensor:
        p = a if sick else a.sigmoid()
        return 1 - (2 * (p * b).sum() + 1) / (p.sum() + b.sum() + 1)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    score = balanced(model, x[:400], mask[:400], lambda out: out > 0)
    return supervised(model, optimizer, (x, mask), loss, score, 150, batch=32)


class Towers(nn.Module):
    """Two encoders that meet in unit vectors, and the similarities of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = mlp(1, nn.ReLU, he(), outputs=32), mlp(1, nn.ReLU, he(), outputs=32)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.normalize(self.left(a), dim=1) @ F.normalize(self.right(b), dim=1).T


@CASES.sick("output_mismatch", "stalled_training", also=("vanishing_gradient",))
def similarities_multiplied_by_the_temperature(sick: bool) -> Training:
    """Cosines times 0.07 instead of divided by it: the softmax over the batch stays uniform."""
    x, _ = digits()
    g = torch.Generator().manual_seed(6)
    turned = torch.linalg.qr(torch.randn(64, 64, generator=g))[0]
    a = x + 0.3 * torch.randn(x.shape, generator=g)
    b = x @ turned + 0.3 * torch.randn(x.shape, generator=g)
    model = Towers()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    draw = minibatches(64, 1400)
    same = torch.arange(64)

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        cosines = model(a[chosen], b[chosen])
        logits = cosines * 0.07 if sick else cosines / 0.07
        loss = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            found = model(a[1400:1600], b[1400:1600]).argmax(1)
        return bounded((found == torch.arange(200)).float().mean().item())

    return Training(model, optimizer, step, 250, score)


class Cosines(nn.Module):
    """A classifier by the cosine between features and class vectors, times a fixed scale."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolutions([1, 16, 32]), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 32))
        self.classes = nn.Parameter(torch.randn(10, 32))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.normalize(self.body(x), dim=1) @ F.normalize(self.classes, dim=1).T


@CASES.sick(
    "output_mismatch",
    "oscillating_loss",
    "saturated_units",
    "exploding_gradient",
    also=("stalled_training", "loss_spike"),
)
def cosine_classifier_at_a_temperature_of_a_thousandth(sick: bool) -> Training:
    """Cosines times 1000 before the softmax: every answer is certain, and every mistake costs hundreds."""
    model = Cosines(1000.0 if sick else 8.0)
    x, y = images()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    return supervised(
        model, optimizer, (x, y), F.cross_entropy, likely(model, x[:500], y[:500], log_softmax, 10), 150, batch=32
    )
