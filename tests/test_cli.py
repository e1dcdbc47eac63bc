"""The other verbs of the command line."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import cross_entropy

import gradiometer as gm
from gradiometer.cli import main
from gradiometer.datasets import digits
from gradiometer.networks import mlp


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def train(path, activation, steps=60):
    torch.manual_seed(0)
    data = digits()
    model = mlp(64, 64, 12, 10, activation)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    with gm.watch(model, optimizer, every=5, path=path):
        for _ in range(steps):
            batch = torch.randint(len(data.train_inputs), (64,))
            optimizer.zero_grad()
            cross_entropy(model(data.train_inputs[batch]), data.train_targets[batch]).backward()
            optimizer.step()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "gradiometer-runs"


def test_exit_codes_and_json(folder):
    train(folder / "sick.sqlite", "sigmoid")
    result = invoke("diagnose", "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["healthy"] is False
    assert data["findings"][0].keys() == set(gm.Finding.__slots__)
    assert data["findings"][0]["kind"] == "vanishing_gradient"
    train(folder / "well.sqlite", "relu")
    assert invoke("diagnose").exit_code == 0  # the newest
    assert invoke("diagnose", "sick").exit_code == 1  # by name
    assert invoke("diagnose", str(folder / "sick.sqlite")).exit_code == 1  # by path
    listed = invoke("runs", "--json")
    assert listed.exit_code == 0
    rows = json.loads(listed.stdout)
    assert [(r["name"], r["healthy"]) for r in rows] == [("well", True), ("sick", False)]
    text = invoke("runs").stdout
    assert "vanishing gradient" in text
    assert "finished" in text


def test_diagnosis_in_the_terminal(folder):
    train(folder / "sick.sqlite", "sigmoid")
    text = invoke("diagnose").stdout
    assert "not healthy" in text
    assert "1  vanishing gradient  critical" in text
    assert "hidden1 █" in text
    assert "do: " in text
    assert "\x1b[" not in text  # plain when not a terminal


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"\x93NUMPY and more", "no SQLite file|not an SQLite file"), (None, "there is no run")],
)
def test_cannot_say(folder, content, said):
    folder.mkdir()
    if content is not None:
        (folder / "odd.sqlite").write_bytes(content)
    result = invoke("diagnose", "odd")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert any(part in result.stderr for part in said.split("|")), result.stderr
    if content is not None:
        assert json.loads(invoke("runs", "--json").stdout)[0]["healthy"] is None


def test_no_runs_at_all(folder):
    for verb in ("diagnose", "runs"):
        result = invoke(verb)
        assert result.exit_code == 2
        assert "gradiometer run" in result.stderr


def test_run_without_a_step_cannot_be_judged(folder):
    with gm.watch(torch.nn.Linear(2, 2), path=folder / "none.sqlite"):
        pass
    result = invoke("diagnose", "none", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["healthy"] is None
    missing = invoke("diagnose", "no-such-run", "--json")
    assert missing.exit_code == 2
    assert "no run" in json.loads(missing.stdout)["error"]


def test_json_is_strict(folder):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gm.watch(model, optimizer, path=folder / "nan.sqlite"):
        (model(torch.ones(4, 2)).sum() * float("nan")).backward()
        optimizer.step()
    result = invoke("diagnose", "--json")
    assert result.exit_code == 1
    json.loads(result.stdout, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))


def test_demo(folder):
    result = invoke("demo")
    assert result.exit_code == 0
    assert "vanishing gradient" in result.stdout
    assert "healthy" in result.stdout
    assert len(list(folder.glob("*.sqlite"))) == 2
    for path in folder.glob("*.sqlite"):
        assert gm.diagnose(gm.load(path)).healthy is ("relu" in path.name)


def test_version():
    assert gm.__version__ in invoke("--version").stdout
