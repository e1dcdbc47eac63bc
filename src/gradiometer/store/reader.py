"""Reads a run: finished, still growing, cut off by a kill, or damaged."""

from __future__ import annotations

import json
import sqlite3
import warnings
import weakref
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, overload
from urllib.parse import quote

from gradiometer.errors import DamagedRunError, GradiometerWarning, NewerRunError, NotARunError
from gradiometer.records import SCHEMA_VERSION, ModelInfo, Reading, Run
from gradiometer.store.packing import Identity, identity_from_json, unpack

FOLDER = "gradiometer-runs"
"""Where runs lie, in the working folder, unless told otherwise."""

APPLICATION_ID = 0x67726164  # "grad"
SUFFIX = ".sqlite"


def load(path: str | PathLike[str]) -> Run:
    """Opens a run file, of a training that is over or still going on.

    Args:
        path: the file.

    Returns:
        The `Run` as it is now; load it again to see what has come since. Of a damaged file what can
        be read, with a warning and a note in ``run.notes`` that say how much is missing.

    Raises:
        NotARunError: the file does not exist, is empty, or is something else.
        NewerRunError: a later version of this package wrote it.
        DamagedRunError: nothing in it can be read any more.

    Example:
        >>> load("missing.sqlite")
        Traceback (most recent call last):
        gradiometer.errors.NotARunError: missing.sqlite does not exist. ...
    """
    path = Path(path)
    _check(path)
    db = _open(path)
    try:
        return _read(db, path)
    finally:
        db.close()


def find(name: str | PathLike[str], folder: str | PathLike[str] = FOLDER) -> Path:
    """The run file that a path or the name of a run in ``folder`` stands for."""
    for candidate in (Path(name), Path(folder) / name, Path(folder) / f"{name}{SUFFIX}"):
        if candidate.is_file():
            return candidate
    raise NotARunError(f"there is no run {name} here nor in {folder}. `gradiometer runs` lists those there are.")


def newest(folder: str | PathLike[str] = FOLDER) -> list[Path]:
    """The run files in a folder, newest first."""
    files = [p for p in Path(folder).glob(f"*{SUFFIX}") if p.is_file()]
    return sorted(files, key=lambda p: (p.stat().st_mtime, p.name), reverse=True)


def _check(path: Path) -> None:
    if not path.exists():
        raise NotARunError(f"{path} does not exist. `gradiometer runs` lists the runs of this folder.")
    if path.is_dir():
        raise NotARunError(f"{path} is a folder. Name one of the files in it.")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise NotARunError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    if not head:
        raise NotARunError(f"{path} is empty: no run was ever written to it. Watch the training again.")
    if head != b"SQLite format 3\0":
        raise NotARunError(f"{path} is no run: it is not an SQLite file. Name a file that `gradiometer run` wrote.")


def _open(path: Path) -> sqlite3.Connection:
    # A log left by a killed training is read through a shared-memory file beside it. Where the folder cannot be
    # written none can be made, and the file alone is read.
    name = quote(str(path.absolute()))
    failure: sqlite3.Error | None = None
    for mode in ("mode=ro", "mode=ro&immutable=1"):
        try:
            db = sqlite3.connect(f"file:{name}?{mode}", uri=True, check_same_thread=False, timeout=10)
            application = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            failure = error
            continue
        if application != APPLICATION_ID:
            db.close()
            raise NotARunError(f"{path} is an SQLite file, but no run of gradiometer.")
        if version > SCHEMA_VERSION:
            db.close()
            raise NewerRunError(
                f"{path} was written by a later gradiometer (schema {version}, this one knows {SCHEMA_VERSION}). "
                "Upgrade with: pip install -U gradiometer"
            )
        return db
    raise DamagedRunError(f"{path} is damaged and nothing in it can be read ({failure}). Watch the training again.")


def _read(db: sqlite3.Connection, path: Path) -> Run:
    problems: list[str] = []
    details = {k: _json(v) for k, v in _rows(db, "SELECT key, value FROM details", problems)}
    identities = {
        n: v for n, text in _rows(db, "SELECT number, value FROM identities", problems) if (v := _identity(text))
    }
    index = [n for (n,) in _rows(db, "SELECT number FROM readings ORDER BY number", problems)]
    scalars: dict[str, list[tuple[int, int, float]]] = {}
    for name, optimizer, step, value in _rows(db, "SELECT name, optimizer, step, value FROM scalars", problems):
        scalars.setdefault(name, []).append((optimizer, step, float(value)))
    readings = StoredReadings(path, index, identities)
    if problems:
        lost = readings.drop_unreadable()
        if not (readings or scalars or details):
            raise DamagedRunError(
                f"{path} is damaged and nothing in it can be read ({problems[0]}). Watch the training again."
            )
        text = f"{path} is damaged ({problems[0]}): {len(readings)} readings could be read, at least {lost} were lost."
        warnings.warn(text, GradiometerWarning, stacklevel=3)
        details["notes"] = [*details.get("notes", ()), text]
    known = {"models", "optimizers", "started", "finished", "steps", "notes"}
    return Run(
        readings=readings,
        scalars={name: tuple(rows) for name, rows in scalars.items()},
        models=tuple(ModelInfo(*m) for m in details.get("models", ())),
        optimizers=tuple(details.get("optimizers", ())),
        name=path.name.removesuffix(SUFFIX),
        path=str(path),
        started=details.get("started", 0.0),
        finished=details.get("finished", False),
        steps=details.get("steps", 0),
        notes=tuple(details.get("notes", ())),
        details={k: v for k, v in details.items() if k not in known},
    )


def _rows(db: sqlite3.Connection, query: str, problems: list[str]) -> Iterator[tuple[Any, ...]]:
    """Rows until the first that cannot be read, whose error is noted."""
    try:
        yield from db.execute(query)
    except sqlite3.Error as error:
        problems.append(str(error))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _identity(text: str) -> Identity | None:
    try:
        return identity_from_json(text)
    except (ValueError, KeyError, TypeError):
        return None


class StoredReadings(Sequence[Reading]):
    """The readings of a file, each unpacked when it is asked for."""

    def __init__(self, path: Path, numbers: list[int], identities: dict[int, Identity]) -> None:
        """``numbers`` are the rows, in order; ``identities`` the sites and parameters by number."""
        self._path, self._numbers, self._identities = path, numbers, identities
        self._get = lru_cache(maxsize=64)(self._unpack)
        self._db: sqlite3.Connection | None = None

    def __len__(self) -> int:
        """Number of readings."""
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Reading: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Reading]: ...
    def __getitem__(self, index: int | slice) -> Reading | Sequence[Reading]:
        """The reading at a place, or a slice of them."""
        if isinstance(index, slice):
            return [self._get(n) for n in self._numbers[index]]
        return self._get(self._numbers[index])

    def drop_unreadable(self) -> int:
        """Leaves out the readings that cannot be unpacked, and says how many they were."""
        readable = []
        for number in self._numbers:
            try:
                self._unpack(number)
            except (sqlite3.Error, DamagedRunError):
                continue
            readable.append(number)
        lost = len(self._numbers) - len(readable)
        self._numbers = readable
        return lost

    def _unpack(self, number: int) -> Reading:
        if self._db is None:
            self._db = _open(self._path)
            weakref.finalize(self, self._db.close)
        row = self._db.execute("SELECT data FROM readings WHERE number = ?", (number,)).fetchone()
        try:
            return unpack(row[0], self._identities.__getitem__)
        except (TypeError, ValueError, KeyError, zlib.error) as error:
            raise DamagedRunError(f"reading {number} of {self._path} is damaged: {error}") from error
