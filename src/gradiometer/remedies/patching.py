"""A cure as a unified diff of the files that a recipe is written in."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import site
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, Literal

from torch import nn

from gradiometer.remedies.base import Code
from gradiometer.remedies.heads import Head
from gradiometer.remedies.names import bound, bringing, builtin, imports, needed, tidy
from gradiometer.remedies.places import in_function, in_loop, on_lambda, on_loss
from gradiometer.remedies.recipe import Recipe
from gradiometer.remedies.sources import Edit, FunctionNode, Source, UnpatchableError

Part = Literal["model", "optimizer", "loss", "training loop"]

_FIELDS: dict[Part, tuple[str, ...]] = {
    "model": ("model",),
    "optimizer": ("optimizer",),
    "loss": ("loss",),
    "training loop": ("step", "after_step"),
}
"""The lines of a `Code` that belong to one part of a recipe."""


_TRANSPARENT = ("contextlib.py", "_contextlib.py")
"""Where decorators stand that only surround a call, as `torch.no_grad` does."""

_FOREIGN = ("stdlib", "platstdlib", "purelib", "platlib")
"""Folders that hold no files of the user's, as `sysconfig` calls them."""


@dataclass(frozen=True)
class Patch:
    """A unified diff, empty if there is none, and in words what must be put in by hand."""

    text: str
    missing: tuple[str, ...] = ()


def diff(recipe: Recipe, code: Code) -> Patch:
    """The user's own source files with a remedy in them, as a unified diff.

    Formula: lines go before the ``return`` of the function that builds a part, or around ``optimizer.step()``.

    Args:
        recipe: the untreated recipe.
        code: what the remedy writes.

    Returns:
        A `Patch`; file names are relative to the working directory, or to the root for files outside of it.

    Raises:
        nothing: what cannot be put where it belongs is ``missing``.

    Example:
        >>> import torch
        >>> recipe = Recipe(nn.Identity, torch.optim.SGD, None, lambda seed: [])
        >>> diff(recipe, Code(model="nn.init.zeros_(model[0].weight)")).missing
        ('the lines for the model: `Identity` is a class, and they belong where it is called',)

    Source:
        none.
    """
    wanted: list[Part] = [part for part in _FIELDS if any(tidy(getattr(code, name)) for name in _FIELDS[part])]
    try:
        return _Patching(recipe, code).patch(wanted)
    except Exception as error:
        # A diff is a courtesy: whatever goes wrong with it, the cure itself is told in `prescription.code()`.
        return Patch("", tuple(_missing(part, _reason(error)) for part in wanted))


@dataclass
class _File:
    """A file with what is put into it."""

    source: Source
    globals: dict[str, Any]
    parts: list[Part] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    touched: list[ast.AST] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)


class _Patching:
    """The diff of one recipe on its way."""

    def __init__(self, recipe: Recipe, code: Code) -> None:
        self.recipe, self.code = recipe, code
        self.files: dict[Path, _File] = {}
        self.classes = {one.__name__: tidy(inspect.getsource(one)) for one in code.classes}
        self.texts = {part: [tidy(getattr(code, name)) for name in names] for part, names in _FIELDS.items()}

    def patch(self, wanted: list[Part]) -> Patch:
        """The diff of all parts that can be put where they belong."""
        missing: dict[Part, str] = {}
        for part in wanted:
            try:
                self._put(part, wanted)
            except Exception as error:
                missing[part] = _reason(error)
        diffs = []
        for file in self.files.values():
            try:
                head = Head(file.source, file.globals, self.code, self.classes).edits(file.needs, file.touched)
                diffs.append(file.source.diff(file.source.patched([*file.edits, *head])))
            except Exception as error:
                missing |= dict.fromkeys(file.parts, _reason(error))
        return Patch("".join(diffs), tuple(_missing(part, missing[part]) for part in wanted if part in missing))

    def _put(self, part: Part, wanted: list[Part]) -> None:
        """Puts one part into its file.

        Raises:
            UnpatchableError: if that cannot be done; nothing is changed then.
        """
        texts = self.texts[part]
        whole = "\n".join(filter(None, texts))
        if not ast.parse(whole).body:
            raise UnpatchableError(" ".join(line.lstrip("# ") for line in whole.splitlines()))
        self._by_itself(part, wanted)
        function = _function(getattr(self.recipe, "step" if part == "training loop" else part), part)
        path = _file_of(function)
        file = self.files.get(path) or _File(Source(path), function.__globals__)
        if file.globals is not function.__globals__:
            raise UnpatchableError(f"{_described(function)} was loaded twice from its file")
        node = file.source.find(function)
        if node is None:
            raise UnpatchableError(f"the file of {_described(function)} is not the one that is running")
        needs = self._names(part, whole, file)
        edits = _EDITS[part](file.source, node, needs, texts)
        self.files[path] = file
        file.parts.append(part)
        file.edits += edits
        file.touched.append(node)
        file.needs |= needs

    def _by_itself(self, part: Part, wanted: list[Part]) -> None:
        """Refuses lines that share a variable with those of another part, since they come into different functions."""
        given = {"model", "optimizer", "loss"}
        whole = "\n".join(self.texts[part])
        for other in wanted:
            if other != part:
                there = "\n".join(self.texts[other])
                shared = (bound(whole) & needed(there) | needed(whole) & bound(there)) - given
                if shared:
                    raise UnpatchableError(f"they share `{min(shared)}` with the lines for the {other}")

    def _names(self, part: Part, whole: str, file: _File) -> set[str]:
        """The names of the module that the lines of a part use, with those of the classes they use."""
        given = {"model", "optimizer", "loss"} if part == "training loop" else {part}
        names, waiting = set[str](), needed(whole) - given
        while waiting:
            name = waiting.pop()
            names.add(name)
            if name in self.classes:
                waiting |= needed(self.classes[name]) - names
        for name in names - self.classes.keys():
            brought = bringing(name, self.code)
            if builtin(name) and brought not in imports(self.code.imports):
                expected, known = getattr(builtins, name, None), file.globals.get(name, getattr(builtins, name, None))
                if known is not expected:
                    raise UnpatchableError(f"`{name}` is something else in {file.source.path.name}")
            elif brought is None:
                raise UnpatchableError(f"they use `{name}`, which is not known there")
        return names


def _function(given: Any, part: Part) -> FunctionType:
    """The function in whose source the lines of a part belong."""
    if given is None:
        raise UnpatchableError("it is not in the recipe")
    while True:
        if isinstance(given, functools.partial) and part in ("model", "optimizer"):
            given = given.func
        elif isinstance(given, FunctionType) and (inner := getattr(given, "__wrapped__", None)) is not None:
            if Path(given.__code__.co_filename).name not in _TRANSPARENT:
                raise UnpatchableError(f"{_described(given)} is wrapped by a decorator that may change what it returns")
            given = inner
        else:
            break
    if isinstance(given, FunctionType):
        return given
    if isinstance(given, type):
        raise UnpatchableError(f"`{given.__name__}` is a class, and they belong where it is called")
    if isinstance(given, MethodType):
        raise UnpatchableError(f"`{given.__name__}` is a method")
    kind = type(given).__name__
    raise UnpatchableError(f"`{kind}` is {'a module' if isinstance(given, nn.Module) else 'no function'} of its own")


def _file_of(function: FunctionType) -> Path:
    """The file of the user's that a function stands in.

    Raises:
        UnpatchableError: if it stands in none.
    """
    path = Path(function.__code__.co_filename)
    try:
        path = path.resolve(strict=True)
    except OSError:
        path = None
    if path is None or not path.is_file():
        raise UnpatchableError(f"{_described(function)} stands in no file that can be read")
    known = sysconfig.get_paths()
    foreign = [*(known[name] for name in _FOREIGN), *site.getsitepackages(), site.getusersitepackages()]
    foreign.append(str(Path(__file__).parents[1]))
    if any(path.is_relative_to(Path(one).resolve()) for one in foreign):
        raise UnpatchableError(f"{_described(function)} is not in a file of yours")
    return path


def _described(function: FunctionType) -> str:
    """What a function is called in a text."""
    return "a lambda" if function.__name__ == "<lambda>" else f"`{function.__name__}`"


def _builder(variable: str) -> Callable[[Source, FunctionNode, set[str], list[str]], list[Edit]]:
    def edits(source: Source, node: FunctionNode, needs: set[str], texts: list[str]) -> list[Edit]:
        place = on_lambda if isinstance(node, ast.Lambda) else in_function
        return place(source, node, variable, texts[0], needs)

    return edits


_EDITS: dict[Part, Callable[[Source, FunctionNode, set[str], list[str]], list[Edit]]] = {
    "model": _builder("model"),
    "optimizer": _builder("optimizer"),
    "loss": lambda source, node, _, texts: on_loss(source, node, texts[0]),
    "training loop": lambda source, node, needs, texts: in_loop(source, node, texts[0], texts[1], needs),
}


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UnpatchableError) else "its source is not of a form that can be changed here"


def _missing(part: Part, reason: str) -> str:
    return f"the lines for the {part}: {reason}"
