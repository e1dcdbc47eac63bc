"""The records, the public names, and what importing them costs."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

import gradiometer as gm
from gradiometer.records import ModelInfo
from rows import PARAMETER, READING, SITE, replace

INFO = gm.Finding(
    kind="dead_units", severity="info", sites=("a",), evidence={"dead": 1, "shares": (0.5,)}, cause="c", explanation="e"
)
WARNING = replace(INFO, kind="saturated_units", severity="warning", remedies=("ReLU",), follows_from="nonfinite")
CRITICAL = replace(INFO, kind="vanishing_gradient", severity="critical")
RUN = gm.Run(readings=(READING,), scalars={"loss": ((0, 0, 2.5), (1, 0, 9.0), (0, 1, 2.0))})

NAMES = """DamagedRunError Diagnosis Finding GradiometerError GradiometerWarning InputError NewerRunError NotARunError
    Birth Ledger LedgerRow Parameter ParameterReading Reading Recurrence Run RunError Site SiteReading
    UnhealthyError __version__ assert_healthy diagnose load measure watch
    Arm Interval Prescription Recipe Remedy Trial prescribe""".split()


def test_public_names_are_exactly_these():
    assert sorted(gm.__all__) == sorted(NAMES) == sorted(dir(gm))
    for name in NAMES:
        assert getattr(gm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gm.nothing


@pytest.mark.parametrize("use", ["gradiometer.load; gradiometer.Run", "gradiometer.diagnose", "gradiometer.store"])
def test_reading_a_run_needs_no_torch(use):
    code = f"import sys, gradiometer, gradiometer.store; {use}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (gm.InputError, (gm.GradiometerError, ValueError)),
        (gm.UnhealthyError, (gm.GradiometerError, AssertionError)),
        (gm.RunError, (gm.GradiometerError,)),
        (gm.NotARunError, (gm.RunError,)),
        (gm.NewerRunError, (gm.RunError,)),
        (gm.DamagedRunError, (gm.RunError,)),
        (gm.GradiometerWarning, (UserWarning,)),
    ],
)
def test_the_tree_of_errors(error, parents):
    assert issubclass(error, parents)
    assert len([e for e in error.__mro__ if e in parents]) == len(parents)


@pytest.mark.parametrize(
    "record", [SITE.site, SITE, PARAMETER.parameter, PARAMETER, READING, ModelInfo("", "Net", 3), INFO, RUN,
               gm.Diagnosis((INFO,))],
    ids=lambda record: type(record).__name__,
)  # fmt: skip
def test_frozen(record):
    for field in fields(record):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field.name, None)
    assert record == replace(record)


def test_a_reading_as_plain_data():
    plain = READING.to_dict()
    assert set(plain) == {f.name for f in fields(READING)} | {"ledger_total"}
    assert set(plain["sites"][0]) == {f.name for f in fields(SITE)} | {"grad_norm"}
    assert set(plain["parameters"][0]) == {f.name for f in fields(PARAMETER)} - {"unit_data"} | {
        "unit_gradients",
        "ratio",
    }
    assert plain["sites"][0]["dead_mask"] == [0, 2, 9] == sorted(SITE.dead_units())
    assert plain["sites"][0]["site"]["name"] == SITE.name
    back = json.loads(json.dumps(plain, allow_nan=False))
    assert back["parameters"][0]["unit_gradients"] == pytest.approx([0.1, 1e-30, 3e38])
    assert back["loss"] == READING.loss


@pytest.mark.parametrize(
    ("change", "ratio"),
    [({}, 1e-5), ({"update_rms": None}, None), ({"weight_rms": 0.0}, None), ({"weight_rms": float("nan")}, None)],
)
def test_update_to_weight_ratio(change, ratio):
    assert replace(PARAMETER, **change).ratio == ratio


def test_gradient_norm_is_over_all_elements():
    assert replace(SITE, shape=(4, 9), grad_rms=0.5).grad_norm == 3.0
    assert replace(SITE, shape=(), grad_rms=0.5).grad_norm == 0.5
    assert replace(SITE, grad_rms=None).grad_norm is None


def test_a_run():
    assert RUN.losses() == [(0, 2.5), (1, 2.0)]
    assert RUN.losses(1) == [(0, 9.0)]
    assert RUN.last is READING
    assert gm.Run(()).last is None
    assert gm.Run(()).losses() == []


@pytest.mark.parametrize(
    ("findings", "conclusive", "healthy", "verdict"),
    [
        ((), True, True, "healthy"),
        ((INFO,), True, True, "healthy"),
        ((INFO, WARNING), True, False, "not healthy"),
        ((CRITICAL, WARNING, INFO), True, False, "not healthy"),
        ((), False, None, "cannot say"),
        ((INFO,), False, None, "cannot say"),
        ((CRITICAL,), False, False, "not healthy"),
    ],
)
def test_a_diagnosis(findings, conclusive, healthy, verdict):
    diagnosis = gm.Diagnosis(findings, "net · 3 layers", conclusive, "" if conclusive else "no step was recorded")
    assert diagnosis.healthy is healthy
    assert diagnosis.verdict == verdict
    assert (len(diagnosis), tuple(diagnosis), tuple(reversed(diagnosis))) == (len(findings), findings, findings[::-1])
    assert list(diagnosis[:1]) == list(findings[:1])
    assert all(f in diagnosis and diagnosis[diagnosis.index(f)] is f for f in findings)
    plain = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert plain["healthy"] is healthy
    assert [set(f) for f in plain["findings"]] == [{f.name for f in fields(INFO)}] * len(findings)
    text = str(diagnosis)
    assert text.splitlines()[0] == f"net · 3 layers · {verdict}"
    assert diagnosis.reason in text
    assert all(f.kind.replace("_", " ") in text for f in findings)
    if WARNING in findings:
        assert "follows from: nonfinite" in text
        assert "do: ReLU" in text
