"""Findings that somebody has seen and does not want to be told again.

A pattern is one of these:

- a kind of finding: ``dead_units``;
- a glob of sites: ``blocks.3.*``, ``*.gate``, ``*:relu``;
- a kind, a colon and a glob: ``dead_units:blocks.3.*``, or ``any:head`` for a site that is called like a kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NamedTuple

from gradiometer.errors import InputError
from gradiometer.records import Diagnosis, Finding
from gradiometer.records.diagnosis import KINDS

ANY = "any"
"""In place of a kind: every kind."""


class Pattern(NamedTuple):
    """Silences these sites of the findings of a kind; ``sites`` is ``None`` where the whole finding is meant."""

    kind: str
    sites: str | None = None

    def speaks_of(self, finding: Finding) -> bool:
        """Whether the kind is right."""
        return self.kind in (ANY, finding.kind)


def silenced(diagnosis: Diagnosis, patterns: Iterable[str], by: str = "ignore") -> Diagnosis:
    """Leaves out of a diagnosis what the patterns name, and counts what it leaves out.

    Formula: a finding goes if a pattern names its kind alone; sites that match a glob are taken out of the findings
    that the pattern speaks of, and a finding goes with its last site.

    Args:
        diagnosis: as the rules made it.
        patterns: kinds, globs of sites, or both, as at the top of this file.
        by: what the patterns come from, for the reader.

    Returns:
        The diagnosis without them; ``silenced`` counts the findings that went. What followed from one of these
        stays, and still says what it follows from.

    Raises:
        InputError: a pattern with an unknown kind.

    Example:
        >>> finding = Finding("dead_units", "critical", ("a.act", "b.act"), {}, "a cause", "an explanation")
        >>> silenced(Diagnosis((finding,)), ["dead_units:a.*"])[0].sites
        ('b.act',)
        >>> silenced(Diagnosis((finding,)), ["dead_units"]).silence
        '1 finding silenced (ignore)'
    """
    parsed = [_parsed(pattern, by) for pattern in patterns]
    kept = [left for finding in diagnosis.findings if (left := _left(finding, parsed)) is not None]
    gone = len(diagnosis) - len(kept)
    return replace(diagnosis, findings=tuple(kept), silenced=gone, silenced_by=by if gone else "")


def _left(finding: Finding, patterns: Iterable[Pattern]) -> Finding | None:
    """What is left of a finding; ``None`` if it goes."""
    globs = [pattern.sites for pattern in patterns if pattern.speaks_of(finding)]
    if None in globs:
        return None
    sites = tuple(site for site in finding.sites if not any(fnmatchcase(site, glob) for glob in globs if glob))
    if len(sites) == len(finding.sites):
        return finding
    return replace(finding, sites=sites) if sites else None


def _parsed(pattern: str, by: str) -> Pattern:
    kind, colon, sites = pattern.partition(":")
    if kind in KINDS and not colon:
        return Pattern(kind)
    if kind in (*KINDS, ANY) and sites:
        return Pattern(kind, sites)
    # Kinds are plain words, and so are few patterns of sites: a misspelt kind shall not pass for a site.
    if pattern and not re.fullmatch(r"[A-Za-z_]+", kind):
        return Pattern(ANY, pattern)
    if kind in (*KINDS, ANY):
        raise InputError(f"{pattern!r} in {by} names no site: write {kind + ':encoder.*'!r}, for instance.")
    close = get_close_matches(kind, KINDS, n=3)
    raise InputError(
        f"{pattern!r} in {by} silences nothing: there is no kind of finding {kind!r}. "
        f"{'Close to it is' if close else 'There is'} {', '.join(close or KINDS)}. "
        f"If it is the name of a site, write {f'{ANY}:{pattern}'!r}."
    )
