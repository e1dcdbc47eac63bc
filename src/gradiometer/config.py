"""What ``pyproject.toml`` says of this package, in its table ``[tool.gradiometer]``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from gradiometer.errors import InputError

FILE = "pyproject.toml"


class Ignored(NamedTuple):
    """Patterns of findings that are left out of a diagnosis, and who says so."""

    patterns: tuple[str, ...] = ()
    by: str = FILE


def ignored(given: Iterable[str] | None = None, by: str = "ignore") -> Ignored:
    """The patterns that are given; with ``None`` those of ``ignore`` in the nearest file that has our table.

    Formula: looked for in the working folder and the folders above it; a ``pyproject.toml`` without
    ``[tool.gradiometer]`` is passed over, so that a package inside a larger repository inherits its settings.

    Args:
        given: patterns as in `gradiometer.rules.silence`; an empty sequence silences nothing.
        by: what hands them over, for the reader.

    Returns:
        The patterns and where they come from.

    Raises:
        InputError: a text in place of a sequence of texts, a file that is no TOML, an unknown setting.

    Example:
        >>> ignored(["dead_units"])
        Ignored(patterns=('dead_units',), by='ignore')
    """
    if given is not None:
        return Ignored(_texts(given, by), by)
    for folder in _upwards():
        table = _table(folder / FILE)
        if table is not None:
            unknown = set(table) - {"ignore"}
            if unknown:
                raise InputError(
                    f"[tool.gradiometer] in {folder / FILE} sets {', '.join(sorted(unknown))}: only ignore is known."
                )
            return Ignored(_texts(table.get("ignore", ()), f"ignore in {folder / FILE}"))
    return Ignored()


def _upwards() -> tuple[Path, ...]:
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the folder was deleted under a script that works in it
        return ()
    return here, *here.parents


def _table(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("gradiometer")
    except OSError:  # there is none here, or it is not ours to read
        return None
    except ValueError as error:
        raise InputError(
            f"{path} is no TOML ({error}), so it cannot be read what it silences: correct it, or hand over `ignore`."
        ) from error


def _texts(given: Iterable[str], by: str) -> tuple[str, ...]:
    patterns = () if isinstance(given, str) else tuple(given)
    if isinstance(given, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(f'{by} is {given!r}, and takes a list of patterns: ["dead_units", "underflow:encoder.*"].')
    return patterns
