"""A ledger in the terminal: decades from the loss to the input, operation by operation.

Answers: which operation takes the gradient, or adds to it, and how much is left where?
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradiometer.records import Ledger, LedgerRow, Reading, decades_by_cause
from gradiometer.report import through_time
from gradiometer.report.terminal import blocks, number, present, signed

LINES = 40
"""A ledger of more rows is folded: groups of operations in which nothing much happens become one line."""

WORST = 3
"""Rows that are marked, at most."""

_SKIPS = frozenset(("add", "cat", "concat"))  # what comes straight from these went round a branch
_MARKED = 0.3  # decades: a factor of two is no matter
_NARROWEST, _WIDEST = 16, 40  # characters of a bar
CAUSES = {
    "weights": "blue",
    "activation": "red",
    "normalization": "magenta",
    "connection": "green",
    "attention": "yellow",
    "reshaping": "bright_black",
    "loss": "cyan",
    "unknown": "white",
}
_LETTERS = {cause: cause[0] for cause in CAUSES}  # for terminals without colours


@dataclass(frozen=True)
class _Line:
    """One line of the picture: a row, or several that are folded."""

    label: str
    rows: tuple[LedgerRow, ...]
    before: float
    after: float
    folded: bool = False


def show(console: Console, reading: Reading, *, everything: bool = False) -> None:
    """Prints the waterfall of a reading; ``everything`` unfolds it and shows branches beside the main path."""
    lines = _lines(reading.ledger, everything=everything)
    names = max((len(line.label) for line in lines), default=0)
    what = max((len(line.rows[0].operation) for line in lines), default=0)
    notes = min(max((len(_note(line, False).plain) for line in lines), default=0) + 9, 44)
    width = min(_WIDEST, max(_NARROWEST, console.width - min(names, 40) - max(what, 13) - notes - 22))
    present(console, lambda plain: render(reading, everything=everything, plain=plain, width=width))


def render(reading: Reading, *, everything: bool = False, plain: bool = False, width: int = 36) -> RenderableType:
    """The same as something rich can print; ``width`` is that of the bars."""
    ledger = reading.ledger
    parts: list[RenderableType] = [_head(reading)]
    if reading.birth is not None:
        birth = reading.birth
        said = f"first NaN or Inf: {birth.site} ({birth.operation}), {birth.direction} pass: {birth.reason}"
        parts += [Text(said, style="bold red")]
    if ledger:
        parts += [_causes(ledger)] if ledger.by_cause else []
        parts += [Text(), _picture(ledger, everything, plain, width)]
        parts += [Text(), _worst(ledger)]
    for recurrence in reading.recurrences:
        parts += [Text(), through_time.render(recurrence, plain=plain, width=width)]
    return Group(*parts)


def _head(reading: Reading) -> Text:
    ledger = reading.ledger
    loss = f"loss {reading.loss:.4g}" if reading.loss is not None else ""
    if not ledger:
        return Text(f"{loss} · no ledger was kept")
    total = ledger.total
    if total == -math.inf:
        lost = f"no gradient passes {ledger.end}"
    elif not math.isfinite(total):
        lost = "the gradient is not finite on the way"
    else:
        lost = f"{signed(total)} decades from the loss to {ledger.end} (gradient rms {ledger.end_rms:.2g})"
    return Text(f"{len(ledger.main)} operations on the main path, {len(ledger)} in all · {loss} · {lost}", style="bold")


def _causes(ledger: Ledger) -> Text:
    """What each cause has done, without what the loss and pooling do by their nature."""
    text = Text("by cause: ")
    for i, (cause, decades) in enumerate(sorted(ledger.by_cause.items(), key=lambda item: item[1])):
        text.append(" · " if i else "")
        text.append(f"{cause} {signed(decades)}", style=CAUSES[cause])
    return text


def _picture(ledger: Ledger, everything: bool, plain: bool, width: int) -> Table:
    lines = _lines(ledger, everything=everything)
    ends = [value for line in lines for value in (line.before, line.after) if math.isfinite(value)]
    low, high = min([-1.0, *ends]), max([0.0, *ends])
    marked = {id(row) for row in _marked(ledger)}
    table = Table.grid(padding=(0, 1))
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, min_width=width + 1)
    table.add_column(overflow="fold")
    heads = ("operation", "", "decades", "sum", "from the loss on" if high < 0.05 else f"from {signed(high)} on", "")
    table.add_row(*(Text(head, style="dim") for head in heads))
    for line in lines:
        row = line.rows[0]
        bad = any(id(r) in marked for r in line.rows)
        style = "dim" if line.folded or not row.main else ""
        what = f"{len(line.rows)} operations" if line.folded else row.operation
        change = math.fsum(r.log10_gain for r in line.rows) if math.isfinite(line.after) else line.rows[-1].log10_gain
        table.add_row(
            Text(line.label, style=style),
            Text(what, style="dim" if line.folded else CAUSES[row.cause]),
            number(change),
            Text(_sum(line) if row.main else "", style="dim"),
            _bar(line, low, high, plain, width) if row.main else Text("  beside the main path", style="dim"),
            _note(line, bad),
        )
    return table


def _lines(ledger: Ledger, *, everything: bool) -> list[_Line]:
    """The rows, or, of a deep network, its modules with those unfolded in which something happens."""
    rows = ledger.rows if everything else ledger.main
    at = 0.0
    single: list[_Line] = []
    for row in rows:
        after = at + row.log10_gain if row.main else at
        if everything or not _changes_nothing(row):
            single.append(_Line(row.site, (row,), at, after))
        at = after
    if everything or len(single) <= LINES:
        return single
    unfolded = {_module(row.site) for row in _marked(ledger) if row.main}
    unfolded |= {_module(rows[0].site), _module(rows[-1].site)}
    out: list[_Line] = []
    for keep, lines in groupby(single, key=lambda line: _module(line.rows[0].site) in unfolded):
        run = list(lines)
        if keep or len(run) < 3:
            out += run
            continue
        names = list(dict.fromkeys(_module(line.rows[0].site) for line in run))
        label = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        folded = tuple(row for line in run for row in line.rows)
        out.append(_Line(f"▸ {label}", folded, run[0].before, run[-1].after, folded=True))
    return out


def _sum(line: _Line) -> str:
    """Decades from the loss on; none where nothing, or nothing finite, is left."""
    return signed(line.after) if math.isfinite(line.after) else ""


def _changes_nothing(row: LedgerRow) -> bool:
    """A sum or a view, which hands on what it gets: left out, unless everything is asked for."""
    return row.cause in ("connection", "reshaping") and abs(row.log10_gain) < 0.005 and not row.branches


def _module(site: str) -> str:
    """The part of a network a site belongs to: its path down to the first number, ``blocks.3`` or ``layer1.0``."""
    path = site.split(":")[0].split(".")
    numbered = next((i for i, part in enumerate(path) if part.isdigit()), 0)
    return ".".join(path[: numbered + 1]) or site.split(":")[-1]


def _bar(line: _Line, low: float, high: float, plain: bool, width: int) -> Text:
    """From where the gradient was to where it is, in the colours of what did it."""
    if not math.isfinite(line.after):
        if line.rows[0].grad_rms == 0:
            return Text("nothing arrives", style="dim")
        return Text("nothing passes" if line.after == -math.inf else "NaN or Inf", style="bold red")
    scale = width / (high - low)
    left = (high - max(line.before, line.after)) * scale
    length = abs(line.after - line.before) * scale
    text = Text(" " * round(left))
    sign = -1 if line.after < line.before else 1
    amounts = {c: sign * d for c, d in decades_by_cause(line.rows).items() if sign * d > 0}
    total = math.fsum(amounts.values())
    if not total or length < 0.125:
        return text.append("|" if plain else "▏", style="dim")
    for cause, amount in amounts.items():
        cells = length * amount / total
        drawn = _LETTERS[cause] * round(cells) if plain else ("░" * round(cells) if sign > 0 else blocks(cells))
        text.append(drawn or ("|" if plain else "▏"), style=CAUSES[cause])
    return text


def _note(line: _Line, bad: bool) -> Text:
    text = Text()
    row = line.rows[0]
    if bad:
        text.append("◀ worst  " if not line.folded else "◀ ", style="bold red")
    if line.folded:
        causes = decades_by_cause(line.rows)
        said = [f"{c} {signed(d)}" for c, d in sorted(causes.items(), key=lambda i: -abs(i[1])) if abs(d) >= 0.05]
        return text.append(", ".join(said), style="dim")
    if row.branches:
        text.append(_shares(row), style="green")
    elif row.scale is not None:
        text.append(f"scale {row.scale:.2g}", style="dim")
        aligned = row.alignment is not None and math.isfinite(row.alignment)
        text.append(f", alignment {row.alignment:.2g}" if aligned else "", style="dim")
    elif row.derivative is not None:
        flat = f", {row.flat:.0%} flat" if row.flat else ""
        text.append(f"f' rms {row.derivative:.2g}{flat}", style="dim")
    return text


def _shares(row: LedgerRow) -> str:
    """Where the gradient came from, such as ``98% skip, 2% layer1.0.conv1``."""
    skips = [branch for branch in row.branches if branch.operation in _SKIPS]
    skip = skips[0] if len(skips) == 1 else None
    if not all(math.isfinite(branch.share) for branch in row.branches):
        return ""
    first = [f"{branch.share:.0%} {'skip' if branch is skip else branch.site}" for branch in row.branches[:3]]
    rest = f" and {len(row.branches) - 3} more" if len(row.branches) > 3 else ""
    cosines = {round(branch.cosine, 2) for branch in row.branches}
    angle = f", cosine {cosines.pop():+.2f}" if len(cosines) == 1 and len(row.branches) == 2 else ""
    return f"{', '.join(first)}{rest}{angle}"


def _bad_rows(ledger: Ledger) -> list[LedgerRow]:
    """The rows that change the gradient most: by a factor of two at least, and half as much as the worst of all."""
    scored = sorted(zip(ledger.scores(), ledger, strict=True), key=lambda pair: -pair[0])
    least = max(_MARKED, scored[0][0] / 2) if scored else 0.0
    return [row for score, row in scored if score >= least]


def _marked(ledger: Ledger) -> list[LedgerRow]:
    """Those of them that stand out; where many are alike none does."""
    bad = _bad_rows(ledger)
    return bad if len(bad) <= WORST else []


def _worst(ledger: Ledger) -> Text:
    """The row to begin with, and what would come of mending it."""
    bad = _bad_rows(ledger)
    if not bad:
        if any(math.isnan(row.log10_gain) for row in ledger.main):
            return Text()
        said = "no operation changes the gradient by more than a factor of two (a change of width set aside)"
        return Text(said, style="green")
    row = bad[0]
    text = Text("worst: ", style="bold")
    if row.gain == 0:
        return text.append(f"{row.site} ({row.operation}) lets no gradient pass")
    text.append(f"{row.site} ({row.operation}, {row.cause}) times {row.gain:.2g}")
    if len(bad) > WORST:
        together = math.fsum(r.log10_gain for r in bad if r.main)
        return text.append(f", and {len(bad) - 1} more of that size: {signed(together)} decades together")
    if math.isfinite(row.total_without):
        text.append(f"; with gain one there the total would be {signed(row.total_without)} decades")
    return text
