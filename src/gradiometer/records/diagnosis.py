"""What the rules found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

Severity = Literal["info", "warning", "critical"]


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

    def __str__(self) -> str:
        """Kind, severity, explanation and what to do, as plain text."""
        lines = [f"{self.kind.replace('_', ' ')} [{self.severity}]", f"   {self.explanation}"]
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
    what is missing, or what to keep in mind.
    """

    findings: tuple[Finding, ...]
    subject: str = ""
    conclusive: bool = True
    reason: str = ""

    @property
    def healthy(self) -> bool | None:
        """Whether no finding is above ``info``; ``None`` when nothing can be said."""
        if any(finding.severity != "info" for finding in self.findings):
            return False
        return True if self.conclusive else None

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
        """Subject, verdict and findings, as plain text."""
        lines = [" · ".join(part for part in (self.subject, self.verdict) if part)]
        if self.reason:
            lines += ["", self.reason]
        for number, finding in enumerate(self.findings, 1):
            lines += ["", f"{number}  {finding}"]
        return "\n".join(lines)
