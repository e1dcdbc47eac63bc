"""Writes a run while it happens, in a thread of its own, so that the training neither waits nor fails."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradiometer.errors import RunError
from gradiometer.records import SCHEMA_VERSION, ModelInfo, Reading, Run
from gradiometer.store.packing import Identity, checksum, identity_to_json, pack, pack_rows
from gradiometer.store.reader import APPLICATION_ID, load
from gradiometer.version import __version__

INTERVAL = 0.5
"""Seconds between two commits: what ``kill -9`` can take away. A commit goes to the operating system, which
survives the process; only a power cut can take more."""

_SCHEMA = f"""
PRAGMA journal_mode=WAL;
BEGIN;
PRAGMA application_id={APPLICATION_ID};
PRAGMA user_version={SCHEMA_VERSION};
CREATE TABLE details (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER);
CREATE TABLE identities (number INTEGER PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER);
CREATE TABLE readings (number INTEGER PRIMARY KEY, optimizer INTEGER, step INTEGER, data BLOB NOT NULL);
CREATE TABLE scalars (number INTEGER PRIMARY KEY, name TEXT NOT NULL, data BLOB NOT NULL);
COMMIT;
"""


class RunWriter:
    """A sink that appends to a run file.

    Raises:
        RunError: if the file exists or its folder cannot be made or written; nothing is watched then.
    """

    def __init__(self, path: str | os.PathLike[str], details: Mapping[str, Any] | None = None) -> None:
        """Makes the file, and its folder if need be."""
        self.path = str(path)
        self._queue: list[tuple[str, Any]] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._failed = False
        self._pid = os.getpid()
        self._numbers: dict[Identity, int] = {}
        started = {"started": time.time(), "finished": False, "version": __version__, "steps": 0, **(details or {})}
        self._steps = self._readings = self._values = 0
        self._file = Path(path).absolute()  # a training may change its working folder
        _create(Path(path), started)
        self._thread = threading.Thread(target=self._work, name="gradiometer-writer", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    # -- what the probe calls; none of it waits -------------------------------------------------------------------

    def add_reading(self, reading: Reading) -> None:
        """Takes a reading, to be written within `INTERVAL`."""
        self._put("reading", reading)

    def add_scalars(self, name: str, rows: list[tuple[int, int, float]]) -> None:
        """Takes rows ``(optimizer, step, value)``."""
        self._put("scalars", (name, rows))

    def describe(self, models: tuple[ModelInfo, ...], optimizers: tuple[str, ...]) -> None:
        """Takes what is under watch."""
        self._put("details", {"models": [[m.name, m.kind, m.parameters] for m in models], "optimizers": optimizers})

    def note(self, text: str) -> None:
        """Takes what the instrument said about itself."""
        self._put("note", text)

    def close(self) -> None:
        """Writes what is left and closes the file; safe to call twice, and in a forked child, where it does nothing."""
        if os.getpid() != self._pid:
            return
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=10)
        atexit.unregister(self.close)

    def run(self) -> Run:
        """The run as the file has it now, with everything handed over so far."""
        if self._thread.is_alive():
            done = threading.Event()
            self._put("done", done)
            self._wake.set()
            done.wait(timeout=10)
        return load(self._file)

    def _put(self, kind: str, what: Any) -> None:
        # A forked child has no thread that writes, and its copy of the lock may have been held at the fork, for ever.
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._queue.append((kind, what))
        if self._failed or not self._thread.is_alive():
            self._release()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        notes: list[str] = []
        # A local of this thread, which a forked child does not have: were the child to close the connection, on its way
        # out, it would tidy away the log the parent is writing.
        db: sqlite3.Connection | None = None
        while not self._failed:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            last = self._closed
            with self._lock:
                items, self._queue = self._queue, []
            try:
                db = db or _connect(self._file)
                self._write(db, items, notes, last)
            except Exception as error:
                self._fail(db, error, items, notes)
            if last:
                break
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()
        self._release()  # of what came in while this was ending

    def _write(self, db: sqlite3.Connection, items: list[tuple[str, Any]], notes: list[str], last: bool) -> None:
        if items or last:
            with db:
                rows: dict[str, list[tuple[int, int, float]]] = {}
                for kind, what in items:
                    self._write_one(db, kind, what, notes, rows)
                for name, several in rows.items():
                    db.execute("INSERT INTO scalars (name, data) VALUES (?, ?)", (name, pack_rows(several)))
                _detail(db, "steps", self._steps)
                # How many rows there are: a damaged file may give fewer without a word.
                _detail(db, "counts", [self._readings, len(self._numbers), self._values])
                if last:
                    _detail(db, "finished", True)
        if last:
            # One plain file to copy and to send. A reader that is at it just now keeps the log alive, which is fine
            # as long as all of it is in the file as well; it is not waited for.
            with contextlib.suppress(sqlite3.Error):
                db.execute("PRAGMA busy_timeout=0")
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
                db.execute("PRAGMA journal_mode=DELETE")
        for kind, what in items:
            if kind == "done":
                what.set()

    def _write_one(
        self,
        db: sqlite3.Connection,
        kind: str,
        what: Any,
        notes: list[str],
        scalars: dict[str, list[tuple[int, int, float]]],
    ) -> None:
        if kind == "reading":
            data = pack(what, lambda identity: self._number(db, identity))
            db.execute(
                "INSERT INTO readings (optimizer, step, data) VALUES (?, ?, ?)", (what.optimizer, what.step, data)
            )
            self._readings += 1
            self._steps = max(self._steps, what.step + 1)
        elif kind == "scalars":
            name, rows = what
            scalars.setdefault(name, []).extend(rows)
            self._values += len(rows)
            self._steps = max([self._steps, *(s + 1 for _, s, _ in rows)])
        elif kind == "details":
            for key, value in what.items():
                _detail(db, key, value)
        elif kind == "note":
            notes.append(what)
            _detail(db, "notes", notes)

    def _number(self, db: sqlite3.Connection, identity: Identity) -> int:
        number = self._numbers.get(identity)
        if number is None:
            number = self._numbers[identity] = len(self._numbers)
            text = identity_to_json(identity)
            db.execute("INSERT INTO identities VALUES (?, ?, ?)", (number, text, checksum(text)))
        return number

    def _fail(
        self, db: sqlite3.Connection | None, error: Exception, items: list[tuple[str, Any]], notes: list[str]
    ) -> None:
        self._failed = True
        text = (
            f"gradiometer stopped recording to {self.path}: {error}. What was written before is kept, and the training "
            "goes on. Free some space, or choose another folder with path= or --out."
        )
        # Written, not warned: this is another thread, and a warning made an error would end in nobody's hands.
        with contextlib.suppress(Exception):
            print(text, file=sys.stderr)
        with contextlib.suppress(Exception):  # a line may fit where a reading did not
            if db is not None:
                with db:
                    _detail(db, "notes", [*notes, text])
        with self._lock:
            self._queue = items + self._queue
        self._release()

    def _release(self) -> None:
        """Lets go of whoever waits, when nothing will be written any more."""
        with self._lock:
            items, self._queue = self._queue, []
        for kind, what in items:
            if kind == "done":
                what.set()


def _detail(db: sqlite3.Connection, key: str, value: Any) -> None:
    text = json.dumps(value, default=str)
    db.execute("INSERT OR REPLACE INTO details VALUES (?, ?, ?)", (key, text, checksum(key, text)))


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    db.execute("PRAGMA synchronous=NORMAL")
    return db


def _create(path: Path, details: Mapping[str, Any]) -> None:
    try:
        if path.is_dir():
            raise RunError(f"{path} is a folder. Give the path of a file in it, such as {path / 'run.sqlite'}.")
        if path.exists():
            raise RunError(f"{path} exists already, and a run is never overwritten. Give another path, or remove it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except OSError as error:
        raise RunError(
            f"cannot record to {path}: {error.strerror or error}. Choose a folder that can be written, "
            "with path= or --out."
        ) from error
    try:
        with contextlib.closing(_connect(path)) as db:
            db.executescript(_SCHEMA)
            with db:
                for key, value in details.items():
                    _detail(db, key, value)
    except sqlite3.Error as error:
        for left in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                path.with_name(path.name + left).unlink()
        raise RunError(f"cannot record to {path}: {error}. Choose another folder, with path= or --out.") from error
