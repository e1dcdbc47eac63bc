"""Names in a piece of code: what it binds, what it needs, and the imports that bring it."""

from __future__ import annotations

import ast
import builtins
import importlib
import symtable
import sys
import textwrap
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from gradiometer.remedies.base import Code


class Import(NamedTuple):
    """One name that is imported: ``import module [as alias]``, or ``from module import name [as alias]``."""

    module: str
    name: str = ""
    alias: str = ""

    @property
    def binds(self) -> str:
        """The name it brings."""
        return self.alias or self.name or self.module.partition(".")[0]

    @property
    def value(self) -> Any:
        """What the name then stands for."""
        module = importlib.import_module(self.module)
        if not self.name:
            return module if self.alias else sys.modules[self.binds]
        found = getattr(module, self.name, None)
        return importlib.import_module(f"{self.module}.{self.name}") if found is None else found


_USUAL = """
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations, parametrize
import copy, functools, itertools, math, random, statistics, warnings
import numpy as np
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
"""


def tidy(text: str) -> str:
    """Without common indentation and empty lines around."""
    return textwrap.dedent(text).strip("\n").rstrip()


def bound(text: str) -> set[str]:
    """The names that statements give a value."""
    return _bound(_table(text))


def needed(text: str) -> set[str]:
    """The names that statements read and do not bind themselves, builtins among them."""
    top = _table(text)
    read = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    for table in _inside(top):
        read |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and symbol.is_global()}
    return read - _bound(top)


def builtin(name: str) -> bool:
    """Whether a name needs no import."""
    return hasattr(builtins, name) or name in ("__name__", "__file__")


def imports(texts: Iterable[str]) -> list[Import]:
    """The single names of import statements, each once."""
    found: dict[Import, None] = {}
    for node in ast.parse("\n".join(tidy(text) for text in texts)).body:
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            raise TypeError(f"not an import: {ast.unparse(node)}")
        found |= dict.fromkeys(_singles(node))
    return list(found)


def lines(wanted: Iterable[Import]) -> list[str]:
    """Import statements, torch first and the rest by module, names of one module together."""
    plain, names = set[Import](), dict[str, set[str]]()
    for one in wanted:
        if one.name:
            names.setdefault(one.module, set()).add(f"{one.name} as {one.alias}" if one.alias else one.name)
        else:
            plain.add(one)
    written = [((one.module, 0), f"import {one.module}" + f" as {one.alias}" * bool(one.alias)) for one in plain]
    written += [((module, 1), f"from {module} import {', '.join(sorted(some))}") for module, some in names.items()]
    return [line for key, line in sorted(written, key=lambda pair: (_rank(pair[0][0]), *pair[0], pair[1]))]


def bringing(name: str, code: Code) -> Import | None:
    """The import that brings a name: one of the code's own, a usual one, or that of the file its classes stand in."""
    for one in (*imports(code.imports), *USUAL):
        if one.binds == name:
            return one
    for kind in code.classes:
        value = vars(sys.modules[kind.__module__]).get(name)
        if isinstance(value, ModuleType):
            return Import(value.__name__, "", "" if value.__name__ == name else name)
        home = sys.modules.get(getattr(value, "__module__", None) or "")
        if home is not None and getattr(home, name, None) is value and value is not None:
            return Import(home.__name__, name)
    return None


def _singles(node: ast.Import | ast.ImportFrom) -> Iterator[Import]:
    for one in node.names:
        alias = one.asname or ""
        if isinstance(node, ast.ImportFrom):
            yield Import("." * node.level + (node.module or ""), one.name, "" if alias == one.name else alias)
        else:
            yield Import(one.name, "", alias if alias != one.name else "")


def _rank(module: str) -> int:
    return ("__future__", "torch").index(module) if module in ("__future__", "torch") else 2


def _table(text: str) -> symtable.SymbolTable:
    return symtable.symtable(text + "\n", "<code>", "exec")


def _bound(top: symtable.SymbolTable) -> set[str]:
    return {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}


def _inside(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _inside(child)


USUAL = tuple(imports([_USUAL]))
"""What code about networks is written with."""
