"""What lines need at the top of a file: imports that are missing, and classes."""

from __future__ import annotations

import ast
import importlib
import inspect
from typing import Any

from gradiometer.remedies.base import Code
from gradiometer.remedies.names import Import, bound, bringing, builtin, imports, lines, tidy
from gradiometer.remedies.sources import AFTER, Edit, Source, UnpatchableError

_MISSING = object()


class Head:
    """The top of one file."""

    def __init__(self, source: Source, known: dict[str, Any], code: Code, classes: dict[str, str]) -> None:
        """``known`` are the variables of the module, ``classes`` the sources of the code's own ones."""
        self.source, self.known, self.code, self.classes = source, known, code, classes
        self.bound = bound(source.text)

    def edits(self, needs: set[str], touched: list[ast.AST]) -> list[Edit]:
        """What to put below the imports, so that the names that are needed are known to the nodes that are touched.

        Raises:
            UnpatchableError: if the file uses one of the names for something else.
        """
        anchor, top = self._anchor(touched)
        missing = []
        for name in sorted(needs - self.classes.keys()):
            one = bringing(name, self.code)
            if one is None or (builtin(name) and one not in imports(self.code.imports)):
                continue
            if self._to_bring(name, one, top):
                missing.append(one)
        classes = [text for name, text in self.classes.items() if name in needs and not self._stands_there(name)]
        blocks = ["\n".join(lines(missing))] if missing else []
        if not blocks and not classes:
            return []
        return [self._edit(anchor, blocks, classes)]

    def _to_bring(self, name: str, one: Import, top: list[ast.stmt]) -> bool:
        """Whether a name is to be imported; it is not if the imports at the top bring it already."""
        live = self.known.get(name, _MISSING)
        starred = any(_star_brings(node, name) for node in top)
        if name not in self.bound and not starred:
            return True
        if live is not one.value:
            raise UnpatchableError(f"`{name}` is something else in {self.source.path.name}")
        return not starred and not any(name in _brought(node) for node in top)

    def _stands_there(self, name: str) -> bool:
        """Whether the file has a class already, from an earlier cure."""
        if name not in self.bound:
            return False
        live = self.known.get(name)
        if callable(live) and tidy(inspect.getsource(live)) == self.classes[name]:
            return True
        raise UnpatchableError(f"`{name}` is something else in {self.source.path.name}")

    def _anchor(self, touched: list[ast.AST]) -> tuple[ast.stmt | None, list[ast.stmt]]:
        """The last import before the first definition, and all imports up to there."""
        changed = [self.source.top(node) for node in touched]
        found: list[ast.stmt] = []
        for node in self.source.tree.body:
            if node in changed or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                break
            if _imports_only(node):
                found.append(node)
        return (found[-1] if found else None), found

    def _edit(self, anchor: ast.stmt | None, blocks: list[str], classes: list[str]) -> Edit:
        source, body = self.source, self.source.tree.body
        if anchor is None and ast.get_docstring(source.tree, clean=False) is not None:
            anchor = body[0]
            blocks = ["\n".join(["", *blocks])] if blocks else []
        # Classes have two empty lines around; the file's own below the imports are counted.
        text = "\n\n\n".join([*blocks, *classes]) + "\n"
        if anchor is None:
            place = source.above(body[0])
            gap = 2 - source.spaced.get(place, 0)  # a function that comes there has brought some
            return Edit(place, place, AFTER, self._ended(text + "\n" * gap))
        text = text if blocks else "\n\n" + text
        last = max(node.end_lineno or 0 for node in body if node.lineno <= (anchor.end_lineno or 0))
        if classes:
            below = next((i for i, line in enumerate(source.lines[last:]) if line.strip()), 2)
            text += "\n" * max(0, 2 - below)
        return source.after_line(source.offset(last, 0), self._ended(text))

    def _ended(self, text: str) -> str:
        return text.replace("\n", self.source.newline)


def _imports_only(node: ast.stmt) -> bool:
    """Whether a statement is an import, or a choice between imports."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return True
    if not isinstance(node, (ast.If, ast.Try)):
        return False
    inner = [one for one in ast.walk(node) if isinstance(one, ast.stmt) and one is not node]
    simple = (ast.Import, ast.ImportFrom, ast.Assign, ast.Pass, ast.If, ast.Try)
    return all(isinstance(one, simple) for one in inner) and any(_imports_only(one) for one in inner)


def _brought(node: ast.stmt) -> set[str]:
    """The names that the imports in a statement bring."""
    aliases = (one for one in ast.walk(node) if isinstance(one, ast.alias))
    return {one.asname or one.name.partition(".")[0] for one in aliases}


def _star_brings(node: ast.stmt, name: str) -> bool:
    """Whether ``from module import *`` brings a name."""
    if not isinstance(node, ast.ImportFrom) or node.names[0].name != "*" or node.level:
        return False
    module = importlib.import_module(node.module or "")
    return name in getattr(module, "__all__", vars(module))
