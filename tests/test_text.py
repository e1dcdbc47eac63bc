"""What a diagnosis looks like in the terminal."""

import io

import pytest
from rich.console import Console

import gradiometer as gm
from gradiometer.records import Diagnosis, Finding, Run
from gradiometer.report.text import show
from gradiometer.rules import cases
from gradiometer.rules.base import Patient

PATIENTS = {
    "sigmoid": cases.chain([0.2] * 12, "sigmoid", loss="stalled"),
    "healthy": cases.chain([1.05] * 20, "relu", loss="learning"),
    "exploding": cases.chain([3.0] * 20, "relu", loss="stalled"),
    "silent-layer": cases.chain([1.0] * 3 + [0.0] + [1.0] * 2, "relu", loss="stalled", dead=1.0),
    "nan": cases.nonfinite(site=3),
    "recurrent": cases.recurrent(0.7, 60, loss="stalled"),
}


def rendered(run: Run | None, diagnosis: Diagnosis | None = None, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    if diagnosis is None:
        diagnosis = gm.diagnose(run)
    show(Console(file=stream, width=80, color_system=None), diagnosis, run)
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def as_run(patient: Patient) -> Run:
    rows = [(0, step, loss) for step, loss in patient.losses]
    return Run(readings=tuple(patient.recent), scalars={"loss": rows}, steps=len(rows), name="hand-made")


@pytest.mark.parametrize("name", PATIENTS)
def test_terminal_output(name, golden):
    golden(f"{name}.txt", rendered(as_run(PATIENTS[name])))


def test_nothing_recorded(golden):
    golden("nothing.txt", rendered(Run(readings=())))


def test_one_story_is_one_alarm_and_silence_is_told(golden):
    """What follows from a finding stands under it, and what follows from a silenced one says so."""
    dead = Finding(
        kind="dead_units",
        severity="warning",
        sites=tuple(f"blocks.{i}.act" for i in range(6)),
        evidence={},
        cause="a step too long",
        explanation="78% of the 64 units of blocks.0.act were zero for every one of 1,024 examples.",
        remedies=("a smaller learning rate", "LeakyReLU"),
        wrong_if="the batches looked at are no sample of the data: a unit that is dead stays zero on any other batch",
    )
    vanishing = Finding(
        kind="vanishing_gradient",
        severity="critical",
        sites=("stem",),
        evidence={},
        cause="the derivative of the activations",
        explanation="The first layer receives 1e-04 of the gradient that the last one gets: 4.0 decades lost.",
        follows_from="dead_units",
    )
    stalled = Finding("stalled_training", "warning", (), {}, "", "The loss is 2.303; that of a guess.", (), "",
                      "vanishing_gradient")  # fmt: skip
    spike = Finding("loss_spike", "info", ("loss",), {}, "", "At step 7 the loss is 9.", (), "", "unscaled_inputs")
    findings = (dead, stalled, vanishing, spike)
    golden("story.txt", rendered(None, Diagnosis(findings, "net · 7 layers", True, "", 2, "pyproject.toml")))


def test_plain_characters_where_there_are_no_others():
    text = rendered(as_run(PATIENTS["sigmoid"]), encoding="ascii")
    assert "####" in text
    assert "critical" in text


def test_str_has_the_same_content():
    diagnosis = gm.diagnose(as_run(PATIENTS["sigmoid"]))
    assert "vanishing gradient [critical]" in str(diagnosis)
    assert "do: ReLU and He initialization" in str(diagnosis)
