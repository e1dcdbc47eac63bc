"""The signal propagation plot in the terminal: what becomes of the input on its way forward.

Answers: does the signal keep its size, and do different inputs still look different, layer by layer?
"""

from __future__ import annotations

import math

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradiometer.records import Reading, SiteReading
from gradiometer.report.terminal import blocks, present

ROWS = 24
"""Sites drawn; of more evenly spread ones."""

_CAUSES = ("weights", "activation", "normalization", "connection")
_WIDTH = 16


def show(console: Console, reading: Reading) -> None:
    """Prints the plot of one reading."""
    present(console, lambda plain: render(reading, plain=plain))


def render(reading: Reading, *, plain: bool = False) -> RenderableType:
    """The same as something rich can print."""
    rows = [r for r in reading.sites if r.correlation is not None and r.site.cause in _CAUSES and not r.masked]
    if not rows:
        return Text("no forward statistics: they need at least two examples")
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)  # type: ignore[arg-type]
    heads = ("output of", "rms", "mean²/variance", "correlation of inputs", "")
    table.add_row(*(Text(head, style="dim") for head in heads))
    for row in _spread(rows):
        correlation = row.correlation if row.correlation is not None else math.nan
        cells = max(correlation, 0.0) * _WIDTH if math.isfinite(correlation) else 0.0
        bar = "#" * round(cells) if plain else blocks(cells)
        table.add_row(
            Text(row.name),
            Text(f"{row.rms:.2g}"),
            Text(_short(row), style=""),
            Text(f"{correlation:.3f}", style="red" if correlation > 0.99 else ""),
            Text(bar, style="red" if correlation > 0.99 else "dim"),
        )
    return Group(Text("signal, from the input to the output", style="bold"), table)


def _short(row: SiteReading) -> str:
    return f"{row.offset:.2g}" if row.offset is not None else ""


def _spread(rows: list[SiteReading]) -> list[SiteReading]:
    if len(rows) <= ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (ROWS - 1))] for i in range(ROWS)]
