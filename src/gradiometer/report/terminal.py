"""What every view in the terminal needs: plain characters where there are no others, and bars."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.text import Text

EIGHTHS = " ▏▎▍▌▋▊▉█"
_PLAIN = {"·": "-", "…": "..", "◀": "<", "▸": ">", "→": "->"}


def present(console: Console, view: Callable[[bool], RenderableType]) -> None:
    """Prints ``view(plain)``.

    A terminal that knows no other characters gets plain ones, and never an error in place of what there is to read.
    """
    if console.encoding.lower().startswith("utf"):
        console.print(view(False))
        return
    with console.capture() as captured:
        console.print(view(True))
    text = captured.get()
    for character, plain in _PLAIN.items():
        text = text.replace(character, plain)
    console.file.write(text.encode(console.encoding, "replace").decode(console.encoding))


def blocks(cells: float) -> str:
    """A bar of this many character cells, to an eighth."""
    return "█" * int(cells) + EIGHTHS[int(cells % 1 * 8)].strip()


def number(value: float) -> Text:
    """Decades, as a cell of a table."""
    if not math.isfinite(value):
        return Text("none" if value == -math.inf else "NaN", style="bold red")
    return Text(signed(value), style="" if abs(value) >= 0.05 else "dim")


def signed(value: float) -> str:
    """Decades with their sign."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:+.2f}" if abs(value) >= 0.005 else "0.00"
