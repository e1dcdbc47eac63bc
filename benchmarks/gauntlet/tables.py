"""The figures as markdown, which is read in a terminal as well."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.gauntlet.outcome import Result
from benchmarks.gauntlet.running import OURS
from benchmarks.gauntlet.scoring import Count, Figures, figures, recall_by_kind, tools, valid

_COLUMNS = (
    "tool",
    "recall",
    "right first",
    "precision",
    "false alarms",
    "healthy",
    "twins",
    "on the way",
    "share of steps",
    "steps",
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with columns of one width."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(results: Sequence[Result], half: str | None) -> str:
    """All tools on one half, or on both."""
    counted = valid(results, half)
    rows = [_row(tool, figures(counted, tool, ranked=tool == OURS)) for tool in tools(counted)]
    sick, healthy, twins = (sum(r.role == role for r in counted) for role in ("sick", "healthy", "twin"))
    title = f"### {half or 'both halves'}: {sick} sick, {twins} healthy twins, {healthy} healthy"
    return f"{title}\n\n{table(_COLUMNS, rows)}" if rows else f"{title}\n\nNothing to score."


def by_kind(results: Sequence[Result], half: str | None) -> str:
    """Recall of each kind of sickness."""
    counted = valid(results, half)
    names = tools(counted)
    counts = {tool: recall_by_kind(counted, tool) for tool in names}
    kinds = list(counts[names[0]]) if names else []
    rows = [[kind, *(_of(counts[tool][kind]) for tool in names)] for kind in kinds]
    title = f"### recall by kind, {half or 'both halves'}"
    return f"{title}\n\n{table(['kind', *names], rows)}" if rows else ""


def notes(results: Sequence[Result]) -> str:
    """What the tables do not show: site misses, refusals, trainings that changed under an instrument, and time."""
    ours = figures(valid(results), OURS, ranked=True)
    differing = sorted(f"{r.name} ({r.role}): {r.differs}" for r in results if r.differs)
    crashes = sorted({f"{r.name}: {r.outcomes[OURS].crash}" for r in results if r.outcomes[OURS].crash})
    invalid = sorted({f"{r.name}: {r.invalid}" for r in results if r.invalid})
    alike = len(results) - len(differing)
    plain, watched, diagnosing = (sum(r.seconds[i] for r in results) for i in range(3))
    lines = [
        f"- Site misses of {OURS} (right kind first, elsewhere): {ours.site_misses}.",
        f"- Losses under both instruments bit-identical with the plain ones: {alike} of {len(results)} trainings.",
        f"- Seconds of all trainings: plain {plain:.0f}, under watch {watched:.0f}; all diagnoses {diagnosing:.0f}.",
        *(f"- differs: {text}" for text in differing),
        *(f"- no diagnosis: {text}" for text in crashes),
        *(f"- invalid and left out: {text}" for text in invalid),
    ]
    return "\n".join(lines)


def _row(tool: str, f: Figures) -> list[str]:
    share = "" if f.median_share is None else f"{f.median_share:.1%}"
    steps = "" if f.median_steps is None else f"{f.median_steps:g}"
    cells = [_percent(f.recall), _percent(f.right_first), _percent(f.precision), _percent(f.false_alarms)]
    cells += [_of(f.false_healthy), _of(f.false_twins), _of(f.false_passing), share, steps]
    return [tool, *cells]


def _of(count: Count) -> str:
    return f"{count.hits} of {count.total}" if count.total else ""


def _percent(count: Count) -> str:
    return "" if count.share is None else f"{count.share:.0%} ({_of(count)})"
