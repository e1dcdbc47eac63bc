"""From results to figures. Nothing here trains, reads or prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.gauntlet.outcome import Alarm, Outcome, Result

SITES = 3
"""How many of a finding's sites a reader looks at."""


@dataclass
class Count:
    """``hits`` of ``total``."""

    hits: int = 0
    total: int = 0

    def add(self, hit: bool) -> None:
        """One more, a hit or not."""
        self.hits += hit
        self.total += 1

    @property
    def share(self) -> float | None:
        """Hits over total; ``None`` of nothing."""
        return self.hits / self.total if self.total else None

    def __add__(self, other: Count) -> Count:
        """Both together."""
        return Count(self.hits + other.hits, self.total + other.total)


@dataclass
class Figures:
    """What one tool made of a set of trainings; the README defines each."""

    recall: Count = field(default_factory=Count)
    right_first: Count = field(default_factory=Count)
    site_misses: int = 0
    precision: Count = field(default_factory=Count)
    false_healthy: Count = field(default_factory=Count)
    false_twins: Count = field(default_factory=Count)
    false_passing: Count = field(default_factory=Count)
    steps: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    crashes: int = 0

    @property
    def false_alarms(self) -> Count:
        """Of all trainings that learn."""
        return self.false_healthy + self.false_twins

    @property
    def median_steps(self) -> float | None:
        """Steps until the first right finding, the middle one of the sick trainings that got one."""
        return median(self.steps) if self.steps else None

    @property
    def median_share(self) -> float | None:
        """The same as a share of the training."""
        return median(self.shares) if self.shares else None


def is_right(result: Result, alarm: Alarm) -> bool:
    """Whether the alarm may stand first."""
    return bool({*alarm.kinds} & {*result.kinds})


def is_true(result: Result, alarm: Alarm) -> bool:
    """Whether the alarm is not wrong: the cause, a consequence, or that nothing is learned; never of a healthy one."""
    return bool(result.kinds) and bool({*alarm.kinds} & {*result.kinds, *result.also, "stalled_training"})


def is_placed(result: Result, alarm: Alarm) -> bool:
    """Whether one of the first sites is where the fault is; true as well where the case does not say where that is."""
    if result.sites is None:
        return True
    return any(re.search(result.sites, site) for site in alarm.sites[:SITES])


def first_is_right(result: Result, tool: str, *, ranked: bool) -> bool:
    """Whether the first finding is of an accepted kind.

    ``ranked`` says that the tool puts its findings in an order and names sites. For one that does not, what it
    raised first is everything that it raised at the earliest step.
    """
    alarms = outcome(result, tool).alarms
    return any(is_right(result, a) for a in (alarms[:1] if ranked else alarms) if a.step == alarms[0].step)


def misses_site(result: Result, tool: str, *, ranked: bool) -> bool:
    """Whether the first finding of a tool that names sites is of an accepted kind, and elsewhere."""
    right = ranked and first_is_right(result, tool, ranked=True)
    return right and not is_placed(result, outcome(result, tool).alarms[0])


def outcome(result: Result, tool: str) -> Outcome:
    """What the tool said."""
    return result.outcomes.get(tool, Outcome())


def tools(results: Iterable[Result]) -> list[str]:
    """All tools that said something, in the order in which they were asked."""
    return list(dict.fromkeys(tool for result in results for tool in result.outcomes))


def valid(results: Iterable[Result], half: str | None = None) -> list[Result]:
    """The trainings that count, of one half or of both."""
    return [result for result in results if not result.invalid and half in (None, result.half)]


def figures(results: Sequence[Result], tool: str, *, ranked: bool = False) -> Figures:
    """The figures of a tool over these trainings."""
    out = Figures()
    for result in results:
        said = outcome(result, tool)
        out.crashes += bool(said.crash)
        for alarm in {alarm.name: alarm for alarm in reversed(said.alarms)}.values():
            out.precision.add(is_true(result, alarm))
        if not result.kinds:
            (out.false_healthy if result.role == "healthy" else out.false_twins).add(bool(said.alarms))
            out.false_passing.add(bool(said.history or said.alarms))
            continue
        missed = misses_site(result, tool, ranked=ranked)
        out.recall.add(any(is_right(result, alarm) for alarm in said.alarms))
        out.right_first.add(first_is_right(result, tool, ranked=ranked) and not missed)
        out.site_misses += missed
        steps = [alarm.step for alarm in said.history if is_right(result, alarm)]
        if steps:
            out.steps.append(min(steps))
            out.shares.append(min(1.0, min(steps) / result.steps))
    return out


def recall_by_kind(results: Sequence[Result], tool: str) -> dict[str, Count]:
    """Recall of the sick trainings of each kind, by the best kind of the case."""
    counts: dict[str, Count] = {}
    for result in results:
        if result.kinds:
            found = any(is_right(result, alarm) for alarm in outcome(result, tool).alarms)
            counts.setdefault(result.kinds[0], Count()).add(found)
    return dict(sorted(counts.items()))


def wrong_with(result: Result, tool: str, *, ranked: bool = False) -> str:
    """What the tool got wrong about this training in a word or two; empty if it is right."""
    said = outcome(result, tool)
    if said.crash:
        return "no diagnosis"
    if not result.kinds:
        return "false alarm" if said.alarms else ""
    if not said.alarms:
        return "nothing found"
    if not first_is_right(result, tool, ranked=ranked):
        return "not first" if any(is_right(result, alarm) for alarm in said.alarms) else "wrong"
    return "wrong place" if misses_site(result, tool, ranked=ranked) else ""
