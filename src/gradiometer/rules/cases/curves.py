"""Trainings with a loss curve of a certain shape, and steps of a certain length."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from gradiometer.rules.base import Patient
from gradiometer.rules.cases.chains import chain, site

_GUESS = math.log(64)
_READINGS = 5

Shape = Literal[
    "learning", "stalled", "little", "zero", "floor", "growing", "blown up", "coming down", "negative", "spike", "jump",
    "swinging", "noisy learning", "heavy tails", "restart", "above", "sinking", "thrown", "new task", "lost",
    "half", "crawling", "fallen", "endless", "likelihood", "threefold", "through zero", "from below",
]  # fmt: skip


class _At(NamedTuple):
    """A step of a training: its number, how many there are, and random numbers, normal and uniform."""

    i: int
    n: int
    normal: float
    uniform: float

    @property
    def late(self) -> int:
        """Steps since the middle, negative before."""
        return self.i - self.n // 2


_SHAPES: dict[str, Callable[[_At], float]] = {
    "learning": lambda s: _GUESS * 0.97**s.i + 0.05 * s.uniform,
    "stalled": lambda s: _GUESS + 0.02 * s.normal,
    "little": lambda s: _GUESS * max(0.98**s.i, 0.9) + 0.02 * s.normal,
    "zero": lambda s: 0.1 * s.normal,
    "floor": lambda s: 0.4 * _GUESS + 0.2 * s.normal,
    "growing": lambda s: _GUESS * 1.05 ** min(s.i, 200),
    "blown up": lambda s: (_GUESS if s.i < 20 else 50.0) + s.uniform,
    "coming down": lambda s: _GUESS * (2 + 10 * 0.97**s.i),
    "negative": lambda s: -0.05 * s.i + 0.1 * s.normal,
    "spike": lambda s: 1.0 + 0.1 * s.uniform + (40.0 * 0.5**s.late if s.late >= 0 else 0.0),
    "jump": lambda s: 0.5 + 0.05 * s.uniform + (20.0 if s.late == 0 else 2.0 if s.late > 0 else 0.0),
    "swinging": lambda s: _GUESS * (2 + math.sin(1.3 * s.i) + 0.3 * s.uniform),
    "noisy learning": lambda s: _GUESS * 0.97**s.i * (1 + 0.8 * math.sin(1.3 * s.i)),
    "heavy tails": lambda s: _GUESS * 0.3 * math.exp(s.normal),
    "above": lambda s: _GUESS * 2 + 0.02 * s.normal,
    "sinking": lambda s: _GUESS * (3 - 1.4 * s.i / s.n),
    "thrown": lambda s: _GUESS * (3 if s.i < 10 else 0.65 + 0.3 * math.sin(1.3 * s.i)),
    "new task": lambda s: _GUESS * (max(0.97**s.i, 0.1) if s.late < 0 else max(0.9 * 0.99**s.late, 0.45)),
    "lost": lambda s: _GUESS * (max(0.97**s.i, 0.1) if s.late < 0 else 1.5),
    "half": lambda s: _GUESS * max(0.98**s.i, 0.5),
    "fallen": lambda s: _GUESS * (1 + 30 * 0.9**s.i) + 0.02 * s.normal,
    "crawling": lambda s: _GUESS * (1 - 0.12 * s.i / s.n),
    "endless": lambda s: -20 * (s.i / s.n) ** 1.25,
    "from below": lambda s: -5 - 20 * (s.i / s.n) ** 1.25,
    "likelihood": lambda s: -30 / (1 + math.exp((0.575 - s.i / s.n) / 0.075)),
    "threefold": lambda s: -1 - 4 * s.i / s.n,
    "through zero": lambda s: 0.6 - 6 * s.i / s.n,
    "restart": lambda s: _GUESS * 0.97 ** (s.i % (s.n // 2)) * (0.5 if s.late >= 0 else 1.0),
}


def training(
    gains: Sequence[float],
    *,
    moved: float | Sequence[float],
    weights: float = 1.0,
    loss: Shape = "stalled",
    steps: int = 200,
    steep: float = 10.0,
    flipped: bool = False,
    rate: float | None = None,
    post_norm: int = 0,
) -> Patient:
    """A chain of ReLU layers whose steps move the weights by ``moved`` of their size, or by one of these a reading.

    ``weights`` is the size that the weights have in the end, over that at birth. A step by a part p of the weights
    takes at most ``steep * p`` of a constant guess off the loss. With ``flipped`` the loss had its sign changed. The
    learning rate is ``rate``, or else ``moved``; ``post_norm`` sums have a normalization behind them.
    """
    ones = [1.0] * (len(gains) + 1)
    made = chain(gains, "relu", loss="stalled", ratios=ones).recent[0]
    sums = ((f"b{i}:add", "add") if k == 0 else (f"b{i}.norm", "layer_norm") for i in range(post_norm) for k in (0, 1))
    made = replace(made, sites=(*made.sites[:-1], *(site(*named, 1.0) for named in sums), made.sites[-1]))
    ratios = [moved] * _READINGS if isinstance(moved, int | float) else moved
    r = random.Random(0)
    losses = [(i, _SHAPES[loss](_At(i, steps, r.gauss(0, 1), r.random()))) for i in range(steps)]
    readings = []
    for k, ratio in enumerate(ratios):
        part = k / (_READINGS - 1)
        step, size = int(part * (steps - 1)), weights**part
        parameters = []
        for p in made.parameters:
            count = math.prod(p.parameter.shape)
            # |g| |dw| summed over the parameters is steep * ratio of the loss, where weights have norm sqrt(count).
            gradient = steep * _GUESS / count / len(ones)
            parameters.append(replace(p, weight_rms=size, update_rms=ratio * size, grad_rms=gradient / size))
        operations = ("neg" if flipped else "", *made.loss_operations)[0 if flipped else 1 :]
        readings.append(
            replace(
                made,
                step=step,
                time=float(step),
                loss=losses[step][1],
                parameters=tuple(parameters),
                loss_operations=operations,
                learning_rate=ratio if rate is None else rate,
            )
        )
    return Patient(readings[:3], readings, losses)
