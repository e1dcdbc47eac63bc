"""Writes the part of findings.md that comes from the rules: their texts, constants, cases and an example each.

python docs/generate_findings.py
"""

import ast
import importlib
import inspect
import io
import pkgutil
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from rich.console import Console

from gradiometer import rules
from gradiometer.records import Diagnosis
from gradiometer.report import text
from gradiometer.rules.base import Rule

PAGE = Path(__file__).parent / "findings.md"
MARK = "<!-- From here on written by docs/generate_findings.py out of src/gradiometer/rules: change it there. -->\n"


def page() -> str:
    """The whole page: what is written by hand above the mark, and what the rules say below it."""
    by_hand = PAGE.read_text("utf-8").partition(MARK)[0]
    modules = {rule.kind: importlib.import_module(f"gradiometer.rules.{rule.kind}") for rule in rules.RULES}
    rows = [f"| [`{kind}`](#{kind}) | {_first(module)} |" for kind, module in modules.items()]
    contents = "\n".join(["| kind | what it means |", "|---|---|", *rows])
    parts = [contents, *(_rule(rule, modules[rule.kind]) for rule in rules.RULES)]
    shared = [_shared(module) for module in _modules() if module not in modules.values() and _constants(module)]
    if shared:
        parts += ["## What the rules share", *shared]
    return by_hand + MARK + "\n" + "\n\n".join(parts) + "\n"


def _rule(rule: Rule, module: ModuleType) -> str:
    constants = _constants(module)
    return "\n\n".join(
        [
            f"### `{rule.kind}`",
            _markdown(inspect.getdoc(module)),
            _markdown(inspect.getdoc(rule.check)),
            *([f"Thresholds:\n\n{constants}"] if constants else []),
            "Found in:\n\n" + _listed(case.name for case in rule.sick),
            "Left alone, or at most worth knowing:\n\n" + _listed(case.name for case in rule.healthy),
            f"What is said of the first of these cases:\n\n```\n{_example(rule)}\n```",
        ]
    )


def _example(rule: Rule) -> str:
    """What a reader sees of the first sick case, with this rule alone."""
    case = rule.sick[0]
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(text.render(Diagnosis(tuple(rule.check(case.patient)), case.name)))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _shared(module: ModuleType) -> str:
    name = module.__name__.rpartition(".")[2]
    return f"### `{name}`\n\n{_markdown(inspect.getdoc(module))}\n\n{_constants(module)}"


def _modules() -> list[ModuleType]:
    return [
        importlib.import_module(f"gradiometer.rules.{found.name}")
        for found in pkgutil.iter_modules(rules.__path__)
        if not found.ispkg
    ]


def _constants(module: ModuleType) -> str:
    """The numbers of a module that have a text below them, as they are written, with that text."""
    source = inspect.getsource(module)
    tree = ast.parse(source).body
    items = []
    for statement, below in pairwise(tree):
        match statement, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value),
                ast.Expr(value=ast.Constant(value=str(why))),
            ) if isinstance(getattr(module, name), int | float):
                items.append(f"- `{name} = {ast.get_source_segment(source, value)}`: {_item(why)}")
    return "\n".join(items)


def _first(module: ModuleType) -> str:
    return _item(inspect.getdoc(module)).partition("\n\n")[0].replace("\n ", "").replace("|", r"\|")


def _listed(names: Iterable[str]) -> str:
    return "\n".join(f"- {name}" for name in names)


def _item(text_below: str | None) -> str:
    """A text as part of a list: its further lines stand under the first."""
    return "\n".join(f"  {line}" if line else "" for line in _markdown(text_below).splitlines()).strip()


def _markdown(docstring: str | None) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(docstring or ""), flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
