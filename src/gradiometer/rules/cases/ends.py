"""Networks in which one operation decides what comes back: a cut, an output, a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gradiometer.records import Ledger, LedgerRow, Reading
from gradiometer.rules.base import Patient
from gradiometer.rules.cases.chains import UNITS, Loss, chain, parameter, patient, reading, site


def cut(operation: str, *, loss: Loss, held: bool = True, drawn: bool = False) -> Patient:
    """A healthy head of four layers; behind it this operation lets nothing pass to a parameter.

    ``drawn`` says that it is still as torch draws it.
    """
    whole = chain([1.0] * 4, "relu", loss=loss)
    behind = replace(parameter("body.weight", 0.0, 0.577 / math.sqrt(UNITS) if drawn else 1.0), grad_rms=None)
    behind = replace(behind, parameter=replace(behind.parameter, optimizer=0 if held else -1))
    row = LedgerRow("body:cut", operation, "connection", 0.0, -math.inf, math.nan, parameter="body.weight")
    readings = [
        replace(r, ledger=Ledger((*r.ledger.rows, row), "body:cut", 0.0), parameters=(*r.parameters, behind))
        for r in whole.recent
    ]
    return patient(readings, loss)


def output(operation: str, *, saturation: float, loss: Loss) -> Patient:
    """A classifier whose last operation is an activation."""
    rows = [site(f"fc{i}", "linear", 1.0) for i in range(4)] + [site("out", operation, 1.0, saturation=saturation)]
    return patient([reading(rows)], loss)


def closed(
    operation: str,
    passing: Sequence[float],
    *,
    loss: Loss,
    units: int = UNITS,
    examples: int = 512,
    gates: bool = False,
) -> Patient:
    """Two layers with this operation behind them, below which these gradients are left, one a reading."""
    shape = (examples, units)
    flat, dead = (None, 1.0) if operation == "relu" else (0.99, None)
    readings = []
    for step, norm in enumerate(passing):
        end = site("act", operation, 1.0, shape=shape, saturation=flat, dead=dead)
        rows = [site("fc0", "linear", norm), site("fc1", "linear", norm, shape=shape), replace(end, gates=gates)]
        rows += [site("mul", "mul", 1.0, shape=shape), site("out", "linear", 1.0, shape=shape)] if gates else []
        readings.append(reading(rows, step=step))
    return patient(readings, loss)


def gate(
    operation: str,
    *,
    saturation: float,
    loss: Loss,
    passing: float = 1.0,
    shut: int = 4,
    birth: float | None = None,
) -> Patient:
    """Four blocks in which an activation is multiplied with the signal.

    ``passing`` is the gradient that the first ``shut`` of them let through, ``birth`` how flat they were at first.
    """

    def at(step: int, flat: float) -> Reading:
        rows = []
        for i in range(4):
            norm = passing if i < shut else 1.0
            rows += [site(f"b{i}.fc", "linear", norm), site(f"b{i}.act", operation, 1.0, saturation=flat)]
            rows[-1] = replace(rows[-1], gates=True)
            rows += [site(f"b{i}:mul", "mul", 1.0)]
        return reading([*rows, site("out", "linear", 1.0)], step=step)

    return patient([at(0, saturation if birth is None else birth), at(100, saturation)], loss)
