"""A prescription in the terminal: what was tried as a table, and the cure with its code."""

from __future__ import annotations

import math

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from gradiometer.records import Arm, Interval, PrescriptionRecord, Trial
from gradiometer.report.terminal import present

_LEGEND = (
    "gradient: at the first weight layer, in decades of the last one's, in the first step; predicted by the ledger. "
    "gain: of the score over the untreated twin, with its 95 % interval over the seeds."
)

ROWS = 12
"""Trials told; further ones are counted."""


def show(console: Console, record: PrescriptionRecord, *, diff: bool = False) -> None:
    """Prints a prescription; with ``diff`` the change of the user's source in place of the code."""
    present(console, lambda _: render(record, diff=diff))


def render(record: PrescriptionRecord, *, diff: bool = False) -> RenderableType:
    """The same as something rich can print.

    Answers: what was tried, what came of it beside the untreated twin, and what has to be written.
    """
    parts: list[RenderableType] = []
    if record.trials:
        parts += [_table(record), Text(_LEGEND, style="dim"), Text()]
    head = Text("cure: " if record.cure else "no cure: ", style="bold green" if record.cure else "bold yellow")
    head.append(record.verdict, style="default")
    parts.append(head)
    if record.cure is not None:
        parts.append(_proof(record, record.cure))
        written = record.diff if diff and record.diff else record.code
        lexer = "diff" if written is record.diff else "python"
        code = Syntax(written.rstrip(), lexer, theme="ansi_dark", background_color="default", word_wrap=True)
        parts += [Text(), Padding(code, (0, 0, 0, 3))]
        parts += [Text(f"   by hand: {text}", style="yellow") for text in record.by_hand if lexer == "diff"]
    parts.append(Text(_cost(record), style="dim"))
    return Group(*parts)


def _table(record: PrescriptionRecord) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    for name, justify in (
        ("", "left"), ("remedy", "left"), ("changes", "left"), ("predicted", "right"), ("gradient", "right"),
        ("loss", "right"), ("score", "right"), ("gain", "left"), ("time", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify, overflow="fold")
    first = record.untreated
    table.add_row("", "untreated", "", "", _decades(first.gradient), *_figures(first), "", _time(first), first.failure)
    for trial in record.trials[:ROWS]:
        mark, style = ("✓", "green") if trial.verified else ("", "default")
        table.add_row(
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
        table.add_row("", f"and {more} more", *[""] * 8)
    return table


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
    return f"{value:+.1f}" if math.isfinite(value) else "none"


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
    refused = f" · {len(record.refused)} remedies cannot be used here" if record.refused else ""
    work = f"{record.work:.1f} s of training in {len(record.trials)} trials"
    return f"{record.seconds:.1f} s in all{ratio} · {work}{refused}"
