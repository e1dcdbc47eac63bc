"""`gradiometer prescribe`: its exit codes, its JSON and its patch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradiometer.cli import main

SCRIPT = """
import torch
from torch import nn
import gradiometer as gm

X = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()


def batches(seed):
    order = torch.Generator().manual_seed(seed)
    while True:
        picked = torch.randint(400, (32,), generator=order)
        yield X[picked], Y[picked]


def network():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2))


def small():
    model = network()
    for p in model.parameters():
        p.data *= 1e-3
    return model


def recipe(model, lr):
    return gm.Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
        loss=nn.functional.cross_entropy,
        batches=batches,
        evaluate=lambda model: (model(X[400:]).argmax(1) == Y[400:]).float().mean(),
        steps=150,
    )


healthy = recipe(network, 0.2)
faint = recipe(small, 0.2)


def made():
    return recipe(small, 0.2)


nothing = 3
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "script", None)
    del sys.modules["script"]
    return path


def invoke(*arguments):
    return CliRunner().invoke(main, ["prescribe", "--executor", "serial", *arguments], catch_exceptions=False)


def test_a_cure(script):
    result = invoke("script.py:faint", "--remedy", "he")
    assert result.exit_code == 0
    for text in ("not healthy", "untreated", "he", "verified", "cure: ", "kaiming_normal_", "the finding is gone"):
        assert text in result.stdout
    lines = [line for line in result.stdout.splitlines() if "kaiming_normal_" in line]
    assert lines == [line.rstrip() for line in lines]  # code is not padded


def test_json(script):
    result = invoke("script.py:made", "--remedy", "he", "--json")
    found = json.loads(result.stdout)
    assert found["best"] == "he"
    assert found["trials"][0]["verified"] is True
    assert found["trials"][0]["gain"]["low"] > 0


def test_the_diff_is_a_patch_and_nothing_else(script):
    result = invoke("script.py:faint", "--remedy", "he", "--diff")
    assert result.exit_code == 0
    assert result.stdout.startswith("--- ")
    assert "cure: " in result.stderr
    Path("cure.patch").write_text(result.stdout)
    subprocess.run(["git", "apply", "cure.patch"], check=True)
    assert "kaiming_normal_" in script.read_text()


def test_nothing_to_cure(script):
    result = invoke("script.py:healthy")
    assert result.exit_code == 0
    assert "there is nothing to prescribe" in result.stdout


def test_nothing_helps(script):
    result = invoke("script.py:faint", "--remedy", "rate_d10")
    assert result.exit_code == 1
    assert "no cure" in result.stdout


def test_too_little_time(script):
    result = invoke("script.py:faint", "--time-limit", "0.05")
    assert result.exit_code == 2
    assert "the time was up" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["script.py:nothing"], "must be a gradiometer.Recipe"),
        (["script.py:missing"], "script.py has no missing"),
        (["elsewhere.py:recipe"], "there is no file elsewhere.py"),
        (["script.py:faint", "--remedy", "snake_oil"], "no remedy 'snake_oil'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_tried(script, arguments, text):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr
