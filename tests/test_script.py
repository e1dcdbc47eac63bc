"""`gradiometer run`: a script runs as without it, and its training is recorded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gradiometer as gm
from gradiometer.store import newest

EXAMPLES = Path(__file__).parent.parent / "examples"
GRADIOMETER = [sys.executable, "-m", "gradiometer"]

TRAINING = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def train(steps, before=lambda step: None):
    for step in range(steps):
        before(step)
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
"""


def start(folder, command, **options):
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    environment["OMP_NUM_THREADS"] = "1"  # tiny networks, for which more threads only wait for one another
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def run(folder, command):
    process = start(folder, command)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def both(folder, *arguments):
    """The same script under python and under gradiometer."""
    return run(folder, [sys.executable, *arguments]), run(folder, [*GRADIOMETER, "run", *arguments])


@pytest.mark.parametrize(
    ("arguments", "healthy", "models", "optimizers", "steps"),
    [
        (["plain_loop.py"], True, [""], ["Adam"], 72),
        (["gan.py"], True, ["G", "D"], ["Adam", "Adam"], 300),
        (["deep_args.py", "--depth", "12", "--steps", "150"], False, [""], ["SGD"], 150),
        (["deep_args.py", "--activation=relu", "--depth", "3", "--steps", "150"], True, [""], ["SGD"], 150),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) and v and str(v[0]).endswith(".py") else None,
)
def test_example_runs_the_same_and_is_diagnosed(tmp_path, arguments, healthy, models, optimizers, steps):
    plain, watched = both(tmp_path, str(EXAMPLES / arguments[0]), *arguments[1:])
    assert watched[:2] == plain[:2]
    assert plain[0] == 0
    assert plain[2] == ""
    assert "gradient by layer" in watched[2]
    recorded = gm.load(newest(tmp_path / "gradiometer-runs")[0])
    assert recorded.finished
    assert recorded.steps == steps
    assert [m.name for m in recorded.models] == models
    assert list(recorded.optimizers) == optimizers
    assert len(recorded.losses(0)) == steps
    assert recorded.notes == ()
    assert {p.parameter.optimizer for r in recorded.readings for p in r.parameters} == set(range(len(optimizers)))
    diagnosis = gm.diagnose(recorded)
    assert diagnosis.healthy is healthy, str(diagnosis)
    if not healthy:
        assert diagnosis[0].kind == "vanishing_gradient"
        assert diagnosis[0].sites[0] == "layers.0"


def test_the_script_sees_the_process_it_expects(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "helper.py").write_text("NAME = 'helper'")
    script = tmp_path / "sub" / "main.py"
    script.write_text(
        "import os, sys, pickle, helper\n"
        "class Thing: pass\n"
        "print(sys.argv, __name__, __file__, os.getcwd(), sys.path[0], __spec__, helper.NAME, __package__)\n"
        "print(type(pickle.loads(pickle.dumps(Thing()))).__module__, sys.modules['__main__'].Thing is Thing)\n"
        "print(sys.stdin.read(), globals().get('annotations'))\n" + TRAINING + "train(3)\n"
    )
    plain, watched = both(tmp_path, "sub/main.py", "--lr", "0.1", "-h", "--json")
    assert watched[:2] == plain[:2]
    assert plain[0] == 0


def test_a_module_runs_as_with_python_m(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "data.py").write_text("X = 3")
    text = "import sys\nfrom .data import X\nprint(sys.argv, __name__, __package__, __spec__.name, X, sys.path[0])\n"
    (package / "train.py").write_text(text + TRAINING + "train(3)\n")
    (package / "__main__.py").write_text(text + TRAINING + "train(2)\n")
    for name in ("package.train", "package"):
        plain, watched = both(tmp_path, "-m", name, "a", "-b")
        assert plain[0] == 0
        assert watched[:2] == plain[:2]
    assert len(newest(tmp_path / "gradiometer-runs")) == 2


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("sys.exit(7)", 7),
        ("sys.exit('no more data')", 1),
        ("sys.exit()", 0),
        ("raise ValueError('bad shape')", 1),
        ("this is no Python", 1),
        ("model(torch.randn(2, 5))", 1),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise RuntimeError('chained') from e", 1),
    ],
)
def test_exit_code_and_traceback_are_those_of_the_script(tmp_path, ending, code):
    (tmp_path / "train.py").write_text("import sys\n" + TRAINING + "train(4)\n" + ending + "\n")
    plain, watched = both(tmp_path, "train.py")
    assert plain[0] == watched[0] == code
    # What the script wrote to standard error, a traceback or a message, is there word for word, after our summary.
    assert watched[2].endswith(plain[2])
    assert "gradiometer" in watched[2][: len(watched[2]) - len(plain[2])]
    if "no Python" not in ending:
        assert gm.load(newest(tmp_path / "gradiometer-runs")[0]).steps == 4


def test_traceback_from_inside_a_watched_forward_shows_no_frame_of_ours(tmp_path):
    text = TRAINING + (
        "class Net(torch.nn.Module):\n    def forward(self, x):\n        x = torch.nn.functional.relu(model(x))\n"
        "        return torch.nn.functional.softmax(x @ torch.ones(3, 3), dim=0)\n"
        "net = Net()\nnet.inner = model\ntorch.optim.SGD(net.parameters(), lr=0.1)\nnet(torch.randn(2, 4))\n"
    )
    (tmp_path / "train.py").write_text(text)
    plain, watched = both(tmp_path, "train.py")
    assert plain[0] == watched[0] == 1
    assert watched[2].endswith(plain[2])


def test_ctrl_c_keeps_the_run_and_ends_by_the_signal(tmp_path):
    text = (
        TRAINING
        + "import time\ntrain(100000, before=lambda s: (s == 5 and print('ready', flush=True), time.sleep(0.01)))\n"
    )
    (tmp_path / "train.py").write_text(text)
    process = start(tmp_path, [*GRADIOMETER, "run", "--every", "1", "train.py"])
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert "gradient by layer" in err
    recorded = gm.load(newest(tmp_path / "gradiometer-runs")[0])
    assert recorded.finished
    assert len(recorded.readings) > 5


def test_the_run_lies_where_the_script_was_started(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "train.py").write_text("import os\nos.chdir('else')\n" + TRAINING + "train(3)\n")
    assert run(tmp_path, [*GRADIOMETER, "run", "--out", "mine", "train.py"])[0] == 0
    assert len(newest(tmp_path / "mine")) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.py"], "missing.py does not exist"),
        (["-m", "no.such.module"], "no module named no.such.module"),
        (["."], "is a folder"),
        (["--out", "train.py/runs", "train.py"], "cannot record to"),
        (["--budget", "nan", "train.py"], "budget is a share"),
    ],
)
def test_bad_input_is_said_in_a_line(tmp_path, arguments, said):
    (tmp_path / "train.py").write_text("print('ran')")
    code, out, err = run(tmp_path, [*GRADIOMETER, "run", *arguments])
    assert code == 2
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_a_script_that_never_steps_is_told_so(tmp_path):
    (tmp_path / "train.py").write_text("print('hello')")
    code, out, err = run(tmp_path, [*GRADIOMETER, "run", "train.py"])
    assert (code, out) == (0, "hello\n")
    assert "before its first training step" in err
    assert newest(tmp_path / "gradiometer-runs") == []


def test_a_training_without_optimizer_and_a_model_inside_a_class(tmp_path):
    (tmp_path / "train.py").write_text(
        "import torch\n"
        "class Trainer:\n"
        "    def __init__(self):\n"
        "        self.net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))\n"
        "    def fit(self):\n"
        "        for _ in range(5):\n"
        "            self.net(torch.randn(8, 4)).square().mean().backward()\n"
        "            with torch.no_grad():\n"
        "                for p in self.net.parameters():\n                    p -= 0.1 * p.grad\n"
        "                    p.grad = None\n"
        "Trainer().fit()\n"
    )
    assert run(tmp_path, [*GRADIOMETER, "run", "--every", "1", "train.py"])[0] == 0
    recorded = gm.load(newest(tmp_path / "gradiometer-runs")[0])
    assert recorded.steps == 5
    assert len(recorded.readings) == 5
    assert all(p.update_rms > 0 for r in recorded.readings for p in r.parameters)
