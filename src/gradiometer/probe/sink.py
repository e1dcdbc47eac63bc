"""Where readings go."""

from __future__ import annotations

from typing import Protocol

from gradiometer.records import ModelInfo, Reading


class Sink(Protocol):
    """Where readings go: memory, or the writer of a run file. No method may block or raise."""

    def add_reading(self, reading: Reading) -> None:
        """Takes a reading."""

    def add_scalars(self, name: str, rows: list[tuple[int, int, float]]) -> None:
        """Takes rows ``(optimizer, step, value)``."""

    def describe(self, models: tuple[ModelInfo, ...], optimizers: tuple[str, ...]) -> None:
        """Takes what is under watch; called again when that grows."""

    def note(self, text: str) -> None:
        """Takes something the instrument has to say about itself."""

    def close(self) -> None:
        """Writes what is left."""
