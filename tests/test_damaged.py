"""Files that are no run, and runs that were damaged: a clear error, or what can be read of them."""

import contextlib
import os
import random
import sqlite3
import warnings
from pathlib import Path

import pytest

import gradiometer as gm
from gradiometer.records import SCHEMA_VERSION
from rows import SITES, reading, replace, same, write


def other_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE readings (number INTEGER PRIMARY KEY, data BLOB)")


def newer(path: Path) -> None:
    write(path, 2)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")


def gutted(path: Path) -> None:
    write(path, 2)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for table in ("details", "identities", "readings", "scalars"):
            db.execute(f"DROP TABLE {table}")


@pytest.mark.parametrize(
    ("kind", "make_file", "error", "text"),
    [
        ("missing", lambda p: None, gm.NotARunError, "does not exist.*gradiometer runs"),
        ("missing folder", lambda p: p.parent.rmdir(), gm.NotARunError, "does not exist"),
        ("below a file", lambda p: p.parent.rmdir() or p.parent.touch(), gm.NotARunError, "cannot be read"),
        ("folder", lambda p: p.mkdir(), gm.NotARunError, "is a folder"),
        ("pipe", lambda p: os.mkfifo(p), gm.NotARunError, "is no file"),
        ("empty", lambda p: p.touch(), gm.NotARunError, "is empty"),
        ("byte", lambda p: p.write_bytes(b"\0"), gm.NotARunError, "is no run"),
        ("text", lambda p: p.write_text("loss 2.3\n" * 999), gm.NotARunError, "not an SQLite file"),
        ("random", lambda p: p.write_bytes(random.Random(0).randbytes(9999)), gm.NotARunError, "not an SQLite file"),
        ("magic", lambda p: p.write_bytes(b"SQLite format 3\0" + bytes(5000)), gm.RunError, "Name|Watch"),
        ("database", other_database, gm.NotARunError, "no run of gradiometer"),
        (
            "newer",
            newer,
            gm.NewerRunError,
            f"schema {SCHEMA_VERSION + 1}, .*{SCHEMA_VERSION}.*pip install -U",
        ),
        ("gutted", gutted, gm.DamagedRunError, "nothing in it can be read.*no such table"),
    ],
)
def test_what_is_no_run(tmp_path, kind, make_file, error, text):
    path = tmp_path / "folder" / "x.sqlite"
    path.parent.mkdir()
    make_file(path)
    with pytest.raises(error, match=text) as caught:
        gm.load(path)
    assert "x.sqlite" in str(caught.value)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("healthy") / "run.sqlite"
    write(path, 100)
    return path.read_bytes()


def examine(path: Path) -> int | None:
    """Loads a damaged file and reads all of it: how many readings it gave, `None` for a `RunError`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run = gm.load(path)
        except gm.RunError:
            return None
    assert [str(w.message) for w in caught] == list(run.notes)
    assert all(w.category is gm.GradiometerWarning for w in caught)
    for r in run.readings:
        assert same(replace(r, sites=()), replace(reading(r.step), sites=(), parameters=r.parameters))
        assert all(got.name == site.name or "lost" in got.name for got, site in zip(r.sites, SITES, strict=True))
    assert all(value == step / 7 for step, value in run.losses())
    whole = len(run.readings) == len(run.losses()) == run.steps == 100
    assert whole or any("damaged" in note for note in run.notes)
    assert str(gm.diagnose(run))
    return len(run.readings)


def test_truncated_anywhere(tmp_path, healthy):
    path, found = tmp_path / "run.sqlite", []
    for part in range(1, 40):
        path.write_bytes(healthy[: len(healthy) * part // 40])
        found.append(examine(path))
    given = [n for n in found if n is not None]
    assert len(given) > 20
    assert given[-1] > 80
    assert 30 < given[len(given) // 2] < 100


def test_bytes_changed_anywhere(tmp_path, healthy):
    path, found = tmp_path / "run.sqlite", []
    for seed in range(80):
        generator, data = random.Random(seed), bytearray(healthy)
        for _ in range(1 + seed % 12):
            place = generator.randrange(len(data) if seed % 3 else 4096 * 4)  # the first pages hold the structure
            data[place] = generator.randrange(256)
        path.write_bytes(data)
        found.append(examine(path))
    assert sum(n is not None and n > 90 for n in found) > 40


def test_pages_overwritten(tmp_path, healthy):
    path = tmp_path / "run.sqlite"
    pages = len(healthy) // 4096
    for seed in range(30):
        generator, data = random.Random(seed), bytearray(healthy)
        page = generator.randrange(1, pages)
        data[page * 4096 : (page + 1) * 4096] = bytes(4096) if seed % 2 else generator.randbytes(4096)
        path.write_bytes(data)
        examine(path)


def test_damage_after_loading_is_told_when_it_is_met(tmp_path):
    path = tmp_path / "run.sqlite"
    write(path, 5)
    run = gm.load(path)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE readings SET data = x'00' WHERE number = 2")
        db.execute("DELETE FROM readings WHERE number = 3")
    for place in (1, 2):
        with pytest.raises(gm.DamagedRunError, match=rf"reading {place + 1} of .*run.sqlite.*Load the run again"):
            _ = run.readings[place]
    assert same(run.readings[0], reading(0))
    with pytest.warns(gm.GradiometerWarning, match="checksum is wrong.*3 of 5 readings and 5 of 5 values"):
        again = gm.load(path)
    assert [r.step for r in again.readings] == [0, 3, 4]
    path.unlink()
    with pytest.raises(gm.NotARunError, match="does not exist"):
        _ = gm.load(path).readings


def test_a_row_that_is_damaged_is_left_out(tmp_path):
    path = tmp_path / "run.sqlite"
    sink = write(path, 5, close=False)
    sink.run()
    sink.add_scalars("loss", [(0, 5, 1.0)])
    sink.add_scalars("accuracy", [(0, 5, 1.0)])
    sink.close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE scalars SET data = x'00' WHERE number = 2")
        db.execute("UPDATE details SET value = '[[1, 2]]' WHERE key = 'models'")
        db.execute("UPDATE details SET value = x'ff' WHERE key = 'steps'")
        db.execute("UPDATE identities SET value = replace(value, 'layer.3', 'layer.4')")
    with pytest.warns(gm.GradiometerWarning, match="damaged.*5 of 5 readings and 6 of 7 values"):
        run = gm.load(path)
    assert list(run.scalars["accuracy"]) == [(0, 5, 1.0)]
    assert [step for step, _ in run.losses()] == [0, 1, 2, 3, 4]
    assert (run.models, run.steps, run.optimizers) == ((), 6, ("SGD",))
    assert [s.name for s in run.readings[0].sites[2:5]] == ["layer.2", "site 3 (its name is lost)", "layer.4"]
