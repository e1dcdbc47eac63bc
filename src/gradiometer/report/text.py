"""A diagnosis in the terminal: number, place, reason, remedy, and the gradient by layer as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradiometer.records import Diagnosis, Finding, Reading, Run, SiteReading
from gradiometer.report.terminal import blocks, present

ROWS = 14
"""Layers drawn of one model; of deeper ones evenly spread layers, the first and the last among them."""

_BAR = 40
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
_VERDICTS = {True: "bold green", False: "bold red", None: "bold yellow"}


def show(console: Console, diagnosis: Diagnosis, run: Run | None = None) -> None:
    """Prints a diagnosis, and of a run the picture of its newest reading that has gradients."""
    present(console, lambda plain: render(diagnosis, run, plain=plain))


def render(diagnosis: Diagnosis, run: Run | None = None, *, plain: bool = False) -> RenderableType:
    """The same as something rich can print; with ``plain`` the bars are of plain characters."""
    head = Text(diagnosis.subject)
    head.append(" · " if diagnosis.subject else "")
    head.append(diagnosis.verdict, style=_VERDICTS[diagnosis.healthy])
    parts: list[RenderableType] = [head]
    if diagnosis.silence:
        parts.append(Text(diagnosis.silence, style="yellow"))
    if diagnosis.reason:
        parts += [Text(), Text(diagnosis.reason)]
    for number, (cause, consequences) in enumerate(diagnosis.stories, 1):
        parts += [Text(), _story(number, cause, consequences)]
    for reading in _pictured(run) if run is not None else ():
        parts += [Text(), gradient_picture(reading, plain=plain)]
    for note in run.notes if run is not None else ():
        parts += [Text(), Text(f"note: {note}", style="yellow")]
    return Group(*parts)


def _story(number: int, finding: Finding, consequences: Sequence[Finding]) -> RenderableType:
    """A finding with all that is said of it, and a line for each of those that follow from it."""
    table = Table.grid(padding=(0, 2), expand=False)
    head = Text(f"{number}  ")
    head.append(finding.name, style="bold")
    head.append(f"  {finding.severity}", style=_STYLES[finding.severity])
    if finding.follows_from:  # from one that is not shown here
        head.append(f"  (follows from {finding.follows_from.replace('_', ' ')})", style="dim")
    table.add_row(head)
    for label, text, style in (
        ("", finding.explanation, ""),
        ("where", finding.where, ""),
        ("cause", finding.cause, ""),
        ("do", " · ".join(finding.remedies), ""),
        ("wrong if", finding.wrong_if, "dim"),
        *((consequence.link, consequence.brief, "") for consequence in consequences),
    ):
        if text:
            line = Text()
            line.append(f"{label}: " if label else "", style="dim")
            line.append(text, style=style)
            table.add_row(Padding(line, (0, 0, 0, 3)))
    return table


def _pictured(run: Run) -> list[Reading]:
    """For each optimizer its newest reading with gradients, one in which they are all finite if there is one."""
    chosen: dict[int, Reading] = {}
    for i in range(len(run.readings) - 1, max(-1, len(run.readings) - 40), -1):
        reading = run.readings[i]
        drawn = [row for row in reading.sites if _drawn(row)]
        broken = chosen.get(reading.optimizer)
        better = broken is None or any(row.grad_nonfinite for row in broken.sites)
        if drawn and better and (broken is None or not any(row.grad_nonfinite for row in drawn)):
            chosen[reading.optimizer] = reading
    return [chosen[number] for number in sorted(chosen)]


def _drawn(row: SiteReading) -> bool:
    return row.site.cause == "weights" and row.grad_norm is not None


def gradient_picture(reading: Reading, *, plain: bool = False) -> RenderableType:
    """The gradient that arrives at each weight layer, in decades of what the last one gets, from output to input.

    Answers: where on the way from the loss to the input is the gradient lost, or where does it grow?
    """
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    title = Text(f"gradient by layer at step {reading.step}, in decades of what the last layer gets", style="dim")
    # Of several models those that this optimizer trains: the others' gradients only pass through.
    trained = {p.parameter.model for p in reading.parameters if p.parameter.optimizer == reading.optimizer}
    for model in dict.fromkeys(row.site.model for row in reading.sites):
        if trained and model not in trained:
            continue
        rows = [row for row in reading.sites if _drawn(row) and row.site.model == model][::-1]
        if not rows:
            continue
        values = [_decades(row, rows[0]) for row in rows]
        widest = max([1.0, *(abs(v) for v in values if math.isfinite(v))])
        for i in _spread(len(rows)):
            table.add_row(Text(rows[i].name), _bar(values[i], widest, plain), _number(values[i]))
    return Group(title, Padding(table, (0, 0, 0, 3)))


def _decades(row: SiteReading, top: SiteReading) -> float:
    if not top.grad_norm or row.grad_nonfinite or top.grad_nonfinite:
        return math.nan
    return math.log10(row.grad_norm / top.grad_norm) if row.grad_norm else -math.inf


def _spread(count: int) -> list[int]:
    if count <= ROWS:
        return list(range(count))
    return sorted({round(i * (count - 1) / (ROWS - 1)) for i in range(ROWS)})


def _bar(value: float, widest: float, plain: bool) -> Text:
    if math.isnan(value):
        return Text("NaN or Inf", style="red")
    if value == -math.inf:
        return Text("no gradient", style="red")
    length = abs(value) / widest * _BAR
    if plain:
        bar = ("+" if value > 0 else "#") * round(length) or "|"
    elif value > 0:  # growth looks different from loss, also without colours
        bar = "░" * round(length) or "▏"
    else:
        bar = blocks(length) or "▏"
    style = "green" if abs(value) < 1 else "yellow" if abs(value) < 3 else "red"
    return Text(bar, style=style)


def _number(value: float) -> Text:
    return Text(
        f"{value:+.1f}" if math.isfinite(value) and abs(value) >= 0.05 else "0.0" if math.isfinite(value) else ""
    )
