"""A run file survives what happens to it and to the processes that write and read it."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import gradiometer as gm
from gradiometer.store import RunWriter, find, newest, reader, writer
from rows import reading, same, write

WRITING = """
import os, sys, time, warnings
sys.path.insert(0, sys.argv[1])
from rows import RunWriter, reading, write
path, pause = sys.argv[2], float(sys.argv[3])
def train(w, steps):
    for step in steps:
        w.add_reading(reading(step))
        w.add_scalars("loss", [(0, step, 1.0)])
        print(step, time.time(), flush=True)
        time.sleep(pause)
"""
TRAINING = """
import os, sys, time
import torch
import gradiometer as gm

path, pause = sys.argv[2], float(sys.argv[3])
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
def train(w, steps):
    for step in steps:
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        print(step, time.time(), flush=True)
        time.sleep(pause)
"""


def child(path: Path, code: str, pause: float = 0.0) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-c",
        code,
        str(Path(__file__).parent),
        str(path),
        str(pause),
    ]
    command += [str(path), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# -- processes that end -------------------------------------------------------------------------------------------

WATCH = TRAINING + "w = gm.watch(model, optimizer, every=1, path=path)\n"
WRITE = WRITING + "w = RunWriter(path)\n"


def test_kill_at_any_moment_loses_no_more_than_the_last_seconds(tmp_path):
    moments = [random.uniform(0.0, 3.5) for _ in range(10)]
    codes = [WATCH + "with w: train(w, range(10**6))"] * 2 + [WRITE + "train(w, range(10**6))"] * 8
    children = [child(tmp_path / f"{i}.sqlite", code, pause=0.03) for i, code in enumerate(codes)]
    for i, (process, moment) in enumerate(zip(children, moments, strict=True)):
        assert process.stdout is not None
        first = process.stdout.readline()
        begun = float(first.split()[1])
        while time.time() < begun + moment:  # read from another process while it grows
            run = gm.load(tmp_path / f"{i}.sqlite")
            assert not run.finished
            assert all(r.step == k for k, r in enumerate(run.readings))
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        lines = (first + process.communicate()[0]).splitlines(keepends=True)
        printed = [line.split() for line in lines if line.endswith("\n")]
        run = gm.load(tmp_path / f"{i}.sqlite")
        assert not run.finished
        assert not run.notes
        due = sum(float(at) < float(printed[-1][1]) - 2.5 for _, at in printed)
        assert [r.step for r in run.readings] == list(range(len(run.readings)))
        assert [step for step, _ in run.losses()] == list(range(len(run.losses())))
        assert min(run.steps, len(run.losses()), len(run.readings)) >= due


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (WATCH + "with w: train(w, range(5)); sys.exit(3)", 3),
        (WATCH + "w.__enter__(); train(w, range(5)); w.run; 1 / 0", 1),
        (WRITE + "train(w, range(5))", 0),
        (WRITE + "train(w, range(5)); sys.exit(3)", 3),
        (WRITE + "train(w, range(5)); os.chdir('/'); len(w.run().readings); w.close(); w.close()", 0),
    ],
)
def test_however_a_process_ends_the_file_is_finished(tmp_path, code, status):
    process = child(tmp_path / "run.sqlite", code)
    _, errors = process.communicate()
    assert process.returncode == status, errors
    assert ("Traceback" in errors) == (status == 1)
    assert "ResourceWarning" not in errors
    run = gm.load(tmp_path / "run.sqlite")
    assert run.finished
    assert (run.steps, len(run.readings), len(run.losses())) == (5, 5, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]


FORKS = {
    "exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "writes": "train(w, range(99)); w.note('hello'); assert len(w.run().readings) == 5; w.close(); sys.exit(0)",
    "outlives": "time.sleep(0.7); w.run(); sys.exit(0)",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("kind", FORKS)
def test_a_forked_child_leaves_the_file_alone(tmp_path, kind):
    code = f"""
warnings.simplefilter("ignore", DeprecationWarning)  # since Python 3.12: of forks beside threads
train(w, range(5))
held = w.run()
pid = os.fork()
if pid == 0:
    {FORKS[kind]}
waited = "{kind}" != "outlives" and os.waitpid(pid, 0)[1]
train(w, range(5, 10))
w.close()
waited = waited or os.waitpid(pid, 0)[1] if "{kind}" == "outlives" else waited
sys.exit(waited)
"""
    process = child(tmp_path / "run.sqlite", WRITE + code)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    run = gm.load(tmp_path / "run.sqlite")
    assert run.finished
    assert [r.step for r in run.readings] == list(range(10))
    assert [step for step, _ in run.losses()] == list(range(10))
    with contextlib.closing(sqlite3.connect(tmp_path / "run.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- files that are moved, locked up or full ----------------------------------------------------------------------


def test_the_log_beside_it_is_read_and_the_file_alone_is_enough_in_the_end(tmp_path):
    sink = write(tmp_path / "run.sqlite", 60, close=False)
    held = sink.run()
    assert len(held.readings) == 60
    assert same(held.readings[59], reading(59))
    (tmp_path / "left").mkdir()
    for suffix in ("", "-wal"):  # as a kill leaves them
        shutil.copy(tmp_path / f"run.sqlite{suffix}", tmp_path / "left" / f"run.sqlite{suffix}")
    assert len(gm.load(tmp_path / "left" / "run.sqlite").readings) == 60
    began = time.monotonic()
    sink.close()  # while `held` still has the file open
    assert time.monotonic() - began < 2
    shutil.copy(tmp_path / "run.sqlite", tmp_path / "copy.sqlite")
    copied = gm.load(tmp_path / "copy.sqlite")
    assert copied.finished
    assert len(copied.readings) == len(held.readings) == 60
    assert same(tuple(held.readings), tuple(copied.readings))


def test_a_writer_keeps_its_locks_when_its_process_reads(tmp_path):
    sink = write(tmp_path / "run.sqlite", 60, close=False)
    assert len(sink.run().readings) == 60
    # Another process that opens the file for writing would take an unlocked log for a left one, and remove it.
    code = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM details'); db.close()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run.sqlite")], check=True)
    assert (tmp_path / "run.sqlite-wal").exists()
    sink.add_reading(reading(60))
    assert len(sink.run().readings) == 61
    sink.close()
    assert len(gm.load(tmp_path / "run.sqlite").readings) == 61


@contextlib.contextmanager
def locked(folder: Path):
    """The folder and its files can be read and not written, not even by root."""
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions are those of POSIX")
def test_a_folder_that_cannot_be_written():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "done.sqlite", 60)
        sink = write(folder / "live.sqlite", 60, close=False)
        sink.run()
        for suffix in ("", "-wal"):
            shutil.copy(folder / f"live.sqlite{suffix}", folder / f"cut.sqlite{suffix}")
        shutil.copy(folder / "live.sqlite", folder / "bare.sqlite")
        (folder / "secret.sqlite").write_bytes(b"x" * 999)
        (folder / "secret.sqlite").chmod(0)
        with locked(folder):
            assert len(gm.load(folder / "done.sqlite").readings) == 60
            assert gm.load(folder / "bare.sqlite").path
            with pytest.warns(gm.GradiometerWarning, match=r"log beside it.*Copy cut.sqlite and cut.sqlite-wal"):
                run = gm.load(folder / "cut.sqlite")
            assert "log beside it" in run.notes[-1]
            with pytest.raises(gm.NotARunError, match="permissions"):
                gm.load(folder / "secret.sqlite")
            with pytest.raises(gm.RunError, match=r"cannot record to .*Permission denied.*path="):
                RunWriter(folder / "new.sqlite")
        sink.close()


def test_where_nothing_can_be_written(tmp_path):
    write(tmp_path / "run.sqlite", 1)
    before = (tmp_path / "run.sqlite").read_bytes()
    for path, text in [
        (tmp_path / "run.sqlite", "exists already"),
        (tmp_path, "is a folder"),
        (tmp_path / "run.sqlite" / "below.sqlite", "cannot record to .*directory|cannot record to .*exists"),
        (tmp_path / "run.sqlite" / "far" / "below.sqlite", "cannot record to"),
        (Path("/proc/self/gradiometer/run.sqlite"), "cannot record to"),
        (tmp_path / ("x" * 300), "cannot record to"),
    ]:
        with pytest.raises(gm.RunError, match=text):
            RunWriter(path)
    assert (tmp_path / "run.sqlite").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]


@pytest.mark.parametrize("name", ["a b?c#d%41.sqlite", "名.sqlite", "new/deep/run.sqlite", b"\xff\xfe.sqlite"])
def test_odd_names(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = write(Path(os.fsdecode(name)), 3, close=False)
    monkeypatch.chdir("/")  # the training goes elsewhere
    assert len(sink.run().readings) == 3
    sink.close()
    monkeypatch.chdir(tmp_path)
    run = gm.load(os.fsdecode(name))
    monkeypatch.chdir("/")
    assert same(run.last, reading(2))


def test_a_full_disk_ends_the_recording_and_is_told_once(tmp_path, monkeypatch, capfd):
    connect = writer._connect

    def full(path):
        db = connect(path)
        db.execute("PRAGMA max_page_count=40")
        return db

    monkeypatch.setattr(writer, "_connect", full)
    sink = RunWriter(tmp_path / "run.sqlite")
    sizes = []
    for step in range(300):
        sink.add_reading(reading(step))
        sink.add_scalars("loss", [(0, step, 1.0)])
        sink.note("hello")
        if step % 10 == 0:
            sizes.append(len(sink.run().readings))
    assert sizes[-1] == max(sizes) > 0
    assert sink._queue == []
    sink.close()
    run = sink.run()
    assert len(run.readings) == len(run.losses()) == sizes[-1] < 300
    assert not run.finished
    told = capfd.readouterr().err
    assert told.count("stopped recording") == 1
    assert "full" in told.split("Free some space")[0]


def test_find_and_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(["b", "a"]):
        write(tmp_path / reader.FOLDER / f"{name}.sqlite", 1)
        os.utime(tmp_path / reader.FOLDER / f"{name}.sqlite", (i, i))
    assert [p.name for p in newest()] == ["a.sqlite", "b.sqlite"]
    assert newest("nowhere") == []
    for name in ("a", "a.sqlite", f"{reader.FOLDER}/a.sqlite"):
        assert gm.load(find(name)).name == "a"
    with pytest.raises(gm.NotARunError, match="no run c"):
        find("c")
