"""NaN and Inf."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, accuracy, bounded, drawn, explained
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.held_out.a_nonfinite import Contrast, Counts, Pool
from benchmarks.gauntlet.held_out.common_a import dense_stack, seeded, table
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("nonfinite")
def distance_of_an_image_to_itself(sick: bool) -> Recipe:
    """The root of a squared distance, whose slope is infinite at zero: the sampler may pair an image with itself."""
    x, y = digits()
    seen, labels = x[HELD:], y[HELD:]
    eps = 0.0 if sick else 1e-8

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(1000 + seed)
        while True:
            chosen = torch.randint(len(labels), (64,), generator=g)
            pool = (labels[chosen, None] == labels).float()
            friends = torch.multinomial(pool, 1, generator=g)[:, 0]
            others = chosen[torch.randperm(len(chosen), generator=g)]
            yield seen[torch.cat([chosen, friends, others])], labels[chosen] != labels[others]

    def triplets(outputs: Tensor, different: Tensor) -> Tensor:
        anchor, near, far = outputs.chunk(3)
        positive = ((anchor - near).square().sum(1) + eps).sqrt()
        negative = ((anchor - far).square().sum(1) + 1e-8).sqrt()
        return F.relu(positive - negative + 1)[different].mean()

    def evaluate(model: nn.Module) -> float:
        nearest = labels[torch.cdist(model(x[:HELD]), model(seen)).argmin(1)]
        return bounded(((nearest == y[:HELD]).float().mean().item() - 0.1) / 0.9)

    return Recipe(
        model=lambda: dense_stack([64, 64, 64, 8], nn.SiLU),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 2e-3),
        loss=triplets,
        batches=batches,
        evaluate=evaluate,
        steps=200,
    )


@CASES.sick("nonfinite")
def softmax_over_an_empty_sequence(sick: bool) -> Recipe:
    """One document in eight hundred is empty; all of its attention logits are minus infinity."""
    g = seeded(82)
    y = torch.randint(5, (2400,), generator=g)
    x = torch.randint(1, 30, (2400, 12), generator=g)
    about = torch.randint(5, (2400, 12), generator=g) + 5 * y[:, None] + 1  # words of its own topic
    x = torch.where(torch.rand(2400, 12, generator=g) < 0.6, about, x)
    lengths = torch.randint(4, 13, (2400, 1), generator=g)
    lengths[700:2000:800] = 0
    x = x * (torch.arange(12) < lengths)
    return Recipe(
        model=lambda: Pool(careful=not sick),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2),
        loss=F.cross_entropy,
        batches=drawn(x[:2000], y[:2000]),
        evaluate=accuracy(x[2000:], y[2000:], 5),
        steps=250,
    )


@CASES.sick("nonfinite")
def logarithm_behind_a_where(sick: bool) -> Recipe:
    """``where(x > 0, log(x), 0)``: fine forward, zero over zero backward, and the scales of the inputs are NaN."""
    g = seeded(83)
    x = torch.poisson(torch.rand(2000, 8, generator=g) * 4, generator=g)
    y = (x + 1).log() @ torch.randn(8, 1, generator=g)
    y = (y - y.mean()) / y.std()
    return Recipe(
        model=lambda: Counts(careful=not sick),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 5e-3),
        loss=nn.MSELoss(),
        batches=drawn(x[:1600], y[:1600]),
        evaluate=explained(x[1600:], y[1600:]),
        steps=250,
    )


@CASES.sick("nonfinite")
def blank_image_divided_by_its_contrast(sick: bool) -> Recipe:
    """Two blank scans among fourteen hundred have a standard deviation of zero, and nothing is added to it."""
    x, y = images()
    seen, labels = x[HELD:].clone(), y[HELD:]
    seen[[333, 999]] = 0.0
    return Recipe(
        model=lambda: Contrast(0.0 if sick else 1e-3),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.02, momentum=0.9),
        loss=F.cross_entropy,
        batches=drawn(seen, labels, 32),
        evaluate=accuracy(x[:HELD], y[:HELD]),
        steps=200,
    )


@CASES.sick("nonfinite")
def one_reading_of_a_sensor_is_missing(sick: bool) -> Recipe:
    """One NaN in a table of two thousand rows; the twin has the column's mean there."""
    x, y = table()
    x = x.clone()
    x[777, 3] = math.nan if sick else 0.0
    return Recipe(
        model=lambda: nn.Sequential(
            *[nn.Linear(8, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)]
        ),
        optimizer=lambda parameters: torch.optim.NAdam(parameters, 3e-3),
        loss=nn.MSELoss(),
        batches=drawn(x[:2000], y[:2000]),
        evaluate=explained(x[2000:], y[2000:]),
        steps=250,
    )
