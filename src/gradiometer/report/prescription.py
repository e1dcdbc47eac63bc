"""A prescription in the terminal: what was tried as a table, and the cure with its code."""

from __future__ import annotations

import math

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from gradiometer.records import Arm, Interval, PrescriptionRecord, Trial
from gradiometer.report.terminal import present

_LEGEND = (
    "gradient: at the first weight layer, in decades of the last one's, in the first step; predicted by the ledger. "
    "gain: of the score over the untreated twin, with its 95 % interval over the seeds."
)

WIDE = 110
"""Columns of a terminal from which on the whole table fits."""

ROWS = 12
"""Trials told; further ones are counted."""


def show(console: Console, record: PrescriptionRecord) -> None:
    """Prints a prescription; the code as it is, so that it can be copied."""
    present(console, lambda _: render(record, wide=console.width >= WIDE))
    if record.cure is not None:
        console.print()
        write(console, record.code, "python")
    present(console, lambda _: Text(_cost(record), style="dim"))


def write(console: Console, text: str, lexer: str) -> None:
    """Prints code or a diff as it is, neither wrapped nor padded, so that it can be copied, piped and applied."""
    if not console.encoding.lower().startswith("utf"):
        text = text.encode(console.encoding, "replace").decode(console.encoding)
    if console.is_terminal:
        coloured = Syntax("", lexer, theme="ansi_dark", background_color="default").highlight(text)
        console.print(coloured, soft_wrap=True, end="")
    else:
        console.file.write(text if text.endswith("\n") else f"{text}\n")


def render(record: PrescriptionRecord, *, wide: bool = True) -> RenderableType:
    """The table and the verdict as something rich can print; if it is not ``wide`` with fewer columns.

    Answers: what was tried, and what came of it beside the untreated twin.
    """
    parts: list[RenderableType] = []
    if record.trials:
        parts += [_table(record, wide), Text(_LEGEND, style="dim"), Text()]
    head = Text("cure: " if record.cure else "no cure: ", style="bold green" if record.cure else "bold yellow")
    head.append(record.verdict, style="default")
    parts.append(head)
    if record.cure is not None:
        parts.append(_proof(record, record.cure))
    return Group(*parts)


def _table(record: PrescriptionRecord, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    for name, justify, always in _COLUMNS:
        if wide or always:
            table.add_column(name, justify=justify, overflow="fold")
    first = record.untreated
    _add(
        table,
        wide,
        "",
        "untreated",
        "",
        "",
        _decades(first.gradient),
        *_figures(first),
        "",
        _time(first),
        first.failure,
    )
    for trial in record.trials[:ROWS]:
        mark, style = ("✓", "green") if trial.verified else ("", "default")
        _add(
            table,
            wide,
            mark,
            Text(trial.name, style=style),
            trial.changes,
            _decades(trial.predicted),
            _decades(trial.treated.gradient),
            *_figures(trial.treated),
            _interval(trial.gain),
            _time(trial.treated),
            Text(_remark(trial), style="dim"),
        )
    more = len(record.trials) - ROWS
    if more > 0:
        _add(table, wide, "", f"and {more} more", *[""] * 8)
    return table


_COLUMNS: tuple[tuple[str, JustifyMethod, bool], ...] = (
    ("", "left", True),
    ("remedy", "left", True),
    ("changes", "left", False),
    ("predicted", "right", True),
    ("gradient", "right", True),
    ("loss", "right", False),
    ("score", "right", True),
    ("gain", "left", True),
    ("time", "right", False),
    ("", "left", True),
)
"""Name, side, and whether a narrow terminal has it as well."""


def _add(table: Table, wide: bool, *cells: str | Text) -> None:
    table.add_row(*(cell for cell, (_, _, always) in zip(cells, _COLUMNS, strict=True) if wide or always))


def _remark(trial: Trial) -> str:
    return "verified" if trial.verified else trial.reason


def _proof(record: PrescriptionRecord, cure: Trial) -> Text:
    text = Text("   proof: ", style="dim")
    gradient = ""
    if cure.treated.gradient is not None and record.untreated.gradient is not None:
        gradient = (
            f"; the first layer gets {_decades(cure.treated.gradient)} decades of the last one's gradient, and got "
            f"{_decades(record.untreated.gradient)} untreated (predicted {_decades(cure.predicted) or 'nothing'})"
        )
    text.append(
        f"{record.seeds} seeds, {record.steps} steps each, same batches: gain {_interval(cure.gain)}, and the finding "
        f"is gone{gradient}."
    )
    return text


def _figures(arm: Arm) -> tuple[str, str]:
    return _number(arm.loss), _number(arm.score)


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def _decades(value: float | None) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "none"
    return f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"


def _interval(gain: Interval | None) -> str:
    if gain is None:
        return ""
    half = (gain.high - gain.low) / 2
    return f"{gain.mean:+.3g} ± {half:.1g}" if math.isfinite(half) else f"{gain.mean:+.3g}"


def _time(arm: Arm) -> str:
    return f"{arm.seconds / max(1, len(arm.losses)):.1f} s"


def _cost(record: PrescriptionRecord) -> str:
    one = record.untreated.seconds / max(1, len(record.untreated.losses))
    ratio = f", {record.seconds / one:.1f} times one untreated training" if one > 0 else ""
    count = len(record.refused)
    refused = f" · {count} remed{'ies' if count > 1 else 'y'} cannot be used here" if count else ""
    work = f"{record.work:.1f} s of training in {len(record.trials)} trials"
    return f"{record.seconds:.1f} s in all{ratio} · {work}{refused}"
