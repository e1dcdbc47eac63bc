"""A recurrence in the terminal: the gradient by time step.

Answers: how far back does the gradient reach, and which gate or matrix holds it up?
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradiometer.records import Recurrence
from gradiometer.report.terminal import blocks, number, signed

STEPS = 12
"""Time steps drawn; of more evenly spread ones."""


def render(recurrence: Recurrence, *, plain: bool = False, width: int = 36) -> RenderableType:
    """What rich can print; ``width`` is that of the bars."""
    gains = [g for g in recurrence.gains if g > 0 and math.isfinite(g)]
    mean = math.exp(math.fsum(map(math.log, gains)) / len(gains)) if gains else 0.0
    horizon = recurrence.horizon
    seen = horizon < recurrence.steps
    said = (
        "does not fall"
        if math.isinf(horizon)
        else f"falls to 1 % within {math.ceil(horizon)} steps{'' if seen else ' (continued beyond the sequence)'}"
        if math.isfinite(horizon)
        else "is zero"
    )
    lines: list[RenderableType] = [
        Text(
            f"through time: {recurrence.parameter or recurrence.site}, {recurrence.steps} steps · "
            f"gain {mean:.2g} a step · the gradient {said}",
            style="bold",
        )
    ]
    by = [f"{name} {signed(d)}" for name, d in recurrence.by.items() if abs(d) >= 0.005]
    if by:
        lines.append(Text("a step: " + ", ".join(by), style="dim"))
    if recurrence.bound is not None and recurrence.bound < 1:
        lines.append(Text(f"the derivatives of the activation allow {recurrence.bound:.5g} at most", style="dim"))
    table = Table.grid(padding=(0, 1))
    top = recurrence.gradients[-1]
    values = [math.log10(g / top) if g > 0 and top > 0 else -math.inf for g in recurrence.gradients]
    widest = max([1.0, *(abs(v) for v in values if math.isfinite(v))])
    for i in _spread(len(values)):
        length = abs(values[i]) / widest * width if math.isfinite(values[i]) else 0
        bar = "#" * round(length) if plain else ("░" * round(length) if values[i] > 0 else blocks(length))
        table.add_row(Text(f"step {i + 1}", style="dim"), Text(bar or ("|" if plain else "▏")), number(values[i]))
    return Group(*lines, Padding(table, (0, 0, 0, 3)))


def _spread(count: int) -> Iterable[int]:
    """Evenly spread numbers, the last first, as the gradient goes."""
    if count <= STEPS:
        return range(count - 1, -1, -1)
    return sorted({round(i * (count - 1) / (STEPS - 1)) for i in range(STEPS)}, reverse=True)
