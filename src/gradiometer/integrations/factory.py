"""Finds a function in a user's file and calls it: ``train.py:batch``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradiometer.errors import InputError


def function_of(place: str) -> Callable[[], Any]:
    """The function at ``FILE:function``; the file is run as an import runs it, not as a script.

    Raises:
        InputError: no such file or function. Errors of the file itself are its own, and are not caught.

    Example:
        >>> function_of("train.py")
        Traceback (most recent call last):
        gradiometer.errors.InputError: train.py names no function: write FILE:function, for instance train.py:setup.
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
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == path.stem]
        raise InputError(f"{file} has no function {name}. It has: {', '.join(sorted(known)) or 'none'}.")
    return function


def setup_of(place: str) -> tuple[Any, Any, Any]:
    """What the function at ``FILE:function`` returns: model, batch, loss (or model and batch, with the model's own)."""
    made = function_of(place)()
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise InputError(f"{place} must return model, batch, loss, and returned {_described(made)}.")
    return made if len(made) == 3 else (*made, None)


def _described(made: Any) -> str:
    return f"a tuple of {len(made)}" if isinstance(made, tuple) else type(made).__name__
