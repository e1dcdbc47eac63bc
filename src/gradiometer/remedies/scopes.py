"""Whether lines can be put into a function without a name of theirs meeting one of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from gradiometer.remedies.sources import FunctionNode, Source, Text, UnpatchableError, identifiers

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_NAMING = (ast.Global, ast.Nonlocal, ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, *_COMPREHENSIONS)


def own(function: FunctionNode) -> Iterator[ast.AST]:
    """The nodes that run when a function runs: not those of functions, classes and comprehensions inside."""
    waiting: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(function.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, _SCOPES):
            waiting += ast.iter_child_nodes(node)


def parameters(function: FunctionNode) -> list[str]:
    """The names of the positional parameters."""
    return [one.arg for one in (*function.args.posonlyargs, *function.args.args)]


def local(function: FunctionNode) -> set[str]:
    """The names that a function binds, and those that it declares to be of an outer scope."""
    found = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    for node in own(function):
        if isinstance(node, ast.Name):
            found |= {node.id} if not isinstance(node.ctx, ast.Load) else set()
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, _COMPREHENSIONS):
            found |= {one.target.id for one in ast.walk(node) if isinstance(one, ast.NamedExpr)}
        elif isinstance(node, _NAMING):
            found |= set(identifiers(node))
    return found


def mentioned(node: ast.AST, *, attributes: bool = True) -> set[str]:
    """All names in a piece of the tree."""
    nodes = (one for one in ast.walk(node) if attributes or not isinstance(one, ast.Attribute))
    return {word for one in nodes for word in identifiers(one)}


def hidden(names: set[str], function: FunctionNode, source: Source) -> bool:
    """Whether one of the module's names stands for something else inside of a function."""
    scopes = [one for one in (function, *source.around(function)) if isinstance(one, FunctionNode)]
    inside = any(isinstance(one, _COMPREHENSIONS) for one in source.around(function))
    return inside or any(names & local(one) for one in scopes)


def free_to_bind(names: set[str], function: FunctionNode) -> bool:
    """Whether lines before a ``return`` may bind these names: each is new, or a plain local of this function alone."""
    met = names & mentioned(function)
    if not met:
        return True
    nodes = list(own(function))
    outer = {name for node in nodes if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}
    inner = {name for node in nodes if isinstance(node, _SCOPES) for name in mentioned(node)}
    late = any(isinstance(node, (ast.Try, ast.TryStar)) and node.finalbody for node in nodes)
    return met <= local(function) and not met & (outer | inner) and not late


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Statements with some of their variables called otherwise.

    Raises:
        UnpatchableError: if one of these is more than a plain variable there.
    """
    tree, source = ast.parse(text), Text(text)
    names = {old: new for old, new in names.items() if old != new}
    for node in ast.walk(tree):
        plain = isinstance(node, (ast.Name, ast.Attribute, ast.keyword))
        if not plain and names.keys() & set(identifiers(node)):
            raise UnpatchableError("a name of theirs means something else there")
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in names]
    for start, end in sorted((source.span(node) for node in found), reverse=True):
        old = text[start:end]
        text = text[:start] + names[old] + text[end:]
    return text
