"""A run is the same in memory, on disk and read back."""

import math
import random
from array import array
from dataclasses import replace

import pytest
import torch
from torch import nn

import gradiometer as gm
from gradiometer.records import ModelInfo, Parameter, Run, Site
from gradiometer.store import MemoryRun, RunWriter
from gradiometer.store.packing import identity_from_json, identity_to_json, pack, pack_rows, sound, unpack, unpack_rows
from rows import PARAMETER, READING, SITE, same

NAN, INF = math.nan, math.inf

READINGS = {
    "plain": READING,
    "nothing": replace(READING, sites=(), parameters=(), loss_operations=(), level="parameters", passes=0),
    "no loss": replace(READING, loss=None),
    "loss is nan": replace(READING, loss=NAN, loss_scale=65536.0),
    "loss is inf": replace(READING, loss=-INF, step=10**9, optimizer=3),
    "sites": replace(
        READING,
        sites=(
            SITE,
            replace(SITE, site=Site("层.名\n\"'", "unknown", "unknown", "модель"), shape=(), units=1, dead_mask=b""),
            replace(SITE, rms=NAN, mean=NAN, zeros=NAN, saturation=NAN, grad_rms=NAN, nonfinite=2**40, masked=2**33),
            replace(SITE, rms=INF, mean=-INF, grad_rms=INF, saturation=0.0, dead=0, dead_mask=b"", shape=(0, 3)),
            replace(SITE, dead=None, dead_mask=b"", grad_rms=None, rms=0.0, mean=0.0, units=0, examples=0),
            replace(SITE, rms=5e-324, mean=-5e-324, grad_rms=1.7e308, dead_mask=bytes(range(256)), passes=16),
        ),
    ),
    "parameters": replace(
        READING,
        parameters=(
            PARAMETER,
            replace(PARAMETER, parameter=Parameter("scale", (), -1, False, "критик"), unit_data=b""),
            replace(PARAMETER, grad_rms=None, update_rms=None, unit_data=b"", measured=0, weight_rms=0.0),
            replace(PARAMETER, weight_rms=NAN, weight_nonfinite=True, grad_rms=INF, grad_nonfinite=5, update_rms=NAN),
            replace(PARAMETER, unit_data=array("f", [0.0, 1.0, NAN, INF, -0.0]).tobytes(), unit_quantiles=True),
        ),
    ),
    "many": replace(READING, sites=tuple(replace(SITE, site=Site(f"a.{i}", "relu", "activation")) for i in range(500))),
}


class Numbers(dict):
    def __missing__(self, key):
        self[key] = len(self)
        return self[key]


@pytest.mark.parametrize("kind", READINGS)
def test_roundtrip(kind):
    numbers = Numbers()
    data = pack(READINGS[kind], numbers.__getitem__)
    stored = {number: identity_from_json(identity_to_json(identity)) for identity, number in numbers.items()}
    assert all(same(identity, stored[number]) for identity, number in numbers.items())
    assert sound(data)
    assert same(unpack(data, stored), READINGS[kind])
    assert same(unpack(data, stored).sites, READINGS[kind].sites)


def test_every_changed_byte_is_noticed():
    numbers, generator = Numbers(), random.Random(0)
    data = pack(READINGS["sites"], numbers.__getitem__)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= generator.randrange(1, 256)
        assert not sound(bytes(changed))
        assert not sound(data[:place])
    assert not sound(b"")
    assert not sound(None)


def test_a_name_that_is_lost_loses_no_number():
    data = pack(READING, Numbers().__getitem__)
    got = unpack(data, {0: PARAMETER.parameter})
    assert same(got.sites, (replace(SITE, site=got.sites[0].site),))
    assert got.sites[0].name == "site 0 (its name is lost)"
    assert same(got.parameters, (replace(PARAMETER, parameter=got.parameters[0].parameter),))
    with pytest.raises(ValueError, match="checksum"):
        unpack(data[:-1], {})


@pytest.mark.parametrize("rows", [[], [(0, 0, 2.3), (3, 10**15, NAN), (1, 5, INF), (1, 6, -INF), (0, 7, 5e-324)]])
def test_rows(rows):
    assert same(unpack_rows(pack_rows(rows)), rows)
    with pytest.raises(ValueError, match="checksum"):
        unpack_rows(pack_rows(rows)[:-1])


SCALARS = {
    "loss": [(0, 0, 2.3), (0, 1, NAN), (1, 0, INF), (0, 2, -INF), (0, 3, 1e-320), (0, 4, 0.1 + 0.2), (0, 10**10, -0.0)],
    "точность\n": [(0, 12, 0.5)],
    "": [(2, 0, 1.0)],
}


def test_memory_and_disk_hold_the_same(tmp_path):
    details = {"torch": "2.13.0", "every": 3, "budget": 0.01, "loss": "nll_loss"}
    memory, disk = MemoryRun("Net", details), RunWriter(tmp_path / "Net.sqlite", details)
    for sink in (memory, disk):
        sink.describe((ModelInfo("", "Net", 34), ModelInfo("D", "Сеть", 0)), ("SGD", "Adam"))
        for reading in READINGS.values():
            sink.add_reading(reading)
        for name, rows in SCALARS.items():
            for row in rows:
                sink.add_scalars(name, [row])
        sink.note("first")
        sink.note("второе")
        equal(memory.run(), sink.run())
        sink.close()
        sink.close()
    equal(memory.run(), disk.run(), finished=True)
    equal(memory.run(), gm.load(tmp_path / "Net.sqlite"), finished=True)


def equal(a: Run, b: Run, finished: bool = False) -> None:
    assert same(tuple(a.readings), tuple(b.readings))
    assert same(tuple(a.readings[1:4]), tuple(b.readings[1:4]))
    assert same(a.last, b.last)
    assert list(a.scalars) == list(b.scalars)
    assert all(same(a.scalars[name], b.scalars[name]) for name in a.scalars)
    for name in ("models", "optimizers", "notes", "steps", "details", "name"):
        assert getattr(a, name) == getattr(b, name), name
    assert b.finished is finished


def train(path: object) -> gm.watch:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 600), nn.Sigmoid(), nn.Linear(600, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    with gm.watch(model, optimizer, every=2, path=path) as watch:
        for step in range(9):
            optimizer.zero_grad()
            x = torch.randn(5, 6) * (NAN if step == 6 else 1)
            nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0, 1])).backward()
            optimizer.step()
            watch.record(accuracy=step / 3)
    return watch


def test_live_equals_replay(tmp_path):
    live, written = train(None).run, train(tmp_path / "run.sqlite")
    replayed = gm.load(tmp_path / "run.sqlite")
    assert written.path == str(tmp_path / "run.sqlite") == replayed.path
    assert len(live.readings) == len(replayed.readings) >= 5
    assert live.last is not None
    assert live.last.parameters[2].unit_quantiles
    for run in (replayed, written.run):
        for a, b in zip(live.readings, run.readings, strict=True):
            assert same(replace(a, time=0.0), replace(b, time=0.0))
        assert same(live.scalars["loss"], run.scalars["loss"])
        assert same(live.scalars["accuracy"], run.scalars["accuracy"])
        for name in ("models", "optimizers", "steps", "finished", "notes", "details"):
            assert getattr(live, name) == getattr(run, name), name
        assert str(gm.diagnose(live)).split("·")[1:] == str(gm.diagnose(run)).split("·")[1:]
