"""A run that is kept in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gradiometer.records import ModelInfo, Reading, Run
from gradiometer.version import __version__


class MemoryRun:
    """A sink that keeps what it is given, and shows it as a `Run` at any time."""

    path: str | None = None

    def __init__(self, name: str = "", details: Mapping[str, Any] | None = None) -> None:
        """``name`` is how the run is called in what people read."""
        self._name, self._started = name, time.time()
        self._details = {"version": __version__, **(details or {})}
        self._readings: list[Reading] = []
        self._scalars: dict[str, list[tuple[int, int, float]]] = {}
        self._models: tuple[ModelInfo, ...] = ()
        self._optimizers: tuple[str, ...] = ()
        self._notes: list[str] = []
        self._finished = False

    def add_reading(self, reading: Reading) -> None:
        """Keeps a reading."""
        self._readings.append(reading)

    def add_scalars(self, name: str, rows: list[tuple[int, int, float]]) -> None:
        """Keeps rows ``(optimizer, step, value)``."""
        self._scalars.setdefault(name, []).extend(rows)

    def describe(self, models: tuple[ModelInfo, ...], optimizers: tuple[str, ...]) -> None:
        """Keeps what is under watch."""
        self._models, self._optimizers = models, optimizers

    def note(self, text: str) -> None:
        """Keeps what the instrument said about itself."""
        self._notes.append(text)

    def close(self) -> None:
        """Marks the run as finished."""
        self._finished = True

    def run(self) -> Run:
        """The run as it is now."""
        steps = [step + 1 for rows in self._scalars.values() for _, step, _ in rows]
        steps += [reading.step + 1 for reading in self._readings]
        return Run(
            readings=tuple(self._readings),
            scalars={name: tuple(rows) for name, rows in self._scalars.items()},
            models=self._models,
            optimizers=self._optimizers,
            name=self._name,
            started=self._started,
            finished=self._finished,
            steps=max(steps, default=0),
            notes=tuple(self._notes),
            details=self._details,
        )
