"""A prescription in the terminal, wide and narrow, with a cure and without."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from gradiometer.records import Arm, Diagnosis, Interval, PrescriptionRecord, Trial
from gradiometer.report.prescription import ROWS, show

UNTREATED = Arm(400, (2.31, 2.3, 2.31), (0.09, 0.11, 0.1), 2.1, gradient=-7.5)
CURED = Arm(400, (0.01, 0.02, 0.01), (0.98, 0.97, 0.98), 2.4, gradient=0.2)
GAIN = Interval(0.887, 0.867, 0.907)
CURE = Trial(
    "selu+lecun",
    "SELU between the layers and LeCun initialization",
    ("selu", "lecun"),
    "activation, init",
    CURED,
    0.0,
    GAIN,
    True,
)
BEHIND = Trial(
    "elu",
    "ELU between the layers",
    ("elu",),
    "activation",
    Arm(40, (0.69,), (0.82,), 0.1, gradient=-0.6),
    -0.6,
    reason="behind at step 40",
)
LOST = replace(
    BEHIND, name="rate_x3", treated=Arm(3, (), (), 0.1), predicted=None, reason="the loss is nan from step 3 on"
)
RECORD = PrescriptionRecord(
    Diagnosis(()),
    UNTREATED,
    (CURE, BEHIND, LOST),
    "selu+lecun",
    code='# SELU\nfor path in ("1", "3"):\n    model.set_submodule(path, nn.SELU())\n',
    diff="--- a/train.py\n+++ b/train.py\n@@ -1 +1,2 @@\n-    return Net()\n+    model = Net()\n+    return model\n",
    by_hand=("the lines for the training loop: it is not in the recipe",),
    refused={"rnn_to_lstm": "it has no recurrent layer."},
    steps=400,
    seeds=3,
    seconds=5.7,
    work=8.3,
)
NOTHING = replace(
    RECORD,
    trials=(BEHIND, LOST),
    best=None,
    code="",
    diff="",
    reason="nothing that was tried beat the untreated training",
)


def shown(record: PrescriptionRecord, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(console, record)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "record", "width"),
    [
        ("cure-wide", RECORD, 130),
        ("cure-narrow", RECORD, 80),
        ("cure-none", NOTHING, 110),
        ("cure-healthy", replace(NOTHING, trials=(), reason="healthy: there is nothing to prescribe"), 110),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_golden(golden, name: str, record: PrescriptionRecord, width: int) -> None:
    golden(f"{name}.txt", shown(record, width))


def test_many_trials_are_counted() -> None:
    text = shown(replace(RECORD, trials=(CURE, *[BEHIND] * (ROWS + 4))), 120)
    assert "and 5 more" in text


def test_a_file_that_knows_no_other_characters_gets_plain_ones() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=110, color_system=None)
    show(console, RECORD)
    console.file.flush()
    assert b"selu+lecun" in raw.getvalue()
