"""What a prescription is doing, while it does it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gradiometer.remedies.choice import Names


class Ticker:
    """A progress bar on standard error: the stage, its trials, the best score so far.

    It is redrawn when a trial ends and by no thread, since workers are forked from this process.
    """

    def __init__(self, show: bool | None) -> None:
        """``None`` shows it where standard error is a terminal."""
        console = Console(stderr=True)
        wanted = (console.is_terminal and sys.stderr.isatty()) if show is None else show
        columns = (
            TextColumn("{task.description}", table_column=None),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} trials{task.fields[best]}{task.fields[now]}"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not wanted, auto_refresh=False, transient=True)
        self._task = self._bar.add_task("", total=1, best="", now="")
        self._best = -math.inf

    def __enter__(self) -> Self:
        """Draws it."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wipes it away."""
        self._bar.stop()

    def stage(self, name: str, trials: int) -> None:
        """A new part of the work, of so many trials."""
        self._bar.reset(self._task, total=trials, description=name)
        self._bar.refresh()

    def ended(self, names: Names, score: float, running: Iterable[Names] = ()) -> None:
        """A trial has ended with a score, and others are under way."""
        now = ", ".join("+".join(others) or "untreated" for others in running)
        self._bar.update(self._task, now=f" · now: {now}" if now else "")
        if names and score > self._best:
            self._best = score
            self._bar.update(self._task, best=f" · best so far: {'+'.join(names)} ({score:.3g})")
        self._bar.advance(self._task)
        self._bar.refresh()
