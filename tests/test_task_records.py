"""Tasks, inputs, and what else a reading says of a step, come back from the store as they were put in."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradiometer as gm
from gradiometer.records import Inputs, Parameter, Reading, Task
from gradiometer.store.packing import identity_from_json, identity_to_json, pack, unpack
from rows import PARAMETER, READING, SITE, same

NAN, INF = math.nan, math.inf

TASK = Task(
    loss="mse_loss", before=("tanh", "linear"), examples=32, width=10, guess=2.302585092994046, outputs=(-1.0, 1.0),
    targets=(0.1 + 0.2, 5e-324), spread=(0.0, 1.7e308), beyond=0.25, broadcast=True, direct=False,
    sums=(0.5, 1.0 + 2**-52),
)  # fmt: skip
INPUTS = Inputs(rms=1e-30, offset=1e12, spread=1.0, feature=7, features=784)
EXTRAS = {"offset": 0.1, "correlation": -1.0, "positions": -0.25, "entropy": 0.0, "sharpness": 31.5, "lost": 1.0}

READINGS: dict[str, Reading] = {
    "no task": replace(READING, tasks=(), inputs=None, clipped=None, carried=None),
    "a task": replace(READING, tasks=(TASK,), inputs=INPUTS, clipped=0.5, carried=0.0, learning_rate=0.1),
    "tasks": replace(READING, tasks=(TASK, Task("nll_loss", (), 0), replace(TASK, before=("a",) * 4, width=None))),
    "not finite": replace(
        READING,
        tasks=(replace(TASK, outputs=(-INF, NAN), spread=(NAN, NAN), beyond=INF, guess=-0.0),),
        inputs=Inputs(INF, NAN, 1.0, 0, 1), clipped=INF, carried=NAN,
    ),
    "one": replace(READING, clipped=1.0, carried=1.0, inputs=replace(INPUTS, offset=INF)),
    "sites": replace(
        READING,
        sites=(
            SITE,
            replace(SITE, **EXTRAS),
            *(replace(SITE, **{name: value}) for name, value in EXTRAS.items()),
            replace(SITE, **dict.fromkeys(EXTRAS, NAN)),
            replace(SITE, **dict.fromkeys(EXTRAS, -1.0), gates=True),
        ),
    ),
    "parameters": replace(
        READING,
        parameters=(
            PARAMETER,
            replace(PARAMETER, parameter=Parameter("up.weight", (4, 3, 2, 2), 1, True, "G", 1, "bfloat16"), moved=0.0),
            replace(PARAMETER, copies=0.0),
            replace(PARAMETER, copies=0.996, moved=1.0, update_rms=None, unit_quantiles=True),
        ),
    ),
}  # fmt: skip


# Fields that have been there all along, and have tests of their own.
FAMILIAR = ("weight_nonfinite", "grad_nonfinite", "nonfinite", "masked")


class Numbers(dict):
    def __missing__(self, key):
        self[key] = len(self)
        return self[key]


@pytest.mark.parametrize("name", READINGS)
def test_roundtrip(name: str) -> None:
    numbers = Numbers()
    data = pack(READINGS[name], numbers.__getitem__)
    stored = {number: identity_from_json(identity_to_json(identity)) for identity, number in numbers.items()}
    assert same(unpack(data, stored), READINGS[name])


def test_every_field_was_given_something() -> None:
    """A field that is added to a record and not to the store would come back as its default."""
    full = replace(READINGS["a task"], sites=READINGS["sites"].sites, parameters=READINGS["parameters"].parameters)
    for record, rows in ((Reading, [full]), (Task, [TASK]), (Inputs, [INPUTS]), (type(SITE), full.sites),
                         (type(PARAMETER), full.parameters)):  # fmt: skip
        for field in fields(record):
            if field.name in ("ledger", "recurrences", "birth", *FAMILIAR):
                continue
            assert any(getattr(row, field.name) != field.default for row in rows), field.name


def train(path: Path | None) -> gm.Run:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.Sequential(nn.Linear(3, 8), encoder, nn.Flatten(), nn.Linear(40, 4)).bfloat16()
    sgd = torch.optim.SGD(net.parameters(), 0.01)
    with gm.watch(net, sgd, every=1, path=path) as watch:
        for _ in range(3):
            x = torch.randn(6, 5, 3).bfloat16()
            F.cross_entropy(net(x).float(), torch.arange(6) % 4).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            sgd.step()
    return watch.run


def test_a_training_with_all_of_it_is_the_same_read_back(tmp_path: Path) -> None:
    live, _ = train(None), train(tmp_path / "run.sqlite")
    replayed = gm.load(tmp_path / "run.sqlite")
    for a, b in zip(live.readings, replayed.readings, strict=True):
        assert same(replace(a, time=0.0), replace(b, time=0.0))
    first = replayed.readings[0]
    assert first.inputs is not None
    assert (first.tasks[0].loss, first.tasks[0].width, first.carried) == ("nll_loss", 4, 0.0)
    assert first.clipped is not None
    assert first.clipped < 1
    assert all(p.moved is not None for p in first.parameters)
    assert any(p.copies is not None for p in first.parameters)
    for name in ("positions", "entropy", "sharpness", "offset", "correlation"):
        assert any(getattr(s, name) is not None for s in first.sites), name
    data = first.to_dict()
    assert data["tasks"][0]["loss"] == "nll_loss"
    assert data["inputs"]["features"] == 3
