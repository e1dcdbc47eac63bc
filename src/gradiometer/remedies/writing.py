"""A cure as the lines that a user would write."""

from __future__ import annotations

from gradiometer.remedies.base import Code
from gradiometer.remedies.names import Import, bringing, imports, lines, needed, tidy

_HEADINGS = (
    ("model", "# after the model is built"),
    ("optimizer", "# after the optimizer is built"),
    ("loss", "# the loss"),
    ("step", "# in the training loop, between loss.backward() and optimizer.step()"),
    ("after_step", "# in the training loop, after optimizer.step()"),
)


def text(remedy_title: str, code: Code) -> str:
    r"""What to write for a remedy, as one piece of Python with a heading for each place it belongs to.

    Formula: imports, classes, then the lines for the model, the optimizer, the loss and the training loop.

    Args:
        remedy_title: what the remedy does, for the first line.
        code: the lines of each place.

    Returns:
        Python that compiles; it ends with a line break.

    Raises:
        SyntaxError: if the code that was given is no Python.

    Example:
        >>> print(text("start at zero", Code(model="nn.init.zeros_(model.out.weight)")), end="")
        # start at zero
        <BLANKLINE>
        from torch import nn
        <BLANKLINE>
        # after the model is built
        nn.init.zeros_(model.out.weight)

    Source:
        none.
    """
    places = [f"{heading}\n{part}" for field, heading in _HEADINGS if (part := tidy(getattr(code, field)))]
    classes = tidy(code.definitions)
    whole = "\n\n".join(filter(None, [classes, *places]))
    brought = set(imports(code.imports)) | set(_missing(whole, code))
    title = " ".join(remedy_title.split())
    head = "\n\n".join(filter(None, [f"# {title}" if title else "", "\n".join(lines(brought))]))
    parts = [head, classes, "\n\n".join(places)]
    # Two empty lines around classes, as everywhere; one is enough between the rest.
    return ("\n\n\n" if classes else "\n\n").join(filter(None, parts)) + "\n"


def _missing(whole: str, code: Code) -> list[Import]:
    """The imports of the names that are used and that nothing brings."""
    given = {one.binds for one in imports(code.imports)} | {"model", "optimizer", "loss"}
    found = [bringing(name, code) for name in sorted(needed(whole) - given)]
    return [one for one in found if one is not None]
