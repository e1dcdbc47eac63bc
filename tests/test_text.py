"""What a diagnosis looks like in the terminal."""

import io

import pytest
from rich.console import Console

import gradiometer as gm
from gradiometer.records import Run
from gradiometer.report.text import show
from gradiometer.rules import cases

PATIENTS = {
    "sigmoid": cases.chain([0.2] * 12, "sigmoid", loss="stalled"),
    "healthy": cases.chain([1.05] * 20, "relu", loss="learning"),
    "exploding": cases.chain([3.0] * 20, "relu", loss="stalled"),
    "silent-layer": cases.chain([1.0] * 3 + [0.0] + [1.0] * 2, "relu", loss="stalled", dead=1.0),
    "nan": cases.nonfinite(site=3),
    "recurrent": cases.recurrent(0.7, 60, loss="stalled"),
}


def rendered(run: Run, width: int = 80, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(Console(file=stream, width=width, color_system=None), gm.diagnose(run), run)
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def as_run(patient: cases.Patient) -> Run:
    rows = [(0, step, loss) for step, loss in patient.losses]
    return Run(readings=tuple(patient.recent), scalars={"loss": rows}, steps=len(rows), name="hand-made")


@pytest.mark.parametrize("name", PATIENTS)
def test_terminal_output(name, golden):
    golden(f"{name}.txt", rendered(as_run(PATIENTS[name])))


def test_nothing_recorded(golden):
    golden("nothing.txt", rendered(Run(readings=())))


def test_plain_characters_where_there_are_no_others():
    text = rendered(as_run(PATIENTS["sigmoid"]), encoding="ascii")
    assert "####" in text
    assert "critical" in text


def test_str_has_the_same_content():
    diagnosis = gm.diagnose(as_run(PATIENTS["sigmoid"]))
    assert "vanishing gradient [critical]" in str(diagnosis)
    assert "do: ReLU and He initialization" in str(diagnosis)
