"""What every view in the terminal needs: plain characters where there are no others, and bars."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, RenderableType

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
