"""What the rules found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

Severity = Literal["info", "warning", "critical"]

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""From what is only worth knowing to what ends a training."""

KINDS = tuple(
    """vanishing_gradient exploding_gradient saturated_units dead_units bad_initialization symmetric_units rank_collapse
    attention_collapse nonfinite loss_spike oscillating_loss diverging_loss stalled_training frozen_parameters
    unscaled_inputs output_mismatch underflow clipping_bound""".split()
)
"""The closed list of kinds of finding; a new one is added here first."""

_SITES = 4
"""Sites told in a line; the worst come first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnosed pathology.

    ``kind`` is one of the closed list in the documentation, ``sites`` names where it is seen (worst first),
    ``evidence`` holds the numbers it rests on, ``cause`` says what makes it, ``explanation`` is what a reader
    is told, ``remedies`` what to do, best first, ``wrong_if`` what would show that it is wrong. ``follows_from`` is
    the kind of the finding that explains this one.
    """

    kind: str
    severity: Severity
    sites: tuple[str, ...]
    evidence: Mapping[str, Any]
    cause: str
    explanation: str
    remedies: tuple[str, ...] = ()
    wrong_if: str = ""
    follows_from: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data, with the names of the fields."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return data | {"evidence": dict(self.evidence), "sites": list(self.sites), "remedies": list(self.remedies)}

    @property
    def name(self) -> str:
        """The kind as people write it."""
        return self.kind.replace("_", " ")

    @property
    def where(self) -> str:
        """The worst sites, and how many more there are."""
        more = len(self.sites) - _SITES
        return ", ".join(self.sites[:_SITES]) + (f" and {more} more" if more > 0 else "")

    @property
    def link(self) -> str:
        """What it is to the finding that it belongs to: a consequence, or what lies behind it."""
        return "behind it" if self.kind == "bad_initialization" else "follows from it"

    @property
    def brief(self) -> str:
        """Kind, severity, and the first thing that the explanation says."""
        first = re.split(r"[.:;](?=\s|$)", self.explanation, maxsplit=1)[0]
        return f"{self.name}, {self.severity}. {first}."

    def __str__(self) -> str:
        """Kind, severity, explanation, place and what to do, as plain text."""
        lines = [f"{self.name} [{self.severity}]", f"   {self.explanation}"]
        if self.sites:
            lines.append(f"   where: {self.where}")
        if self.cause:
            lines.append(f"   cause: {self.cause}")
        if self.follows_from:
            lines.append(f"   follows from: {self.follows_from.replace('_', ' ')}")
        if self.remedies:
            lines.append("   do: " + " · ".join(self.remedies))
        if self.wrong_if:
            lines.append(f"   wrong if: {self.wrong_if}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis(Sequence[Finding]):
    """A sequence of findings, first causes first; `healthy` is true when none is above ``info``.

    ``subject`` describes what was diagnosed in one line. ``conclusive`` is false when too little was
    recorded to say anything; then ``healthy`` is ``None``, unless something was found all the same. ``reason`` says
    what is missing, or what to keep in mind. ``silenced`` counts the findings that are left out because
    ``silenced_by`` (a file, an argument) says so.
    """

    findings: tuple[Finding, ...]
    subject: str = ""
    conclusive: bool = True
    reason: str = ""
    silenced: int = 0
    silenced_by: str = ""

    @property
    def healthy(self) -> bool | None:
        """Whether no finding is above ``info``; ``None`` when nothing can be said."""
        if self.reaches("warning"):
            return False
        return True if self.conclusive else None

    def reaches(self, severity: Severity) -> bool:
        """Whether there is a finding of at least this severity."""
        return any(SEVERITIES.index(finding.severity) >= SEVERITIES.index(severity) for finding in self.findings)

    @property
    def stories(self) -> list[tuple[Finding, list[Finding]]]:
        """Each finding that stands by itself, with those that follow from it, directly or through another."""
        first = {finding.kind: finding for finding in reversed(self.findings)}

        def root(finding: Finding) -> Finding:
            seen = set()
            while finding.follows_from in first and finding.kind not in seen:
                seen.add(finding.kind)
                finding = first[finding.follows_from]
            return finding

        return [
            (cause, [finding for finding in self.findings if finding is not cause and root(finding) is cause])
            for cause in self.findings
            if root(cause) is cause
        ]

    @property
    def silence(self) -> str:
        """How many findings are left out and who says so, so that nobody takes silence for health."""
        if not self.silenced:
            return ""
        return f"{self.silenced} finding{'s' if self.silenced != 1 else ''} silenced ({self.silenced_by})"

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | Sequence[Finding]:
        """The finding at this place."""
        return self.findings[index]

    def __len__(self) -> int:
        """Number of findings."""
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        """The findings, first causes first."""
        return iter(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain data."""
        return {
            "subject": self.subject,
            "healthy": self.healthy,
            "reason": self.reason,
            "silenced": self.silenced,
            "silenced_by": self.silenced_by,
            "findings": [finding.to_dict() for finding in self.findings],
        }

    @property
    def verdict(self) -> str:
        """``healthy``, ``not healthy`` or ``cannot say``."""
        return {True: "healthy", False: "not healthy", None: "cannot say"}[self.healthy]

    def __repr__(self) -> str:
        """The text, so that a prompt shows what there is to read."""
        return str(self)

    def __str__(self) -> str:
        """Subject, verdict and findings, as plain text; what follows from a finding stands under it."""
        lines = [" · ".join(part for part in (self.subject, self.verdict, self.silence) if part)]
        if self.reason:
            lines += ["", self.reason]
        for number, (cause, consequences) in enumerate(self.stories, 1):
            lines += ["", f"{number}  {cause}", *(f"   {f.link}: {f.brief}" for f in consequences)]
        return "\n".join(lines)
