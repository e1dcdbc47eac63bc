"""A source file of the user's: which of its lines a function stands in, and what it reads after some edits."""

from __future__ import annotations

import ast
import difflib
import io
import tokenize
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

from gradiometer.remedies.names import tidy

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

AFTER, BEFORE = 0, 1
"""Of two insertions at the same place: what belongs to the line above, and what belongs to the line below."""


class UnpatchableError(Exception):
    """Why lines cannot be put into a file; the text goes to the user."""


class Edit(NamedTuple):
    """A piece of text, from one offset to another, and what it becomes."""

    start: int
    end: int
    rank: int
    text: str


class Text:
    """Lines as Python counts them, and the offset of a line and column of the ast."""

    def __init__(self, text: str) -> None:
        """Splits the text at the ends of lines that Python knows, and keeps them as they are."""
        self.text = text
        self.lines = list(io.StringIO(text, newline=""))
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        """Of a place that the ast tells in bytes of UTF-8."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Where a node begins and ends, decorators left out."""
        end_line, end_column = _end(node)
        return self.offset(node.lineno, node.col_offset), self.offset(end_line, end_column)

    def line_end(self, offset: int) -> int:
        """Where the line ends that an offset is in, its line break included."""
        return next(end for end in self.starts[1:] if end > offset or end == self.starts[-1])

    def line_start(self, offset: int) -> int:
        """Where the line begins that an offset is in."""
        return max(start for start in self.starts if start <= offset)


class Source(Text):
    """A file as it is on disk, with its syntax tree."""

    def __init__(self, path: Path) -> None:
        """Reads and parses the file."""
        data = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode("utf-8" if encoding == "utf-8-sig" else encoding)
        self.mark = "\ufeff" if text.startswith("\ufeff") else ""
        super().__init__(text.removeprefix(self.mark))
        if any(line.endswith("\r") for line in self.lines):
            raise UnpatchableError("its file has line ends that no diff can tell")
        self.path = path
        self.tree = ast.parse(self.text)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.newline = "\r\n" if self.lines and self.lines[0].endswith("\r\n") else "\n"
        self.unit = next(self._indentations(), "\t" if "\n\t" in self.text else "    ")
        self.words = {word for node in ast.walk(self.tree) for word in identifiers(node)}
        self.spaced: dict[int, int] = {}
        self._codes = list(_codes(compile(self.text, str(path), "exec", dont_inherit=True)))

    # -- where things are ------------------------------------------------------------------------------------------

    def find(self, function: FunctionType) -> FunctionNode | None:
        """The node of a function, if the file still says what is running."""
        code = function.__code__
        if not any(_same(code, twin) for twin in self._codes):
            return None
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, FunctionNode)]
        if code.co_name != "<lambda>":
            named = [node for node in nodes if not isinstance(node, ast.Lambda) and node.name == code.co_name]
            found = [node for node in named if self.first(node).lineno == code.co_firstlineno]
            return found[0] if len(found) == 1 else None
        places = list(_places(code))
        lambdas = [node for node in nodes if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno]
        if len(lambdas) > 1:
            around = [node for node in lambdas if places and all(_covers(node.body, place) for place in places)]
            # Of lambdas inside one another the innermost that holds all instructions is theirs.
            lambdas = sorted(around, key=lambda node: self.span(node)[1] - self.span(node)[0])
        return lambdas[0] if lambdas else None

    def first(self, node: ast.AST) -> ast.expr | ast.stmt:
        """The node that begins the first line of a statement: its first decorator, or itself."""
        return next(iter(getattr(node, "decorator_list", ())), node)  # type: ignore[return-value]

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes that a node is in, from the inside out."""
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def statement(self, node: ast.AST) -> ast.stmt:
        """The innermost statement that holds a node, or is it."""
        return next(one for one in (node, *self.around(node)) if isinstance(one, ast.stmt))

    def top(self, node: ast.AST) -> ast.stmt:
        """The statement of the module that holds a node."""
        return [one for one in (node, *self.around(node)) if isinstance(one, ast.stmt)][-1]

    def siblings(self, statement: ast.stmt) -> list[ast.stmt]:
        """The block that a statement is in."""
        parent = self.parents[statement]
        blocks = (value for _, value in ast.iter_fields(parent) if isinstance(value, list))
        return next(block for block in blocks if any(one is statement for one in block))

    def indentation(self, statement: ast.AST) -> str | None:
        """What stands before a statement on its line; ``None`` if that is more than spaces."""
        start = self.offset(self.first(statement).lineno, 0)
        first = self.first(statement)
        before = self.text[start : self.span(first)[0]]
        before = before.rstrip().removesuffix("@") if first is not statement else before
        return before if not before.strip() else None

    def alone_to_the_right(self, statement: ast.stmt) -> bool:
        """Whether nothing but a comment follows on the line where a statement ends."""
        end = self.span(statement)[1]
        rest = self.text[end : self.line_end(end)].strip()
        return not rest or rest.startswith("#")

    def above(self, statement: ast.stmt) -> int:
        """Where to put lines before a statement: above the comments that belong to it."""
        row = self.first(statement).lineno - 1
        start = row
        while start and self.lines[start - 1].strip().startswith("#"):
            start -= 1
        return self.starts[start if start else row]  # the first comment of a file is about the file

    def fresh(self, name: str) -> str:
        """A name that the file does not use, from now on taken."""
        numbered = (f"{name}_{i}" if i > 1 else name for i in count(1))
        free = next(one for one in numbered if one not in self.words)
        self.words.add(free)
        return free

    # -- what is put there -----------------------------------------------------------------------------------------

    def block(self, code: str, indentation: str) -> str:
        """Lines of code as they stand in this file at some indentation."""
        code = tidy(code)
        strings = [one for one in ast.walk(ast.parse(code)) if isinstance(one, (ast.Constant, ast.JoinedStr))]
        inside = {row for one in strings for row in range(one.lineno + 1, (one.end_lineno or one.lineno) + 1)}
        lines = []
        for row, line in enumerate(code.splitlines(), 1):
            if row in inside:  # of a string, whose spaces count
                lines.append(line)
                continue
            bare = line.lstrip(" ")
            depth, rest = divmod(len(line) - len(bare), 4)
            lines.append(indentation + self.unit * depth + " " * rest + bare if bare else "")
        return "".join(line + self.newline for line in lines)

    def after_line(self, offset: int, text: str) -> Edit:
        """Puts whole lines below the line that an offset is in."""
        end = self.line_end(offset)
        if end == len(self.text) and not self.text.endswith("\n"):
            return Edit(end, end, AFTER, self.newline + text.removesuffix(self.newline))
        return Edit(end, end, AFTER, text)

    def above_statement(self, statement: ast.stmt, text: str) -> Edit:
        """Puts a definition above a statement, with the empty lines that it should have around."""
        place = self.above(statement)
        gap = 2 if isinstance(self.parents[statement], ast.Module) else 1
        row = self.starts.index(place)
        empty = next((i for i, line in enumerate(reversed(self.lines[:row])) if line.strip()), None)
        begins = empty is None or (gap == 1 and self.siblings(statement)[0] is statement)
        missing = 0 if begins or place in self.spaced else max(0, gap - (empty or 0))
        self.spaced.setdefault(place, missing)
        return Edit(place, place, BEFORE, self.newline * missing + text + self.newline * gap)

    def patched(self, edits: list[Edit]) -> str:
        """The text after some edits.

        Raises:
            UnpatchableError: if two of them touch the same text, or it is no Python any more.
        """
        edits = sorted(edits, key=lambda edit: edit[:3])
        if any(one.end > other.start for one, other in pairwise(edits)):
            raise UnpatchableError("two changes would touch the same line")
        pieces, end = [], 0
        for edit in edits:
            pieces += [self.text[end : edit.start], edit.text]
            end = edit.end
        new = "".join([*pieces, self.text[end:]])
        compile(new, str(self.path), "exec", dont_inherit=True)
        return new

    def diff(self, new: str) -> str:
        """A unified diff from the file to another text of it."""
        here = Path.cwd()
        inside = self.path.is_relative_to(here)
        name = (self.path.relative_to(here) if inside else self.path.relative_to(self.path.anchor)).as_posix()
        name += "\t" * any(map(str.isspace, name))  # ends a name with spaces in it, for patch and git
        before, after = (list(io.StringIO(self.mark + text, newline="")) for text in (self.text, new))
        lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def _indentations(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            body = getattr(node, "body", None)
            if isinstance(node, ast.stmt) and isinstance(body, list) and body and body[0].lineno > node.lineno:
                outer, inner = self.indentation(node), self.indentation(body[0])
                if inner and outer is not None and inner.startswith(outer) and inner != outer:
                    yield inner.removeprefix(outer)


def identifiers(node: ast.AST) -> Iterator[str]:
    """The names that a node itself mentions."""
    for _, value in ast.iter_fields(node):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and not isinstance(node, ast.Constant):
                yield from one.split(".")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _codes(one)


def _same(code: CodeType, twin: CodeType) -> bool:
    """Whether two code objects were compiled from the same text at the same place."""
    fields = ("co_name", "co_firstlineno", "co_code", "co_names", "co_varnames", "co_freevars")
    if any(getattr(code, field) != getattr(twin, field) for field in fields):
        return False
    consts = [[repr(x) for x in one.co_consts if isinstance(x, (int, float, str, bytes))] for one in (code, twin)]
    return consts[0] == consts[1] and list(code.co_positions()) == list(twin.co_positions())


def _covers(node: ast.expr, place: tuple[int, int, int, int]) -> bool:
    start, end = (place[0], place[2]), (place[1], place[3])
    return (node.lineno, node.col_offset) <= start and end <= _end(node)


def _end(node: ast.expr | ast.stmt) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


def _places(code: CodeType) -> Iterator[tuple[int, int, int, int]]:
    """Where the instructions of a function come from, those excepted that stand for no text."""
    for line, end_line, column, end_column in code.co_positions():
        if line is None or end_line is None or column is None or end_column is None:
            continue
        if (line, column) != (end_line, end_column):
            yield line, end_line, column, end_column
