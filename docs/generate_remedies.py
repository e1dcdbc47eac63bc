"""Writes remedies.md out of the tables of remedies.

python docs/generate_remedies.py
"""

import inspect
from pathlib import Path

from gradiometer.remedies.base import GROUPS, Remedy
from gradiometer.remedies.catalogue import REMEDIES

PAGE = Path(__file__).parent / "remedies.md"
HEAD = "<!-- Written by docs/generate_remedies.py out of src/gradiometer/remedies: change it there. -->\n"


def page() -> str:
    """The whole page."""
    parts = [
        HEAD,
        "# Remedies",
        f"{len(REMEDIES)} remedies, by group, in the order in which the parts of a combination are carried out. "
        "[The cure](cure.md) says how they are chosen and proven.",
    ]
    for group in GROUPS:
        rows = [remedy for remedy in REMEDIES if remedy.group == group]
        parts += [f"## {group.capitalize()}", *(_row(remedy) for remedy in rows)]
    return "\n\n".join(parts) + "\n"


def _row(remedy: Remedy) -> str:
    function = "The network computes another function." if remedy.changes_function else "The network's function stays."
    lines = [
        f"### `{remedy.name}`",
        f"{remedy.title[0].upper()}{remedy.title[1:]}. {function}",
        f"Treats: {', '.join(f'[`{kind}`](findings.md#{kind})' for kind in remedy.treats)}.",
        f"Source: {remedy.source}",
        "Proven on:\n\n" + "\n".join(f"- {_case(p.recipe)} (score of at least {p.good:g})" for p in remedy.proofs),
    ]
    return "\n\n".join(lines)


def _case(recipe: object) -> str:
    text = inspect.getdoc(getattr(recipe, "func", recipe)) or getattr(recipe, "__name__", "")
    return text.partition("\n\n")[0].replace("\n", " ").rstrip(".")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
