"""The stored sequence of readings of one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gradiometer.records.reading import Reading


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model under watch: the name it goes by in site names, its class, and its number of parameters."""

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True, repr=False)
class Run:
    """The stored sequence of readings of one training.

    ``readings`` is a sequence in the order of time, read from the file as it is asked for. ``scalars`` maps a
    name (``"loss"`` and whatever was recorded) to rows ``(optimizer, step, value)``, one for every step
    and not only for the sampled ones. ``finished`` is false while the training goes on, or if it was killed.
    ``notes`` are what the instrument had to say about itself.
    """

    readings: Sequence[Reading]
    scalars: Mapping[str, Sequence[tuple[int, int, float]]] = field(default_factory=dict)
    models: tuple[ModelInfo, ...] = ()
    optimizers: tuple[str, ...] = ()
    name: str = ""
    path: str | None = None
    started: float = 0.0
    finished: bool = False
    steps: int = 0
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """In short: its name, and how much there is of it."""
        return f"<Run {self.name or 'without a name'}: {self.steps} steps, {len(self.readings)} readings>"

    def losses(self, optimizer: int = 0) -> list[tuple[int, float]]:
        """``(step, loss)`` for every step of one optimizer."""
        return [(step, value) for index, step, value in self.scalars.get("loss", ()) if index == optimizer]

    @cached_property
    def last(self) -> Reading | None:
        """The newest reading, or ``None`` before the first."""
        return self.readings[-1] if len(self.readings) else None
