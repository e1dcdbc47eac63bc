"""What the gauntlet keeps of a training: what was said about it, by whom, and after how many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["sick", "twin", "healthy"]


@dataclass(frozen=True)
class Alarm:
    """A finding that says that something is wrong.

    ``name`` is what its tool calls it and ``kinds`` what that is in our words: one kind for gradiometer, all that the
    message can be read as for the others. ``step`` counts the steps that were done when it was first raised.
    """

    name: str
    kinds: tuple[str, ...]
    step: int
    sites: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Outcome:
    """What one tool said about one training.

    ``alarms`` is its last word, first cause first. ``history`` has every alarm that it ever raised, by the step of
    the first time; one that was taken back later is only there. ``crash`` is the tool's own error,
    or why it would not look at the training at all.
    """

    alarms: tuple[Alarm, ...] = ()
    history: tuple[Alarm, ...] = ()
    crash: str = ""


@dataclass(frozen=True)
class Result:
    """One training with its truth and with what all tools said about it.

    ``kinds``, ``also`` and ``sites`` are those of the case if this training is the sick one, else empty. ``invalid``
    says why the case does not count, ``differs`` in what a training under an instrument was not the plain one.
    ``seconds`` are those of the plain training, of that under watch, and of the diagnoses.
    """

    half: str
    name: str
    role: Role
    steps: int
    kinds: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    sites: str | None = None
    invalid: str = ""
    error: str = ""
    differs: str = ""
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
