"""Reads a run: finished, still growing, cut off by a kill, or damaged."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, overload
from urllib.parse import quote

from gradiometer.errors import DamagedRunError, GradiometerWarning, NewerRunError, NotARunError
from gradiometer.records import SCHEMA_VERSION, ModelInfo, Reading, Run
from gradiometer.store.packing import Identity, checksum, identity_from_json, sound, unpack, unpack_rows

FOLDER = "gradiometer-runs"
"""Where runs lie, in the working folder, unless told otherwise."""

APPLICATION_ID = 0x67726164  # "grad"
SUFFIX = ".sqlite"

_T = TypeVar("_T")


def load(path: str | PathLike[str]) -> Run:
    """Opens a run file, of a training that is over or still going on.

    Args:
        path: the file.

    Returns:
        The `Run` as it is now; load it again to see what has come since. Of a damaged file what can
        be read, with a warning and a note in ``run.notes`` that say how much that is.

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
    notes: list[str] = []
    with contextlib.closing(_open(path, notes)) as db:
        db.execute("BEGIN")  # one moment of a file that grows, for all that is asked of it
        run = _read(db, path, notes)
    for text in notes:
        warnings.warn(text, GradiometerWarning, stacklevel=2)
    return run


def find(name: str | PathLike[str], folder: str | PathLike[str] = FOLDER) -> Path:
    """The run file that a path or the name of a run in ``folder`` stands for."""
    for candidate in (Path(name), Path(folder) / name, Path(folder) / f"{name}{SUFFIX}"):
        if candidate.is_file():
            return candidate
    raise NotARunError(f"there is no run {name} here nor in {folder}. `gradiometer runs` lists those there are.")


def free_path(folder: Path, name: str) -> Path:
    """A path for a new run: the name and the time, and a number where that is taken."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = folder / f"{stem}{SUFFIX}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{SUFFIX}"
    return path


def newest(folder: str | PathLike[str] = FOLDER) -> list[Path]:
    """The run files in a folder, newest first."""
    files = [p for p in Path(folder).glob(f"*{SUFFIX}") if p.is_file()]
    return sorted(files, key=lambda p: (_written(p), p.name), reverse=True)


def _written(path: Path) -> float:
    """When a run was last written to: while it grows only its log is."""
    log = path.with_name(f"{path.name}-wal")
    return max(p.stat().st_mtime for p in (path, log) if p.exists())


def _check(path: Path) -> None:
    # The file is not opened here, to see whether it begins like one of SQLite's: closing it again would drop the
    # locks of a writer in this very process (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise NotARunError(f"{path} does not exist. `gradiometer runs` lists the runs of this folder.") from None
    except (OSError, ValueError) as error:
        raise NotARunError(f"{path} cannot be read: {error}. Check the path and its permissions.") from error
    if stat.S_ISDIR(facts.st_mode):
        raise NotARunError(f"{path} is a folder. Name one of the files in it.")
    if not stat.S_ISREG(facts.st_mode):
        raise NotARunError(f"{path} is no file. Name a file that `gradiometer run` wrote.")
    if not facts.st_size:
        raise NotARunError(f"{path} is empty: no run was ever written to it. Watch the training again.")
    if facts.st_size < 512:  # the smallest page of SQLite, which takes less for a database without tables
        raise _no_database(path)


def _open(path: Path, notes: list[str]) -> sqlite3.Connection:
    _check(path)
    # A log left by a killed training is read through a shared-memory file beside it. Where the folder cannot be
    # written none can be made, and the file alone is read.
    name = quote(os.fsencode(path.absolute()))
    failure: sqlite3.Error | None = None
    for alone in (False, True):
        uri = f"file:{name}?mode=ro&immutable={alone:d}"
        db: sqlite3.Connection | None = None
        try:
            db = sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=10)
            db.text_factory = _text
            # Lets SQLite begin with a file that is shorter than it says it is, or lacks a table.
            db.execute("PRAGMA writable_schema=ON")
            application = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            if db is not None:
                db.close()
            failure = error
            continue
        if application != APPLICATION_ID:
            db.close()
            raise NotARunError(f"{path} is an SQLite file, but no run of gradiometer. Name another file.")
        if version > SCHEMA_VERSION:
            db.close()
            raise NewerRunError(
                f"{path} was written by a later gradiometer (schema {version}, this one knows {SCHEMA_VERSION}). "
                "Upgrade with: pip install -U gradiometer"
            )
        if alone and _size(f"{path}-wal"):
            notes.append(
                f"The newest part of {path} is in the log beside it, which cannot be read here ({failure}). Copy "
                f"{path.name} and {path.name}-wal into a folder that can be written, and load it there."
            )
        return db
    code = getattr(failure, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        raise _no_database(path)
    if code == sqlite3.SQLITE_CANTOPEN:
        raise NotARunError(f"{path} cannot be read ({failure}). Check its permissions.")
    raise _nothing(path, failure)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")  # a damaged letter does not end the reading of its table


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _no_database(path: Path) -> NotARunError:
    return NotARunError(f"{path} is no run: it is not an SQLite file. Name a file that `gradiometer run` wrote.")


def _nothing(path: Path, why: object) -> DamagedRunError:
    return DamagedRunError(f"{path} is damaged and nothing in it can be read ({why}). Watch the training again.")


def _read(db: sqlite3.Connection, path: Path, notes: list[str]) -> Run:
    problems: list[str] = []
    details = dict(_rows(db, "SELECT key, value, checksum FROM details", _detail, problems))
    identities = dict(_rows(db, "SELECT number, value, checksum FROM identities", _identity, problems))
    scalars: dict[str, list[tuple[int, int, float]]] = {}
    for name, rows in _rows(db, "SELECT name, data FROM scalars ORDER BY number", _scalars, problems):
        scalars.setdefault(name, []).extend(rows)
    values = sum(map(len, scalars.values()))
    numbers = set(_rows(db, "SELECT number FROM readings ORDER BY number", int, problems))
    if problems:  # from the other end as well, so that a page that is damaged takes no others with it
        numbers |= set(_rows(db, "SELECT number FROM readings ORDER BY number DESC", int, problems))
    if not all(_sound(db, number) for number in numbers):
        problems.append("a checksum is wrong")
    counts = details.pop("counts", None)
    if counts not in (None, (len(numbers), len(identities), values)):
        problems.append("rows are missing")
    readings = StoredReadings(path.absolute(), sorted(numbers), identities)
    if problems:
        readings.drop_unreadable()
        if not (readings or scalars or details):
            raise _nothing(path, problems[0])
        of_readings, _, of_values = [f"of {count} " for count in counts] if counts else ["", "", ""]
        notes.append(
            f"{path} is damaged ({problems[0]}): {len(readings)} {of_readings}readings and {values} {of_values}values "
            "of losses and other scalars could be read."
        )
    steps = [step + 1 for rows in scalars.values() for _, step, _ in rows] if "steps" not in details else []
    return Run(
        readings=readings,
        scalars={name: tuple(rows) for name, rows in scalars.items()},
        models=details.pop("models", ()),
        optimizers=details.pop("optimizers", ()),
        name=path.name.removesuffix(SUFFIX),
        path=str(path),
        started=details.pop("started", 0.0),
        finished=details.pop("finished", False),
        steps=details.pop("steps", max(steps, default=0)),
        notes=(*details.pop("notes", ()), *notes),
        details=details,
    )


def _rows(db: sqlite3.Connection, query: str, parse: Callable[..., _T], problems: list[str]) -> Iterator[_T]:
    """Rows until the first that the file does not give any more, without those that make no sense; both are noted."""
    try:
        for row in db.execute(query):
            try:
                yield parse(*row)
            except _NONSENSE as error:
                problems.append(f"a row makes no sense: {error}")
    except sqlite3.Error as error:
        problems.append(str(error))


_NONSENSE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

_DETAILS: dict[str, Callable[[Any], Any]] = {
    "models": lambda rows: tuple(ModelInfo(str(name), str(kind), int(count)) for name, kind, count in rows),
    "optimizers": lambda names: tuple(map(str, names)),
    "counts": lambda counts: tuple(map(int, counts)),
    "started": float,
    "finished": bool,
    "steps": int,
    "notes": lambda texts: tuple(map(str, texts)),
}


def _detail(key: str, text: str, kept: int) -> tuple[str, Any]:
    _compare(kept, key, text)
    return key, _DETAILS.get(key, lambda value: value)(json.loads(text))


def _identity(number: int, text: str, kept: int) -> tuple[int, Identity]:
    _compare(kept, text)
    return int(number), identity_from_json(text)


def _scalars(name: str, data: bytes) -> tuple[str, list[tuple[int, int, float]]]:
    return str(name), unpack_rows(data)


def _compare(kept: int, *texts: str) -> None:
    if checksum(*texts) != kept:
        raise ValueError("its checksum is wrong")


def _sound(db: sqlite3.Connection, number: int) -> bool:
    try:
        return sound(db.execute("SELECT data FROM readings WHERE number = ?", (number,)).fetchone()[0])
    except (sqlite3.Error, TypeError):
        return False


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

    def drop_unreadable(self) -> None:
        """Leaves out the readings that cannot be unpacked."""
        readable = []
        for number in self._numbers:
            with contextlib.suppress(DamagedRunError):
                self._unpack(number)
                readable.append(number)
        self._numbers = readable

    def _unpack(self, number: int) -> Reading:
        if self._db is None:
            self._db = _open(self._path, [])
            weakref.finalize(self, self._db.close)
        try:
            (data,) = self._db.execute("SELECT data FROM readings WHERE number = ?", (number,)).fetchone()
            return unpack(data, self._identities)
        except (sqlite3.Error, zlib.error, *_NONSENSE) as error:
            raise DamagedRunError(
                f"reading {number} of {self._path} is damaged ({error}). Load the run again to go on without it."
            ) from error
