"""Where the lines of a cure go: into the function that builds a part, or around the step of the optimizer."""

from __future__ import annotations

import ast
import io
import tokenize

from gradiometer.remedies import scopes
from gradiometer.remedies.names import bound, needed
from gradiometer.remedies.sources import AFTER, BEFORE, Edit, FunctionNode, Source, UnpatchableError


def in_function(source: Source, node: FunctionNode, variable: str, lines: str, needs: set[str]) -> list[Edit]:
    """Lines on ``variable`` before each ``return`` of a function that builds it.

    Raises:
        UnpatchableError: if the function has no return of its own value, or calls itself.
    """
    assert not isinstance(node, ast.Lambda)
    inside = list(scopes.own(node))
    returns = [one for one in inside if isinstance(one, ast.Return)]
    values = [one.value for one in returns if one.value is not None]
    nothing = any(isinstance(value, ast.Constant) for value in values) or len(values) < len(returns) or not returns
    if isinstance(node, ast.AsyncFunctionDef) or _yields(inside) or nothing:
        raise UnpatchableError(f"`{node.name}` does not return it in each of its returns")
    method = isinstance(source.parents[node], ast.ClassDef)
    if node.name in {one for part in node.body for one in scopes.mentioned(part, attributes=method)}:
        raise UnpatchableError(f"`{node.name}` calls itself")
    free = scopes.free_to_bind({variable} | bound(lines), node) and not scopes.hidden(needs, node, source)
    if not free or any(source.indentation(one) is None or not source.alone_to_the_right(one) for one in returns):
        name, helper = _helper(source, node, variable, lines)
        return [helper, *(edit for one in returns for edit in _called(source, name, *_value(source, one)))]
    edits: list[Edit] = []
    for one in returns:
        indentation, (start, end) = source.indentation(one) or "", source.span(one)
        if isinstance(one.value, ast.Name) and one.value.id == variable:
            place = source.line_start(start)
            edits.append(Edit(place, place, BEFORE, source.block(lines, indentation)))
            continue
        after = start + len("return")
        edits.append(Edit(start, after, BEFORE, f"{variable} =" + " " * (not source.text[after].isspace())))
        edits.append(source.after_line(end, source.block(f"{lines}\nreturn {variable}", indentation)))
    return edits


def on_lambda(source: Source, node: FunctionNode, variable: str, lines: str, needs: set[str]) -> list[Edit]:
    """A function in place of a lambda that builds ``variable``, above the statement that holds the lambda."""
    assert isinstance(node, ast.Lambda)
    _whole(source, node)
    start, end = source.span(node)
    colon = _colon(source, node)
    statement = source.statement(node)
    body = _assigned(source.text[colon + 1 : end].strip(), node)
    free = scopes.free_to_bind({variable} | bound(lines), node) and not scopes.hidden(needs, node, source)
    indentation = source.indentation(statement)
    if body is None or indentation is None or not free or not _can_stand_above(source, node, statement):
        name, helper = _helper(source, node, variable, lines)
        return [helper, *_called(source, name, *_trimmed(source, colon + 1, end))]
    name = source.fresh(f"cured_{variable}")
    given = source.text[start + len("lambda") : colon].strip()
    rows = (f"{indentation}def {name}({given}):", f"{indentation}{source.unit}{variable} = {body}")
    text = "".join(row + source.newline for row in rows) + source.block(
        f"{lines}\nreturn {variable}", indentation + source.unit
    )
    return [source.above_statement(statement, text), Edit(start, end, BEFORE, name)]


def on_loss(source: Source, node: FunctionNode, lines: str) -> list[Edit]:
    """Lines on the loss function: around a lambda, or as a decorator of a function.

    Raises:
        UnpatchableError: if it is a method.
    """
    if isinstance(node, ast.Lambda):
        _whole(source, node)
        name, helper = _helper(source, node, "loss", lines)
        return [helper, *_called(source, name, *source.span(node))]
    indentation = source.indentation(node)
    if isinstance(source.parents[node], ast.ClassDef) or indentation is None:
        raise UnpatchableError(f"`{node.name}` is a method")
    name, helper = _helper(source, node, "loss", lines)
    place = source.line_start(source.span(source.first(node))[0])
    return [helper, Edit(place, place, BEFORE, f"{indentation}@{name}{source.newline}")]


def in_loop(source: Source, node: FunctionNode, before: str, after: str, needs: set[str]) -> list[Edit]:
    """Lines before and after ``optimizer.step()`` in a training step.

    Raises:
        UnpatchableError: if there is none in a line of its own, or a name of the lines means something else there.
    """
    names = scopes.parameters(node)
    if isinstance(node, ast.Lambda) or len(names) < 2:
        raise UnpatchableError("no function `step(model, optimizer, loss, batch)`")
    inside = list(scopes.own(node))
    simple = [one for one in inside if isinstance(one, (ast.Expr, ast.Assign))]
    found = [(one, call) for one in simple if (call := _steps(one, names[1])) is not None]
    if not found:
        raise UnpatchableError(f"`{node.name}` has no line `{names[1]}.step()`")
    if scopes.hidden(needs, node, source):
        raise UnpatchableError(f"`{node.name}` uses a name of theirs for something else")
    mine = bound(f"{before}\n{after}")
    there = {"model": names[0], "optimizer": names[1]}
    there |= {name: source.fresh(f"cured_{name}") for name in sorted(mine & scopes.mentioned(node))}
    if "loss" in needed(f"{before}\n{after}"):
        there["loss"] = _loss_value(inside)
    before, after = scopes.renamed(before, there), scopes.renamed(after, there)
    # What a scaler steps has scaled gradients, unless they were unscaled; it may be done only once.
    unscaled = any(isinstance(one, ast.Attribute) and one.attr == "unscale_" for one in inside)
    edits: list[Edit] = []
    for statement, call in found:
        indentation = source.indentation(statement)
        if indentation is None or not source.alone_to_the_right(statement):
            raise UnpatchableError(f"`{ast.unparse(call)}` is not in a line of its own")
        (start, end), above = source.span(statement), before
        if before and call.args and not unscaled and isinstance(call.func, ast.Attribute):
            above = f"{ast.unparse(call.func.value)}.unscale_({names[1]})\n{before}"
        if above:
            place = source.line_start(start)
            edits.append(Edit(place, place, BEFORE, source.block(above, indentation)))
        if after:
            edits.append(source.after_line(end, source.block(after, indentation)))
    return edits


def _steps(node: ast.Expr | ast.Assign, optimizer: str) -> ast.Call | None:
    """The call ``optimizer.step()`` or ``scaler.step(optimizer)`` that a statement is, or whose value it keeps."""
    call = node.value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr != "step":
        return None
    owner = call.func.value
    if isinstance(owner, ast.Name) and owner.id == optimizer:
        if call.args or call.keywords:
            raise UnpatchableError(f"`{ast.unparse(call)}` takes the gradients itself")
        return call
    given = [one.id for one in call.args if isinstance(one, ast.Name)]
    return call if given == [optimizer] and len(call.args) == 1 else None


def _loss_value(inside: list[ast.AST]) -> str:
    """The variable whose ``backward`` is called."""
    for one in inside:
        if isinstance(one, ast.Attribute) and one.attr == "backward" and isinstance(one.value, ast.Name):
            return one.value.id
    raise UnpatchableError("they use the loss, which has no name there")


def _helper(source: Source, node: FunctionNode, variable: str, lines: str) -> tuple[str, Edit]:
    """A function of the module that changes what it is given, and its name: names in it meet no others."""
    name = source.fresh(f"cured_{variable}")
    inner = source.block(f"{lines}\nreturn {variable}", source.unit)
    return name, source.above_statement(source.top(node), f"def {name}({variable}):{source.newline}{inner}")


def _called(source: Source, name: str, start: int, end: int) -> list[Edit]:
    """A call of a function around a piece of text."""
    space = " " * (start > 0 and (source.text[start - 1].isalnum() or source.text[start - 1] == "_"))
    return [Edit(start, start, BEFORE, f"{space}{name}("), Edit(end, end, AFTER, ")")]


def _value(source: Source, node: ast.Return) -> tuple[int, int]:
    """Where the value of a return begins and ends, its parentheses included."""
    start, end = source.span(node)
    return _trimmed(source, start + len("return"), end)


def _trimmed(source: Source, start: int, end: int) -> tuple[int, int]:
    return end - len(source.text[start:end].lstrip()), end


def _yields(inside: list[ast.AST]) -> bool:
    return any(isinstance(one, (ast.Yield, ast.YieldFrom)) for one in inside)


def _whole(source: Source, node: ast.Lambda) -> None:
    """Refuses a lambda that cannot be changed at its place."""
    if any(isinstance(one, ast.JoinedStr) for one in source.around(node)) or _yields(list(scopes.own(node))):
        raise UnpatchableError("it is a lambda of an unusual form")
    statement = source.statement(node)
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if {one.id for one in targets if isinstance(one, ast.Name)} & scopes.mentioned(node.body):
            raise UnpatchableError("it is a lambda that calls itself")


def _can_stand_above(source: Source, node: ast.Lambda, statement: ast.stmt) -> bool:
    """Whether a function above a statement sees what a lambda in the statement sees."""
    between = []
    for one in source.around(node):
        if one is statement:
            break
        between.append(one)
    scoped = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.match_case)
    start = source.span(statement)[0]
    return not (
        any(isinstance(one, scoped) for one in between)
        or isinstance(statement, ast.While)
        or source.text.startswith("elif", start)
        or any(isinstance(one, ast.NamedExpr) for one in ast.walk(statement))
    )


def _colon(source: Source, node: ast.Lambda) -> int:
    """Where the colon of a lambda is: others may stand in its default values."""
    start, end = source.span(node)
    text = source.text[start:end]
    depth = lambdas = 0
    # In parentheses, so that line breaks are none of Python's; lines are told as the text has them.
    rows = [0]
    for line in io.StringIO(text, newline=""):
        rows.append(rows[-1] + len(line))
    for token in tokenize.generate_tokens(io.StringIO(f"({text})", newline="").readline):
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        if depth == 1 and token.type == tokenize.NAME and token.string == "lambda":
            lambdas += 1
        elif depth == 1 and token.type == tokenize.OP and token.string == ":":
            lambdas -= 1
            if not lambdas:
                row, column = token.start
                return start + rows[row - 1] + column - (row == 1)
    raise UnpatchableError("it is a lambda of an unusual form")


def _assigned(body: str, node: ast.Lambda) -> str | None:
    """The body of a lambda as it can stand behind ``=``; ``None`` if it cannot."""
    for text in (body, f"({body})"):
        try:
            parsed = ast.parse(f"x = {text}").body
        except SyntaxError:
            continue
        if len(parsed) == 1 and isinstance(parsed[0], ast.Assign) and ast.dump(parsed[0].value) == ast.dump(node.body):
            return text
    return None
