"""What a ledger looks like in the terminal, and the command that prints it."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

import gradiometer as gm
from gradiometer.cli import main
from gradiometer.records import Birth, Branch, Ledger, LedgerRow, Reading, Recurrence
from gradiometer.report import propagation, waterfall
from gradiometer.rules import cases


def row(site, operation, cause, decades, **more):
    fields = {"gain": 10**decades, "log10_gain": decades, "grad_rms": 1.0, "total_without": -9.0}
    return LedgerRow(site, operation, cause, **fields | more)


def reading(rows, **more):
    total = sum(r.log10_gain for r in rows if r.main)
    ledger = Ledger(tuple(rows), "input", 10**total if total > -math.inf else 0.0)
    return replace(Reading(0, 0, 0.0, 2.3026, 1.0, "full", 1, (), ()), ledger=ledger, **more)


LOSS = row("loss:cross_entropy", "cross_entropy", "loss", -2.0)


def layer(i, gain=-0.1, derivative=0.24):
    act = row(f"layers.{i}:sigmoid", "sigmoid", "activation", -0.62, derivative=derivative, flat=0.0)
    return [act, row(f"layers.{i}.fc", "linear", "weights", gain, scale=0.8, alignment=10**gain / 0.8)]


def residual(i):
    skip = Branch(f"blocks.{i}:add", "add", 1.0, 0.98, 0.1)
    conv = Branch(f"blocks.{i}.conv", "conv2d", 0.1, 0.02, 0.1)
    return [
        row(f"blocks.{i}:add", "add", "connection", 0.0),
        row(f"blocks.{i}:relu", "relu", "activation", -0.15, main=False, derivative=0.7),
        row(f"blocks.{i}.conv", "conv2d", "weights", -0.05, main=False, scale=0.9, alignment=1.0),
        row(f"blocks.{i - 1}:add", "fork", "connection", 0.01, branches=(skip, conv)),
    ]


RECURRENCE = Recurrence(
    site="rnn",
    parameter="rnn.weight_hh_l0",
    steps=20,
    gradients=tuple(0.5**t for t in range(19, -1, -1)),
    gains=(0.5,) * 19,
    horizon=7.0,
    by={"tanh": -0.1, "rnn.weight_hh_l0": -0.201},
    bound=0.25**20,
)
BIRTH = Birth("backward", "net.4:sqrt", "sqrt", "an argument is exactly zero (3 of them)", {"zeros": 3})
READINGS = {
    "shallow": reading([LOSS, *layer(2), *layer(1), *layer(0)]),
    "deep": reading([LOSS, *(r for i in range(40, 0, -1) for r in layer(i, gain=-1.4 if i == 17 else 0.6)), *layer(0)]),
    "residual": reading([LOSS, *(r for i in range(5, 0, -1) for r in residual(i))]),
    "cut": reading([LOSS, *layer(2), row("layers.1:detach", "detach", "connection", -math.inf, gain=0.0)]),
    "through-time": reading([LOSS, *layer(0)], recurrences=(RECURRENCE,)),
    "born": reading([LOSS, *layer(0)], birth=BIRTH),
    "nan": reading([row("loss:log", "log", "loss", math.nan), row("fc", "linear", "weights", math.nan)], birth=BIRTH),
    "none": Reading(0, 0, 0.0, None, 1.0, "full", 1, (), ()),
}


def rendered(show, *arguments, width=100, encoding="utf-8", **options):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(Console(file=stream, width=width, color_system=None), *arguments, **options)
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


@pytest.mark.parametrize("name", READINGS)
def test_waterfall(name, golden):
    golden(f"ledger-{name}.txt", rendered(waterfall.show, READINGS[name]))


def test_everything_shows_what_lies_beside_the_main_path():
    folded = rendered(waterfall.show, READINGS["residual"])
    text = rendered(waterfall.show, READINGS["residual"], everything=True)
    assert "blocks.3.conv" in text
    assert "beside the main path" in text
    assert "beside the main path" not in folded


def test_a_deep_network_folds_all_but_the_worst():
    text = rendered(waterfall.show, READINGS["deep"])
    assert len(text.splitlines()) < waterfall.LINES
    assert "layers.17.fc" in text
    assert "▸ layers.16 … layers.1" in text
    assert len(rendered(waterfall.show, READINGS["deep"], everything=True).splitlines()) > 80


def test_plain_characters_where_there_are_no_others():
    text = rendered(waterfall.show, READINGS["deep"], encoding="ascii")
    assert "wwww" in text
    assert "> layers.16 .. layers.1" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_any_width(width):
    assert all(len(line) <= width for line in rendered(waterfall.show, READINGS["deep"], width=width).splitlines())


def test_the_signal_on_its_way_forward(golden):
    sites = [
        replace(cases.site(f"fc{i}", "linear", 1.0), rms=0.9**i, offset=0.1 * i, correlation=1 - 0.6 / (i + 1) ** 3)
        for i in range(30)
    ]
    text = rendered(propagation.show, replace(READINGS["none"], sites=tuple(sites)))
    golden("signal.txt", text)
    assert len(text.splitlines()) == propagation.ROWS + 2
    assert "no forward statistics" in rendered(propagation.show, READINGS["none"])


SETUP = """
import torch
from helper import depth

def setup():
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (torch.nn.Linear(6, 6), torch.nn.Sigmoid())]
    batch = torch.randn(8, 6), torch.randint(6, (8,))
    return torch.nn.Sequential(*layers), batch, torch.nn.functional.cross_entropy

def wrong():
    return 3

def cut():
    model, (x, y), loss = setup()
    return model, (x, y), lambda outputs, targets: loss(outputs.detach(), targets)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(SETUP)
    (tmp_path / "helper.py").write_text("depth = 5\n")
    monkeypatch.delitem(__import__("sys").modules, "nets", raising=False)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(main, ["measure", *arguments], catch_exceptions=False)


def test_the_command(folder):
    result = invoke("nets.py:setup", "--signal")
    assert result.exit_code == 0
    assert "11 operations on the main path" in result.stdout
    assert "sigmoid" in result.stdout
    assert "signal, from the input to the output" in result.stdout
    data = json.loads(invoke("nets.py:setup", "--json").stdout)
    assert [r["site"] for r in data["ledger"]][:2] == ["loss:cross_entropy", "9"]
    assert data["ledger_total"] == pytest.approx(sum(r["log10_gain"] for r in data["ledger"]))
    assert data["ledger"][1].keys() >= {"site", "operation", "cause", "gain", "log10_gain", "grad_rms"}


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("nets.py", "names no function"),
        ("nothing.py:setup", "no file nothing.py"),
        ("nets.py:missing", "has no function missing. It has: cut, setup, wrong"),
        ("nets.py:wrong", "must return model, batch, loss, and returned int"),
        ("nets.py:cut", "cut off at loss:detach"),
    ],
)
def test_what_is_wrong_is_said(folder, place, text):
    result = invoke(place)
    assert result.exit_code == 2
    assert text in result.stderr
    assert json.loads(invoke(place, "--json").stdout)["error"] in result.stderr


def test_a_ledger_is_a_sequence():
    ledger = READINGS["cut"].ledger
    assert (len(ledger), ledger[0], list(ledger[1:])) == (4, LOSS, list(ledger)[1:])
    assert ledger.total == -math.inf
    assert ledger.worst.operation == "detach"
    assert "4 rows" in repr(ledger)
    assert gm.Ledger().worst is None


def test_the_example():
    """What the README shows: the layer that was spoiled is the one that is marked."""
    place = Path(__file__).parent.parent / "examples" / "spoiled.py"
    result = invoke(f"{place}:setup")
    assert result.exit_code == 0
    assert "worst: 24 (linear, weights) times 0.07" in result.stdout
