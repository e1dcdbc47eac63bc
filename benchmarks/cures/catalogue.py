"""Finds the cases of the cure: every file of a half that has a ``CASES``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

from benchmarks.cures.cases import Case

HALVES = ("tuned", "held_out")


@dataclass(frozen=True)
class Entry:
    """A case and where it is; ``name`` is how it is called in tables and on the command line."""

    half: str
    file: str
    case: Case

    @property
    def name(self) -> str:
        """``half/file/case``."""
        return f"{self.half}/{self.file}/{self.case.name}"


def of_file(half: str, file: str) -> list[Entry]:
    """The cases of one file; none if it has no ``CASES``, because others only share its functions."""
    cases = getattr(import_module(f"benchmarks.cures.{half}.{file}"), "CASES", None)
    found = [] if cases is None else [Entry(half, file, case) for case in cases.all]
    twice = [name for name, count in Counter(entry.name for entry in found).items() if count > 1]
    if twice:
        raise ValueError(f"cases of the same name: {', '.join(twice)}")
    return found


def find(name: str) -> Entry:
    """The case of this name; a process of its own has to look it up, since functions do not travel."""
    half, file, _ = name.split("/", 2)
    return next(entry for entry in of_file(half, file) if entry.name == name)


def entries(halves: Sequence[str] = HALVES, patterns: Sequence[str] = ()) -> tuple[list[Entry], list[str]]:
    """The cases whose name contains or matches one of the patterns, and the files that could not be read."""
    found, broken = [], []
    for half in halves:
        for path in sorted((Path(__file__).parent / half).glob("[!_]*.py")):
            try:
                found += of_file(half, path.stem)
            except Exception as error:
                broken.append(f"{half}/{path.name}: {type(error).__name__}: {error}")
    if patterns:
        found = [e for e in found if any(pattern in e.name or fnmatch(e.name, pattern) for pattern in patterns)]
    return found, broken
