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
from gradiometer.store.packing import Identity, identity_to_json, pack
from gradiometer.store.reader import APPLICATION_ID, load
from gradiometer.version import __version__

INTERVAL = 0.5
"""Seconds between two commits: what ``kill -9`` can take away. A commit goes to the operating system, which
survives the process; only a power cut can take more."""

_SCHEMA = """
CREATE TABLE details (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE identities (number INTEGER PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE readings (number INTEGER PRIMARY KEY, optimizer INTEGER, step INTEGER, data BLOB NOT NULL);
CREATE TABLE scalars (name TEXT NOT NULL, optimizer INTEGER, step INTEGER, value REAL);
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
        self._steps = 0
        self._db = _create(Path(path), started)
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
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=10)
        atexit.unregister(self.close)

    def run(self) -> Run:
        """The run as the file has it now, with everything handed over so far."""
        if not self._closed:
            done = threading.Event()
            self._put("done", done)
            self._wake.set()
            done.wait(timeout=10)
        return load(self.path)

    def _put(self, kind: str, what: Any) -> None:
        if self._failed and kind != "done":
            return
        with self._lock:
            self._queue.append((kind, what))
        if self._failed or not self._thread.is_alive():
            self._release()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        notes: list[str] = []
        while not self._failed:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            last = self._closed
            with self._lock:
                items, self._queue = self._queue, []
            try:
                self._write(items, notes, last)
            except Exception as error:
                self._fail(error, items)
            if last:
                break
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def _write(self, items: list[tuple[str, Any]], notes: list[str], last: bool) -> None:
        if items or last:
            with self._db:
                for kind, what in items:
                    self._write_one(kind, what, notes)
                self._detail("steps", self._steps)
                if last:
                    self._detail("finished", True)
        if last:
            # One plain file to copy and to send; a reader that is at it just now keeps the log alive, which is fine.
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA journal_mode=DELETE")
        for kind, what in items:
            if kind == "done":
                what.set()

    def _write_one(self, kind: str, what: Any, notes: list[str]) -> None:
        if kind == "reading":
            data = pack(what, self._number)
            self._db.execute(
                "INSERT INTO readings (optimizer, step, data) VALUES (?, ?, ?)", (what.optimizer, what.step, data)
            )
            self._steps = max(self._steps, what.step + 1)
        elif kind == "scalars":
            name, rows = what
            self._db.executemany(
                "INSERT INTO scalars VALUES (?, ?, ?, ?)", [(name, o, s, _real(v)) for o, s, v in rows]
            )
            self._steps = max([self._steps, *(s + 1 for _, s, _ in rows)])
        elif kind == "details":
            for key, value in what.items():
                self._detail(key, value)
        elif kind == "note":
            notes.append(what)
            self._detail("notes", notes)

    def _number(self, identity: Identity) -> int:
        number = self._numbers.get(identity)
        if number is None:
            number = self._numbers[identity] = len(self._numbers)
            self._db.execute("INSERT INTO identities VALUES (?, ?)", (number, identity_to_json(identity)))
        return number

    def _detail(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO details VALUES (?, ?)", (key, json.dumps(value)))

    def _fail(self, error: Exception, items: list[tuple[str, Any]]) -> None:
        self._failed = True
        # Written, not warned: this is another thread, and a warning made an error would end in nobody's hands.
        print(
            f"gradiometer stopped recording to {self.path}: {error}. What was written before is kept, and the training "
            "goes on. Free some space, or choose another folder with path= or --out.",
            file=sys.stderr,
        )
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


def _real(value: float) -> float | str:
    # SQLite turns NaN into NULL, and says nothing; a text comes back as it was.
    return value if value == value else "nan"


def _create(path: Path, details: Mapping[str, Any]) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except FileExistsError as error:
        raise RunError(
            f"{path} exists already, and a run is never overwritten. Give another path, or remove it."
        ) from error
    except OSError as error:
        raise RunError(
            f"cannot record to {path}: {error.strerror or error}. Choose a folder that can be written, "
            "with path= or --out."
        ) from error
    try:
        db = sqlite3.connect(path, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        with db:
            db.executescript(_SCHEMA)
            db.executemany("INSERT INTO details VALUES (?, ?)", [(k, json.dumps(v)) for k, v in details.items()])
    except sqlite3.Error as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise RunError(f"cannot record to {path}: {error}. Choose another folder, with path= or --out.") from error
    return db
