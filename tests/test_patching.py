# ruff: noqa: E501 - sources as they stand in a file, one a line
"""The diff of a cure: it applies, what it makes runs and is the cured recipe, and nothing else of the file changes."""

from __future__ import annotations

import functools
import importlib.util
import linecache
import shutil
import subprocess
import sys
import textwrap
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer.remedies.base import Code
from gradiometer.remedies.patching import Patch, diff
from gradiometer.remedies.recipe import Recipe

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="applies diffs with git")

ZERO = "for module in model.modules():\n    if isinstance(module, nn.Linear):\n        nn.init.zeros_(module.bias)"
TENFOLD = "for group in optimizer.param_groups:\n    group['lr'] *= 10"

TOP = """import torch
from torch import nn

import gradiometer.remedies.recipe as gm

"""

NUMBERS = count()


class Doubled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.inner(x)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def load(path: Path) -> ModuleType:
    name = f"{path.stem}_{next(NUMBERS)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    linecache.checkcache()
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def written(folder: Path, text: str | bytes, name: str = "net.py") -> ModuleType:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path)


def applied(folder: Path, patch: Patch, encoding: str = "utf-8") -> None:
    subprocess.run(["git", "apply", "-p1", "-"], input=patch.text.encode(encoding), cwd=folder, check=True)


def recipe_of(module: ModuleType) -> Recipe:
    made = module.recipe
    return made() if callable(made) else made


def fresh(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    return recipe.model()


def zeroed(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return repr(one) == repr(other) and a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def check_model(folder: Path, text: str, code: Code | None = None) -> str:
    """Patches a file and compares the network that it builds; returns the patched text."""
    before = recipe_of(written(folder, text))
    expected = zeroed(fresh(before))
    patch = diff(before, code or Code(model=ZERO))
    assert patch.missing == ()
    applied(folder, patch)
    after = folder / "net.py"
    assert same(fresh(recipe_of(load(after))), expected)
    added = [line for line in patch.text.splitlines() if line.startswith("-") and not line.startswith("---")]
    assert len(added) <= 4
    return after.read_bytes().decode()


RECIPE = "recipe = gm.Recipe({}, torch.optim.SGD, nn.functional.mse_loss, lambda seed: [])\n"

MODELS = {
    "plain": "def make():\n    return nn.Linear(2, 2)  # the net\n\n\n" + RECIPE.format("make"),
    "name": "def make():\n    model = nn.Linear(2, 2)\n    return model\n\n\n" + RECIPE.format("make"),
    "name_in_parentheses": "def make():\n    model = nn.Linear(2, 2)\n    return (model)\n\n\n" + RECIPE.format("make"),
    "its_own_name": "def Linear():\n    return nn.Linear(2, 2)\n\n\n" + RECIPE.format("Linear"),
    "another_name": "def make():\n    net = nn.Linear(2, 2)\n\n    return net\n" + RECIPE.format("make"),
    "no_space": "def make():\n    return(nn.Linear(2, 2))\n\n" + RECIPE.format("make"),
    "long": "def make():\n    return nn.Sequential(\n        nn.Linear(2, 2),  # one\n    )\n" + RECIPE.format("make"),
    "backslash": "def make():\n    return \\\n        nn.Linear(2, 2)\n" + RECIPE.format("make"),
    "returns": "def make(a=0):\n    if a:\n        return nn.Linear(3, 2)\n    return nn.Linear(2, 2)\n" + RECIPE.format("make"),
    "one_line": "def make(): return nn.Linear(2, 2)\n" + RECIPE.format("make"),
    "one_line_no_space": "def make(): return(nn.Linear(2, 2))\n" + RECIPE.format("make"),
    "semicolon": "def make():\n    n = 2; return nn.Linear(n, 2)\n" + RECIPE.format("make"),
    "one_line_if": "def make(a=1):\n    if a: return nn.Linear(2, 2)\n    return nn.Tanh()\n" + RECIPE.format("make"),
    "global_model": "model = nn.Linear\n\n\ndef make():\n    return model(2, 2)\n\n\n" + RECIPE.format("make"),
    "declared_global": "def make():\n    global model\n    model = nn.Linear(2, 2)\n    return model\n" + RECIPE.format("make"),
    "captured": "def make():\n    module = 2\n    size = lambda: module\n    return nn.Linear(size(), 2)\n" + RECIPE.format("make"),
    "parameter": "def make(model=nn.Linear, module=2):\n    return model(module, module)\n" + RECIPE.format("make"),
    "local_import": "def make():\n    import torch.nn as nn\n    return nn.Linear(2, 2)\n" + RECIPE.format("make"),
    "shadowed": "def make(isinstance=2):\n    nn = torch.nn\n    return nn.Linear(isinstance, 2)\n" + RECIPE.format("make"),
    "finally": "def make():\n    module = 1\n    try:\n        return nn.Linear(2, 2)\n    finally:\n"
    "        assert module == 1\n" + RECIPE.format("make"),
    "nested_return": "def make():\n    def size():\n        return 2\n    return nn.Linear(size(), 2)\n" + RECIPE.format("make"),
    "partial": "import functools\n\n\ndef make(n):\n    return nn.Linear(n, 2)\n\n\n" + RECIPE.format("functools.partial(make, 2)"),
    "no_grad": "@torch.no_grad()\ndef make():\n    return nn.Linear(2, 2)\n\n\n" + RECIPE.format("make"),
    "registered": "def known(f):\n    return f\n\n\n@known\n@known\ndef make():\n    return nn.Linear(2, 2)\n" + RECIPE.format("make"),
    "static": "class Nets:\n    @staticmethod\n    def make():\n        return nn.Linear(2, 2)\n\n\n" + RECIPE.format("Nets.make"),
    "nested": "def recipe():\n    n = 2\n\n    def make():\n        return nn.Linear(n, n)\n\n    return " + RECIPE.format("make")[9:],
    "no_line_end": "def make():\n    return nn.Linear(2, 2)\n\n\n" + RECIPE.format("make").rstrip(),
    "ends_with_return": RECIPE.format("lambda: make()").replace("recipe = ", "def recipe(): return ")
    + "def make():\n    return nn.Linear(2, 2)",
    "lambda": RECIPE.format("lambda: nn.Linear(2, 2)"),
    "lambda_variable": "make = lambda: nn.Linear(2, 2)  # noqa\n" + RECIPE.format("make"),
    "lambda_keyword": "recipe = gm.Recipe(\n    model=lambda: nn.Sequential(\n        nn.Linear(2, 2),\n    ),  # the net\n"
    "    optimizer=torch.optim.SGD, loss=None, batches=lambda seed: [],\n)\n",
    "lambda_broken": "recipe = gm.Recipe(\n    lambda:\n        # the net\n        nn\n        .Linear(2, 2),\n"
    "    torch.optim.SGD, None, lambda seed: [],\n)\n",
    "lambda_in_function": "def recipe():\n    n = 2\n    # what is trained\n    return " + RECIPE.format("lambda: nn.Linear(n, n)")[9:],
    "lambda_defaults": RECIPE.format("lambda d={1: 2}, f=lambda: 2, *, g=[2][0:1]: nn.Linear(d[1], f())"),
    "lambda_second": "pair = (lambda: nn.Linear(3, 2), lambda: nn.Linear(2, 2)); n = 1\n" + RECIPE.format("pair[1]"),
    "lambda_same": "pair = (lambda: nn.Linear(2, 2), lambda: nn.Linear(2, 2))\n" + RECIPE.format("pair[1]"),
    "lambda_in_lambda": "outer = lambda: lambda: nn.Linear(2, 2)\n" + RECIPE.format("outer()"),
    "lambda_in_comprehension": "makes = [lambda n=n: nn.Linear(n, 2) for n in (2, 3)]\n" + RECIPE.format("makes[0]"),
    "lambda_captures_model": "model = nn.Linear\n" + RECIPE.format("lambda: model(2, 2)"),
    "lambda_after_semicolon": "n = 2; make = lambda: nn.Linear(n, n)\n" + RECIPE.format("make"),
    "lambda_in_if": "if True: make = lambda: nn.Linear(2, 2)\n" + RECIPE.format("make"),
    "lambda_in_elif": "if torch is None:\n    pass\nelif (make := lambda: nn.Linear(2, 2)):\n    pass\n" + RECIPE.format("make"),
    "lambda_in_parentheses": RECIPE.format("(lambda: (nn.Linear(2, 2)))"),
    "lambda_in_class": "class Nets:\n    make = lambda: nn.Linear(2, 2)\n\n\n" + RECIPE.format("Nets.make"),
    "lambda_behind_umlauts": "words = 'äöü€𝄞', (make := lambda: nn.Linear(2, 2)), lambda: 2\n" + RECIPE.format("make"),
    "taken_name": "cured_model = lambda: nn.Linear(2, 2)\n" + RECIPE.format("cured_model"),
    "lambda_in_main": "if True:\n    print\n    " + RECIPE.format("lambda: nn.Linear(2, 2)"),
    "lambda_default_of_def": "def recipe(make=lambda: nn.Linear(2, 2)):\n    return " + RECIPE.format("make")[9:],
    "lambda_in_decorator": "def keep(f):\n    return lambda g: f\n\n\n@keep(lambda: nn.Linear(2, 2))\ndef make():\n    pass\n\n\n"
    + RECIPE.format("make"),
}  # fmt: skip


@needs_git
@pytest.mark.parametrize("name", MODELS)
def test_the_patched_file_builds_the_cured_network(folder: Path, name: str) -> None:
    after = check_model(folder, TOP + MODELS[name])
    kept = [line.strip() for line in MODELS[name].splitlines() if line.strip().startswith("#")]
    assert all(line in after for line in kept)


@needs_git
def test_what_it_looks_like(folder: Path) -> None:
    recipe = recipe_of(
        written(folder, TOP + "def make():\n    return nn.Linear(2, 2)  # net\n\n\n" + RECIPE.format("make"))
    )
    assert diff(recipe, Code(model=ZERO)).text.splitlines() == [
        "--- a/net.py",
        "+++ b/net.py",
        "@@ -4,7 +4,11 @@",
        " import gradiometer.remedies.recipe as gm",
        " ",
        " def make():",
        "-    return nn.Linear(2, 2)  # net",
        "+    model = nn.Linear(2, 2)  # net",
        "+    for module in model.modules():",
        "+        if isinstance(module, nn.Linear):",
        "+            nn.init.zeros_(module.bias)",
        "+    return model",
        " ",
        " ",
        " recipe = gm.Recipe(make, torch.optim.SGD, nn.functional.mse_loss, lambda seed: [])",
    ]


@needs_git
def test_lambdas_become_functions_above(folder: Path) -> None:
    text = "n = 2\n# all of it\nrecipe = gm.Recipe(model=lambda: nn.Linear(n, n), optimizer=lambda p: torch.optim.SGD(p, 0.1), "
    written(folder, TOP + text + "loss=None, batches=list)\n")
    patch = diff(recipe_of(load(folder / "net.py")), Code(model=ZERO, optimizer=TENFOLD))
    applied(folder, patch)
    assert (folder / "net.py").read_text() == TOP + textwrap.dedent(
        """\
        n = 2


        def cured_model():
            model = nn.Linear(n, n)
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)
            return model


        def cured_optimizer(p):
            optimizer = torch.optim.SGD(p, 0.1)
            for group in optimizer.param_groups:
                group['lr'] *= 10
            return optimizer


        # all of it
        recipe = gm.Recipe(model=cured_model, optimizer=cured_optimizer, loss=None, batches=list)
        """
    )
    after = recipe_of(load(folder / "net.py"))
    assert after.optimizer(after.model().parameters()).param_groups[0]["lr"] == 1


@needs_git
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("unit", ["\t", "  ", "    "])
@pytest.mark.parametrize("name", ["returns", "lambda_in_function", "lambda_keyword", "one_line", "static", "finally"])
def test_tabs_and_line_ends(folder: Path, unit: str, line_end: str, name: str) -> None:
    text = (TOP + MODELS[name]).replace("    ", unit).replace("\n", line_end)
    after = check_model(folder, text)
    assert after.count("\r\n") == (after.count("\n") if line_end == "\r\n" else 0)
    if unit == "\t" and name != "one_line":  # in which nothing shows how the file is indented
        assert "  " not in after.replace("  #", "")


@needs_git
@pytest.mark.parametrize(("encoding", "cookie"), [("latin-1", "# coding: latin-1\n"), ("utf-8-sig", "")])
def test_encodings(folder: Path, encoding: str, cookie: str) -> None:
    text = cookie + TOP + "word = 'äöü'; make = (lambda: 'é', lambda: nn.Linear(2, 2))\n" + RECIPE.format("make[1]")
    before = recipe_of(written(folder, text.encode(encoding)))
    patch = diff(before, Code(model=ZERO))
    applied(folder, patch, encoding.removesuffix("-sig"))
    after = load(folder / "net.py")
    assert after.word == "äöü"
    assert same(fresh(recipe_of(after)), zeroed(fresh(before)))


@needs_git
@pytest.mark.parametrize(
    ("top", "gone"),
    [
        ("import torch.nn as nn\nfrom torch.optim import SGD\nimport gradiometer.remedies.recipe as gm\n", "nn"),
        ('"""A file."""\nimport torch.nn as layers\nimport gradiometer.remedies.recipe as gm\n', "torch"),
        ("#!/usr/bin/env python\nimport torch.nn as layers, gradiometer.remedies.recipe as gm; n = 2\n", ""),
        (
            "from __future__ import annotations\nfrom torch.nn import *\nfrom gradiometer.remedies import recipe as gm\n",
            "",
        ),
        (
            "try:\n    import torch as th\nexcept ImportError:\n    th = None\nimport gradiometer.remedies.recipe as gm\n",
            "",
        ),
    ],
)
def test_missing_imports_and_classes(folder: Path, top: str, gone: str) -> None:
    maker = "def make():\n    from torch.nn import Linear\n    return Linear(2, 2)\n\n\n"
    recipe = "recipe = gm.Recipe(make, lambda p: __import__('torch').optim.SGD(p, 0.1), None, list)\n"
    before = recipe_of(written(folder, top + maker + recipe))
    code = Code(
        imports=("import math", "import torch"),
        classes=(Doubled,),
        model=ZERO + "\nmodel = Doubled(model)\nmodel.pi = math.pi",
        optimizer=TENFOLD + "\ntorch.manual_seed(3)\nassert Doubled",
    )
    patch = diff(before, code)
    assert patch.missing == ()
    applied(folder, patch)
    text = (folder / "net.py").read_text()
    module = load(folder / "net.py")
    model = fresh(recipe_of(module))
    assert same(model.inner, zeroed(fresh(before)))
    assert type(model) is module.Doubled
    assert text.count("class Doubled") == 1
    assert text.count("import math") == 1
    assert text.count("import torch\n") == 1
    assert recipe_of(module).optimizer(model.parameters()).param_groups[0]["lr"] == 1
    # A second cure finds what the first one brought.
    again = diff(recipe_of(module), Code(classes=(Doubled,), model="model = Doubled(model)"))
    assert "class" not in again.text
    assert again.text


@needs_git
def test_a_file_without_imports(folder: Path) -> None:
    text = "# about this file\n\ndef make():\n    from torch import nn\n    return nn.Linear(2, 2)\n"
    module = written(folder, text)
    recipe = Recipe(module.make, torch.optim.SGD, None, lambda seed: [])
    patch = diff(recipe, Code(model=ZERO))
    applied(folder, patch)
    assert (
        (folder / "net.py")
        .read_text()
        .startswith("# about this file\n\nfrom torch import nn\n\n\ndef cured_model(model):\n")
    )
    assert same(fresh(Recipe(load(folder / "net.py").make, torch.optim.SGD, None, list)), zeroed(fresh(recipe)))


@needs_git
def test_two_files(folder: Path) -> None:
    one = written(folder, TOP + "def make():\n    return nn.Linear(2, 2)\n", "nets/one.py")
    two = written(folder, "from torch.optim import SGD\n\n\ndef make(p):\n    return SGD(p, 0.1)\n", "my two.py")
    recipe = Recipe(one.make, two.make, None, lambda seed: [])
    patch = diff(recipe, Code(model=ZERO, optimizer=TENFOLD))
    assert patch.missing == ()
    assert patch.text.count("--- a/") == 2
    applied(folder, patch)
    cured = Recipe(load(folder / "nets/one.py").make, load(folder / "my two.py").make, None, lambda seed: [])
    assert same(fresh(cured), zeroed(fresh(recipe)))
    assert cured.optimizer(cured.model().parameters()).param_groups[0]["lr"] == 1


def test_a_file_outside_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe = recipe_of(written(tmp_path, TOP + MODELS["plain"]))
    assert diff(recipe, Code(model=ZERO)).text.startswith(f"--- a{(tmp_path / 'net.py').resolve().as_posix()}\n")


# -- the training loop ---------------------------------------------------------------------------------------------

STEP = '''def step(net, opt, criterion, batch):
    """One step."""
    for _ in range(1):
        opt.zero_grad()
        norm = criterion(net(batch[0]), batch[1])
        norm.backward()
        opt.step()  # and on
    return norm


recipe = gm.Recipe(lambda: nn.Linear(2, 2), lambda p: torch.optim.SGD(p, 0.1), nn.functional.mse_loss, list, step=step)
'''
CLIP = "norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.001)\nassert norm > 0.001"


def stepped(module: ModuleType) -> nn.Module:
    recipe = recipe_of(module)
    model = fresh(recipe)
    loss = recipe.step(model, recipe.optimizer(model.parameters()), recipe.loss, (torch.ones(4, 2), torch.ones(4, 2)))
    assert loss.ndim == 0
    return model


@needs_git
def test_lines_around_the_step_of_the_optimizer(folder: Path) -> None:
    start = fresh(recipe_of(written(folder, TOP + STEP)))
    patch = diff(
        recipe_of(load(folder / "net.py")), Code(step=CLIP, after_step="model.last = loss.item()\noptimizer.done = 1")
    )
    assert patch.missing == ()
    applied(folder, patch)
    text = (folder / "net.py").read_text()
    assert (
        "        norm.backward()\n"
        "        cured_norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.001)\n"
        "        assert cured_norm > 0.001\n"
        "        opt.step()  # and on\n"
        "        net.last = norm.item()\n"
        "        opt.done = 1\n"
        "    return norm\n"
    ) in text
    moved = [
        (p - q).detach() for p, q in zip(stepped(load(folder / "net.py")).parameters(), start.parameters(), strict=True)
    ]
    assert torch.cat([x.flatten() for x in moved]).norm() == pytest.approx(0.1 * 0.001, rel=1e-3)


@needs_git
def test_gradients_are_unscaled_before_they_are_clipped(folder: Path) -> None:
    text = STEP.replace("norm.backward()", "scaler.scale(norm).backward()").replace("opt.step()", "scaler.step(opt)")
    top = TOP + "scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)\n\n\n"
    start = fresh(recipe_of(written(folder, top + text)))
    applied(folder, diff(recipe_of(load(folder / "net.py")), Code(step=CLIP)))
    assert "scaler.unscale_(opt)\n        cured_norm" in (folder / "net.py").read_text()
    moved = [
        (p - q).detach() for p, q in zip(stepped(load(folder / "net.py")).parameters(), start.parameters(), strict=True)
    ]
    assert torch.cat([x.flatten() for x in moved]).norm() == pytest.approx(0.1 * 0.001, rel=1e-3)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("opt.step()", "opt.step(lambda: norm)", "takes the gradients itself"),
        ("opt.step()  #", "(opt.step()); norm.item()  #", "not in a line of its own"),
        ("opt.step()", "getattr(opt, 'step')()", "has no line `opt.step()`"),
        ("opt.zero_grad()", "opt.zero_grad(); torch = 1", "for something else"),
        ("net, opt, criterion, batch", "*given", "no function `step"),
    ],
)
def test_steps_that_cannot_be_patched(folder: Path, old: str, new: str, reason: str) -> None:
    recipe = recipe_of(written(folder, TOP + STEP.replace(old, new)))
    patch = diff(recipe, Code(step=CLIP))
    assert patch.text == ""
    assert reason in patch.missing[0]
    assert patch.missing[0].startswith("the lines for the training loop: ")


def test_a_recipe_without_a_step_of_its_own(folder: Path) -> None:
    recipe = recipe_of(written(folder, TOP + MODELS["plain"]))
    patch = diff(recipe, Code(model=ZERO, step=CLIP))
    assert patch.text
    assert patch.missing == ("the lines for the training loop: it is not in the recipe",)


# -- the loss ------------------------------------------------------------------------------------------------------

TWICE = "plain = loss\nloss = lambda outputs, targets: 2 * plain(outputs, targets)"


@needs_git
@pytest.mark.parametrize(
    "text",
    [
        "def criterion(o, t):\n    return (o - t).sum()\n\n\nrecipe = gm.Recipe(None, None, criterion, list)\n",
        "# distance\n@torch.no_grad()\ndef criterion(o, t): return (o - t).sum()\nrecipe = gm.Recipe(None, None, criterion, list)\n",
        "recipe = gm.Recipe(None, None, lambda o, t: (o - t).sum(), list)\n",
        "def recipe():\n    def criterion(o, t):\n        return (o - t).sum()\n    return gm.Recipe(None, None, criterion, list)\n",
        "def recipe():\n    return gm.Recipe(None, None, [lambda o, t, k=k: (o - t).sum() * k for k in (1, 2)][0], list)\n",
    ],
)
def test_the_loss(folder: Path, text: str) -> None:
    patch = diff(recipe_of(written(folder, TOP + text)), Code(loss=TWICE))
    assert patch.missing == ()
    applied(folder, patch)
    assert recipe_of(load(folder / "net.py")).loss(torch.full((3,), 2.0), torch.ones(3)) == 6


# -- what cannot be done -------------------------------------------------------------------------------------------


def refused(model: Any, code: Code | None = None, **others: Any) -> str:
    recipe = Recipe(model, **{"optimizer": torch.optim.SGD, "loss": None, "batches": list, **others})
    patch = diff(recipe, code or Code(model=ZERO))
    assert patch.text == ""
    assert len(patch.missing) == 1
    return patch.missing[0]


class Net(nn.Module):
    @classmethod
    def make(cls) -> nn.Module:
        return cls()


def test_what_is_no_function_of_the_users() -> None:
    assert "`Net` is a class" in refused(Net)
    assert "`Net` is a class" in refused(functools.partial(Net))
    assert "`make` is a method" in refused(Net.make)
    assert "no function" in refused(functools.cache(lambda: nn.Linear(2, 2)))
    assert "not in a file of yours" in refused(textwrap.dedent)
    made = Recipe(Net, torch.optim.SGD, None, lambda seed: []).with_model(lambda model: model)
    assert "not in a file of yours" in refused(made.model)
    loss = refused(Net, Code(loss=TWICE), loss=nn.MSELoss())
    assert loss == "the lines for the loss: `MSELoss` is a module of its own"
    assert "not in a file of yours" in refused(Net, Code(loss=TWICE), loss=nn.functional.mse_loss)
    assert "not in the recipe" in refused(Net, Code(loss=TWICE))


@pytest.mark.parametrize("name", ["<string>", "<stdin>", "<ipython-input-1-abc>", "/tmp/ipykernel_1/23.py", __file__])
def test_functions_of_no_file(name: str) -> None:
    space: dict[str, Any] = {"nn": nn}
    exec(compile("def make():\n    return nn.Linear(2, 2)\n", name, "exec"), space)
    assert "the lines for the model: " in refused(space["make"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def make(depth=1):\n    return nn.Sequential(make(0)) if depth else nn.Linear(2, 2)\n", "calls itself"),
        ("make = lambda depth=1: nn.Sequential(make(0)) if depth else nn.Linear(2, 2)\n", "calls itself"),
        ("def make(a=0):\n    if a:\n        return\n    return nn.Linear(2, 2)\n", "does not return"),
        ("def make(a=0):\n    yield nn.Linear(2, 2)\n", "does not return"),
        ("async def make(a=0):\n    return nn.Linear(2, 2)\n", "does not return"),
        ("make = lambda: (yield)\n", "unusual form"),
        ("isinstance = lambda a, b: True\ndef make():\n    return nn.Linear(2, 2)\n", "`isinstance` is something else"),
        ("def make():\n    return nn.Linear(2, 2)\nnn = torch.nn.functional\n", "`nn` is something else"),
        (
            "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g():\n        return nn.Sequential(f())\n"
            "    return g\n@twice\ndef make():\n    return nn.Linear(2, 2)\n",
            "wrapped by a decorator",
        ),
        ("class Nets:\n    def make(self):\n        return nn.Linear(2, 2)\nmake = Nets().make\n", "is a method"),
        ("make = eval('lambda: nn.Linear(2, 2)')\n", "no file"),
    ],
)
def test_functions_that_cannot_be_patched(folder: Path, text: str, reason: str) -> None:
    assert reason in refused(written(folder, TOP + text).make)


def test_a_class_of_the_same_name(folder: Path) -> None:
    module = written(folder, TOP + "class Doubled:\n    pass\n\n\ndef make():\n    return nn.Linear(2, 2)\n")
    code = Code(classes=(Doubled,), model="model = Doubled(model)")
    assert "`Doubled` is something else in net.py" in refused(module.make, code)


def test_a_file_that_has_changed_since(folder: Path) -> None:
    module = written(folder, TOP + "def make():\n    return nn.Linear(2, 2)\n")
    (folder / "net.py").write_text(TOP + "def make():\n    return nn.Linear(2, 3)\n")
    assert "not the one that is running" in refused(module.make)
    (folder / "net.py").write_text(TOP + "def make(:\n")
    refused(module.make)
    (folder / "net.py").unlink()
    assert "no file" in refused(module.make)


def test_old_line_ends(folder: Path) -> None:
    refused(written(folder, (TOP + "def make():\n    return nn.Linear(2, 2)\n").replace("\n", "\r")).make)


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        (Code(model="model.x = batch[0]"), ["they use `batch`, which is not known there"]),
        (Code(after_step="# leave out the step\n# of the scheduler"), ["leave out the step of the scheduler"]),
        (
            Code(optimizer="schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)", after_step="schedule.step()"),
            [
                "they share `schedule` with the lines for the training loop",
                "share `schedule` with the lines for the optimizer",
            ],
        ),
        (Code(model="model = ("), ["not of a form"]),
        (Code(), []),
    ],
)
def test_lines_that_fit_nowhere(folder: Path, code: Code, missing: list[str]) -> None:
    patch = diff(recipe_of(written(folder, TOP + STEP)), code)
    assert patch.text == ""
    assert len(patch.missing) == len(missing)
    assert all(text in told for text, told in zip(missing, patch.missing, strict=True))


def test_columns_that_python_did_not_keep(folder: Path) -> None:
    text = TOP + "pair = (lambda: nn.Linear(3, 2), lambda: nn.Linear(2, 2))\n"
    module = written(folder, text)
    code = module.pair[1].__code__.replace(co_linetable=b"")
    module.pair[1].__code__ = code
    assert "the lines for the model: " in refused(module.pair[1])


@needs_git
def test_strings_of_several_lines_keep_their_spaces(folder: Path) -> None:
    module = written(folder, TOP + "def make():\n\treturn nn.Linear(2, 2)\n")
    code = Code(model='if True:\n    model.note = f"""\n    a {1}\n  b"""\n    model.sum = ("x"\n    "y")')
    applied(folder, diff(Recipe(module.make, torch.optim.SGD, None, lambda seed: []), code))
    model = load(folder / "net.py").make()
    assert model.note == "\n    a 1\n  b"
    assert model.sum == "xy"
