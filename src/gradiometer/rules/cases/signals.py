"""Attention, the likeness of different inputs, 16-bit formats and clipping: what only some readings tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gradiometer.records import Cause, Ledger, LedgerRow, ParameterReading, Reading, Site, SiteReading
from gradiometer.rules.base import Patient
from gradiometer.rules.cases.chains import Loss, parameter, patient, reading, site

_BATCH, _LENGTH, _UNITS = 8, 64, 64


def _site(name: str, operation: str, cause: Cause, shape: tuple[int, ...] = (_BATCH, _LENGTH, _UNITS)) -> SiteReading:
    return replace(site(name, "linear", 1.0, shape=shape), site=Site(name, operation, cause))


def attention(
    now: tuple[float, float],
    *,
    loss: Loss,
    birth: tuple[float, float] | None = None,
    layers: int = 2,
    collapsed: int | None = None,
    operation: str = "scaled_dot_product_attention",
    keys: int = _LENGTH,
    product: bool = True,
    trained: bool = False,
    since: int = 100,
) -> Patient:
    """A transformer whose attention has this entropy and sharpness, and had those of ``birth`` at its first step.

    Only the first ``collapsed`` layers have, the others are even. Without ``product`` nothing is multiplied with the
    softmax; ``trained`` says that the first loss is already far below that of a constant guess. ``since`` is the step
    at which it was first seen to be no more as at birth.
    """

    def at(step: int, seen: tuple[float, float]) -> Reading:
        rows = [_site("embed", "embedding", "weights")]
        for i in range(layers):
            entropy, sharpness = seen if collapsed is None or i < collapsed else (0.95, 0.6)
            shape = (_BATCH, 4, _LENGTH, keys) if operation == "softmax" else (_BATCH, 4, _LENGTH, 16)
            row = _site(f"blocks.{i}:{operation}", operation, "attention", shape)
            rows.append(replace(row, entropy=entropy, sharpness=sharpness))
            if operation == "softmax":
                rows.append(_site(f"blocks.{i}.drop", "dropout", "connection", shape))
                rows.append(_site(f"blocks.{i}.value", "linear", "weights"))
                rows += [_site(f"blocks.{i}:matmul", "matmul", "attention")] if product else []
            rows.append(_site(f"blocks.{i}.out", "linear", "weights"))
        made = reading([*rows, _site("head", "linear", "weights")], step=step)
        return replace(made, loss=0.3 * math.log(_UNITS)) if trained else replace(made, loss=math.log(_UNITS))

    if birth is None:
        return patient([at(step, now) for step in range(1 if loss == "unknown" else 3)], loss)
    return patient([at(0, birth), at(since, (now[0], 0.7 * now[1])), at(199, now)], loss)


def likeness(
    apart: Sequence[float],
    *,
    loss: Loss,
    tokens: bool = False,
    pooled: bool = False,
    birth: Sequence[float] | None = None,
    speed: float | None = None,
    dead: bool = False,
    skips: bool = False,
    losses: int = 200,
) -> Patient:
    """Weight layers after which different inputs (or tokens) are so far ``apart``: one minus their mean cosine.

    ``birth`` is the same at the first step, ``pooled`` says that the last layer sees the mean of the tokens, ``speed``
    is the update-to-weight ratio of all layers, ``dead`` that no unit of the middle is ever active, ``skips`` that sums
    carry the inputs past all layers.
    """

    def at(step: int, seen: Sequence[float]) -> Reading:
        rows = []
        for i, distance in enumerate(seen):
            last = i == len(seen) - 1
            row = _site(f"fc{i}", "linear", "weights", (_BATCH, _UNITS) if pooled and last else (512, 8, _UNITS))
            known = {"positions": 1 - distance, "correlation": 0.3} if tokens else {"correlation": 1 - distance}
            row = replace(row, **known)
            rows.append(replace(row, positions=None) if pooled and last else row)
            if tokens and not last:
                rows.append(_site(f"fc{i}:matmul", "matmul", "attention"))
            if dead and i == len(seen) // 2:
                rows.append(site(f"act{i}", "relu", 1.0, dead=1.0))
            if skips and not last:
                rows.append(replace(_site(f"fc{i}:add", "add", "connection"), correlation=1 - seen[0]))
        ratios = [speed] * len(seen) if speed is not None else [1e-9] * (len(seen) - 2) + [1e-3] * 2
        return reading(rows, [parameter(f"fc{i}.weight", r) for i, r in enumerate(ratios)], step)

    steps = 1 if loss == "unknown" else 3
    readings = [at(step, birth if birth is not None and not step else apart) for step in range(steps)]
    made = patient(readings, loss)
    return replace(made, losses=made.losses[:losses])


def compared(apart: Sequence[float], *, targets: bool = False) -> Patient:
    """An encoder that is called twice in a step, on two views, and whose embeddings are so far apart in each reading.

    The loss compares them with each other, or with ``targets``, and falls.
    """

    def at(step: int, distance: float) -> Reading:
        rows = [replace(_site("fc0", "linear", "weights"), correlation=0.5)]
        for name in ("fc1", "fc1.1"):
            rows.append(replace(_site(name, "linear", "weights", (512, _UNITS)), correlation=1 - distance))
        made = reading(rows, step=step)
        task = replace(made.tasks[0], guess=None)
        return replace(made, tasks=(task,) if targets else (), loss_operations=("mean",))

    return patient([at(60 * k, distance) for k, distance in enumerate(apart)], "learning")


def shrinking(targets: Sequence[float], answers: Sequence[float] | None = None) -> Patient:
    """A network whose targets vary by so much in each reading, and whose answers vary as much, or by ``answers``."""

    def at(step: int, answered: float, asked: float) -> Reading:
        made = reading([_site("fc0", "linear", "weights"), _site("fc1", "linear", "weights")], step=step)
        task = replace(made.tasks[0], loss="mse_loss", before=("linear",), guess=None, spread=(answered, asked))
        return replace(made, tasks=(task,), loss_operations=("mse_loss", "linear"))

    pairs = zip(answers or targets, targets, strict=True)
    return patient([at(k if k < 3 else 60 * k, *pair) for k, pair in enumerate(pairs)], "learning")


def float16(
    lost: float,
    *,
    loss: Loss,
    enters: float = 1.0,
    nothing_below: int | None = None,
    scales: Sequence[float] = (1.0,),
    learned: bool = False,
) -> Patient:
    """Six layers in float16 whose gradients have lost this share of their elements.

    All gradients are zero below layer ``nothing_below``, where one of this rms still enters.
    """

    def at(step: int, scale: float) -> Reading:
        rows = []
        for i in range(6):
            zero = nothing_below is not None and i < nothing_below
            rows.append(replace(site(f"fc{i}", "linear", 0.0 if zero else 1e-5), lost=1.0 if zero else lost))
        made = reading(rows, [parameter(f"fc{i}.weight", 1e-3 if learned else 0.0) for i in range(6)], step)
        ledger = [LedgerRow("loss:nll_loss", "nll_loss", "loss", 1.0, 0.0, enters)]
        for i in reversed(range(nothing_below or 0, 6)):
            ledger.append(LedgerRow(f"fc{i}", "linear", "weights", 1.0, 0.0, enters))
        if nothing_below is not None:
            ledger[-1] = replace(ledger[-1], gain=0.0, log10_gain=-math.inf)
        return replace(made, loss_scale=scale, ledger=Ledger(tuple(ledger), "fc0", 0.0))

    steps = 1 if loss == "unknown" else 3
    return patient([at(i, scales[min(i, len(scales) - 1)]) for i in range(steps)], loss)


def rounded(
    moved: Sequence[float], *, loss: Loss, birth: Sequence[float] | None = None, gradient: float = 1e-2
) -> Patient:
    """bfloat16 weights of which a step changes these shares of the elements; at first those of ``birth``."""

    def at(step: int, shares: Sequence[float]) -> Reading:
        rows = [site(f"fc{i}", "linear", 1.0) for i in range(len(shares))]
        return reading(rows, [_bfloat16(f"fc{i}.weight", s, gradient) for i, s in enumerate(shares)], step)

    now, first = [at(100 + i, moved) for i in range(3)], [at(i, birth or moved) for i in range(3)]
    made = patient(first[:1] if loss == "unknown" else now, loss)
    return made if loss == "unknown" else replace(made, early=first)


def _bfloat16(name: str, moved: float, gradient: float) -> ParameterReading:
    made = parameter(name, 1e-5 * moved)
    return replace(made, parameter=replace(made.parameter, dtype="bfloat16"), moved=moved, grad_rms=gradient)


def clipped(
    factors: Sequence[float], ratio: float, *, loss: Loss, gradient: float = 1.0, rate: float | None = None
) -> Patient:
    """Steps whose gradient was clipped by these factors, to this rms, and which moved all weights by this ratio.

    The learning rate is ``rate``, or else that with which SGD makes such steps.
    """
    rate = ratio / gradient if rate is None else rate
    rows = [site(f"fc{i}", "linear", 1.0) for i in range(4)]
    weights = [replace(parameter(f"fc{i}.weight", ratio), grad_rms=gradient) for i in range(4)]
    made = (reading(rows, weights, i) for i in range(len(factors)))
    return patient([replace(r, clipped=f, learning_rate=rate) for r, f in zip(made, factors, strict=True)], loss)
