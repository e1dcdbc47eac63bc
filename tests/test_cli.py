"""The other verbs of the command line."""

import json
import subprocess
import sys

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "sick.sqlite", "sigmoid")
    with gm.watch(torch.nn.Linear(2, 2), path=folder / "none.sqlite"):
        pass
    return folder


_TOLD = ("vanishing_gradient", "rank_collapse", "stalled_training")
_silenced = [part for kind in _TOLD for part in ("--ignore", kind)]


@pytest.mark.parametrize(
    ("run", "options", "code"),
    [
        ("sick", ["--fail-on", "warning"], 1),
        ("sick", ["--fail-on", "critical"], 1),
        ("sick", ["--fail-on", "critical", *_silenced], 0),
        ("sick", ["--fail-on", "warning", "--ignore", "vanishing_gradient:nowhere"], 1),
        ("none", ["--fail-on", "warning"], 0),
        ("none", [], 2),
        ("sick", ["--fail-on", "info"], 2),
        ("sick", ["--fail-on", "warning", "--ignore", "vanishing"], 2),
        ("absent", ["--fail-on", "warning"], 2),
    ],
)
def test_fail_on_and_ignore(trained, run, options, code):
    result = invoke("diagnose", str(trained / f"{run}.sqlite"), *options)
    assert result.exit_code == code, result.output
    if run == "none":
        assert "cannot say" in result.stdout
    if code == 0 and "--ignore" in options:
        assert "silenced (--ignore)" in result.stdout


def test_what_pyproject_ignores(folder, trained):
    (folder.parent / "pyproject.toml").write_text('[tool.gradiometer]\nignore = ["any:hidden*", "any:loss"]')
    result = invoke("diagnose", str(trained / "sick.sqlite"), "--fail-on", "warning")
    assert result.exit_code == 0
    assert "silenced (pyproject.toml)" in result.stdout
    listed = invoke("runs", "--out", str(trained))
    assert "silenced)" in listed.stdout
    silenced = {
        row["name"]: row["silenced"] for row in json.loads(invoke("runs", "--out", str(trained), "--json").stdout)
    }
    assert silenced["sick"] >= 1
    assert silenced["none"] == 0
    (folder.parent / "pyproject.toml").write_text("[tool.gradiometer]\nignore = [3]")
    for verb in ("diagnose", "runs"):
        result = invoke(verb, "--out", str(trained))
        assert result.exit_code == 2
        assert "takes a list of patterns" in result.stderr


SETUP = """
import torch
from torch.nn.functional import cross_entropy
from gradiometer.networks import mlp
def setup():
    torch.manual_seed(0)
    batch = torch.randn(64, 16), torch.randint(10, (64,))
    return mlp(16, 32, {depth}, 10, "{activation}"), batch, cross_entropy
"""


def test_measure_fails_on_findings(folder):
    sick, well = folder.parent / "sick_setup.py", folder.parent / "well_setup.py"
    sick.write_text(SETUP.format(depth=16, activation="sigmoid"))
    well.write_text(SETUP.format(depth=3, activation="relu"))
    assert "not healthy" not in invoke("measure", f"{sick}:setup").stdout
    result = invoke("measure", f"{sick}:setup", "--fail-on", "warning")
    assert result.exit_code == 1
    assert "1  vanishing gradient  critical" in result.stdout
    assert "diagnosis" not in json.loads(invoke("measure", f"{sick}:setup", "--json").stdout)
    data = json.loads(invoke("measure", f"{sick}:setup", "--json", "--ignore", "vanishing_gradient").stdout)
    assert data["diagnosis"]["silenced"] == 1
    assert invoke("measure", f"{well}:setup", "--fail-on", "warning").exit_code == 0


@pytest.mark.parametrize(
    ("end", "options", "code"),
    [
        ("", ["--fail-on", "critical"], 1),
        ("raise SystemExit(7)", ["--fail-on", "critical"], 7),
        ("", ["--fail-on", "critical", "--ignore", "vanishing_gradient", "--ignore", "stalled_training"], 0),
        ("", ["--ignore", "vanishing"], 2),
    ],
)
def test_run_fails_on_findings(folder, end, options, code):
    script = folder.parent / "train.py"
    script.write_text(
        SETUP.format(depth=16, activation="sigmoid")
        + f"""
import os, sys
model, (x, y), loss = setup()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
os.chdir("/")
for _ in range(3):
    loss(model(x), y).backward()
    optimizer.step()
print("trained")
{end}
"""
    )
    command = [sys.executable, "-m", "gradiometer", "run", "--every", "1", *options, str(script)]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    if code == 2:
        assert done.stdout == ""  # told before the training, not after it
        assert "vanishing_gradient" in done.stderr
    else:
        assert done.stdout == "trained\n"
        assert ("silenced (--ignore)" if "--ignore" in options else "vanishing gradient") in done.stderr


def test_demo(folder):
    result = invoke("demo")
    assert result.exit_code == 0
    assert "vanishing gradient" in result.stdout
    assert "healthy" in result.stdout
    assert "cure: " in result.stdout
    assert "verified" in result.stdout
    assert len(list(folder.glob("*.sqlite"))) == 2
    for path in folder.glob("*.sqlite"):
        assert gm.diagnose(gm.load(path)).healthy is ("relu" in path.name)


def test_version():
    assert gm.__version__ in invoke("--version").stdout
