"""Finds a function, or what else there is, in a user's file: ``train.py:batch``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradiometer.errors import InputError
from gradiometer.remedies.recipe import Recipe


def function_of(place: str) -> Callable[[], Any]:
    """The function at ``FILE:function``.

    Raises:
        InputError: no such file or function. Errors of the file itself are its own, and are not caught.

    Example:
        >>> function_of("train.py")
        Traceback (most recent call last):
        gradiometer.errors.InputError: train.py names no function: write FILE:function, for instance train.py:setup.
    """
    function, known = _found(place)
    if not callable(function):
        file, _, name = place.rpartition(":")
        raise InputError(f"{file} has no function {name}. It has: {', '.join(known) or 'none'}.")
    return function


def recipe_of(place: str) -> Recipe:
    """The `Recipe` at ``FILE:name``: itself, or what a function without arguments returns."""
    found, known = _found(place)
    made = found() if callable(found) else found
    if isinstance(made, Recipe):
        return made
    file, _, name = place.rpartition(":")
    if found is None:
        raise InputError(f"{file} has no {name}. It has the functions: {', '.join(known) or 'none'}.")
    what = _described(made)
    raise InputError(f"{place} must be a gradiometer.Recipe, or a function that returns one, and is {what}.")


def _found(place: str) -> tuple[Any, list[str]]:
    """What a file has under a name, ``None`` if nothing, and the functions that it has.

    The file is run as an import runs it, not as a script.
    """
    file, _, name = place.rpartition(":")
    if not file or not name or "/" in name or "\\" in name:
        raise InputError(f"{place} names no function: write FILE:function, for instance {place.rstrip(':')}:setup.")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"there is no file {file}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.absolute()))  # what lies beside it can be imported, as when it is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.absolute()))
    known = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == path.stem]
    return getattr(module, name, None), sorted(known)


def setup_of(place: str) -> tuple[Any, Any, Any]:
    """What the function at ``FILE:function`` returns: model, batch, loss (or model and batch, with the model's own)."""
    made = function_of(place)()
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise InputError(f"{place} must return model, batch, loss, and returned {_described(made)}.")
    return made if len(made) == 3 else (*made, None)


def _described(made: Any) -> str:
    return f"a tuple of {len(made)}" if isinstance(made, tuple) else type(made).__name__
