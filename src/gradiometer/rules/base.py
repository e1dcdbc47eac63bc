"""What a rule is, and what it gets to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from gradiometer.records import Finding, Reading, Severity, SiteReading
from gradiometer.rules.progress import Progress, progress

RECENT = 3
"""Readings that are looked at together, so that one odd batch does not make a verdict."""


@dataclass(frozen=True)
class Patient:
    """One training as the rules see it: the readings of one optimizer, oldest first, and its losses.

    ``early`` holds what came first, ``recent`` the newest readings, ``turning`` those around the first loss that is not
    finite; they overlap in a short run. ``ledgers`` are readings with a
    ledger, further ones than the others reach. ``failed`` says that what follows the readings was not finite,
    ``alone`` that no other optimizer is at work: the loss of an adversary is not meant to fall.
    """

    early: Sequence[Reading]
    recent: Sequence[Reading]
    losses: Sequence[tuple[int, float]] = ()
    turning: Sequence[Reading] = ()
    failed: bool = False
    alone: bool = True
    ledgers: Sequence[Reading] = ()

    @cached_property
    def progress(self) -> Progress:
        """Whether the loss falls."""
        seen = progress(self.losses, self.readings)
        if self.failed:
            return replace(seen, learning=False)
        return replace(seen, learning=None) if seen.learning is False and not self.alone else seen

    @property
    def readings(self) -> tuple[Reading, ...]:
        """All of them, in the order of time, some perhaps twice."""
        return (*self.early, *self.turning, *self.recent)

    @property
    def traced(self) -> tuple[Reading, ...]:
        """Those that have a ledger, in no order."""
        return tuple(reading for reading in (*self.ledgers, *self.readings) if reading.ledger)

    @property
    def last(self) -> Reading:
        """The newest reading."""
        return self.recent[-1]

    def severity(self, *, stalled: Severity, unknown: Severity, learning: Severity = "info") -> Severity:
        """A severity by whether the training learns: a network that does is not sick, whatever its gradients."""
        severities: dict[bool | None, Severity] = {False: stalled, None: unknown, True: learning}
        return severities[self.progress.learning]


@dataclass(frozen=True)
class Case:
    """A patient made by hand, and what is expected of it; these prove a rule and document it."""

    name: str
    patient: Patient


@dataclass(frozen=True)
class Rule:
    """A kind of finding, the function that makes it, and its cases; a rule without both kinds of case is refused."""

    kind: str
    check: Callable[[Patient], list[Finding]]
    sick: tuple[Case, ...]
    healthy: tuple[Case, ...]

    def __post_init__(self) -> None:
        """Refuses a rule that nothing proves."""
        if not (self.sick and self.healthy):
            raise ValueError(f"rule {self.kind} needs at least one sick and one healthy case")


def gain(reading: Reading, row: SiteReading) -> float | None:
    """Gradient norm that leaves an operation over the one that arrives, where the operation before it is its input."""
    place = reading.sites.index(row)
    before = reading.sites[place - 1] if place else None
    if before is None or before.shape != row.shape or before.grad_norm is None or not row.grad_norm:
        return None
    return before.grad_norm / row.grad_norm


def percent(fraction: float) -> str:
    """A fraction as people read it, never rounded to a 0 % or 100 % that it is not."""
    if fraction in (0.0, 1.0):
        return f"{fraction:.0%}"
    return f"{min(max(fraction, 0.01), 0.99):.0%}"
