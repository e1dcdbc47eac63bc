"""Draws of single parameters: as data that can be carried out and written down as a user would write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

Through = Literal["", "copy", "assign"]


@dataclass(frozen=True)
class Draw:
    """One call of a function of ``torch.nn.init``, or of one of our own, on a parameter or a part of it.

    ``path`` is that of the module, ``parameter`` the attribute, or nothing if the function takes the module. ``times``
    scales what was drawn. A part is one of ``chunks`` along the first dimension, each of which is drawn by itself, or
    ``rows``. ``through`` says that the values are drawn elsewhere and copied in (half precision) or assigned (a
    parametrization).
    """

    path: str
    parameter: str
    function: Callable[..., Any]
    arguments: tuple[tuple[str, Any], ...] = ()
    times: float | None = None
    chunks: int = 1
    rows: tuple[int, int] | None = None
    through: Through = ""

    def at(self, path: str, parameter: str) -> Draw:
        """The same elsewhere."""
        return replace(self, path=path, parameter=parameter)


def ordered(draws: Iterable[Draw]) -> list[list[Draw]]:
    """Those that differ in their path only, together; in the order in which the first of each came."""
    groups: dict[Draw, list[Draw]] = {}
    for draw in draws:
        groups.setdefault(draw.at("", draw.parameter), []).append(draw)
    return list(groups.values())


def carry_out(model: nn.Module, draws: Iterable[Draw]) -> None:
    """Draws, in the order in which `written` writes."""
    with torch.no_grad():
        for group in ordered(draws):
            for draw in group:
                _carry_out(model.get_submodule(draw.path), draw)


def _carry_out(module: nn.Module, draw: Draw) -> None:
    if not draw.parameter:
        draw.function(module, **dict(draw.arguments))
        return
    held: Tensor = getattr(module, draw.parameter)
    p = torch.empty_like(held, dtype=torch.float32) if draw.through else held
    if draw.rows is not None:
        p = p[slice(*draw.rows)]
    for part in p.chunk(draw.chunks) if draw.chunks > 1 else (p,):
        draw.function(part, **dict(draw.arguments))
        if draw.times is not None:
            part.mul_(draw.times)
    if draw.through == "copy":
        held.copy_(p)
    elif draw.through == "assign":
        setattr(module, draw.parameter, p)


def written(draws: Iterable[Draw]) -> str:
    """The statements, under ``torch.no_grad()``."""
    lines = ["with torch.no_grad():"]
    for group in ordered(draws):
        if len(group) == 1:
            lines += [f"    {line}" for line in _statements(named(group[0].path), group[0])]
            continue
        paths = ", ".join(f'"{draw.path}"' for draw in group)
        lines.append(f"    for path in ({paths}):")
        if len(inner := _statements("layer", group[0])) > 1:
            lines += ["        layer = model.get_submodule(path)", *(f"        {line}" for line in inner)]
        else:
            lines.append(f"        {_statements('model.get_submodule(path)', group[0])[0]}")
    return "\n".join(lines)


def named(path: str) -> str:
    """How a user writes the module at a path."""
    if not path:
        return "model"
    if all(part.isidentifier() for part in path.split(".")):
        return f"model.{path}"
    return f'model.get_submodule("{path}")'


def attribute(layer: str, name: str) -> str:
    """How a user writes one of its parameters; those of lists have a number."""
    return f"{layer}[{name}]" if name.isdigit() else f"{layer}.{name}"


def listed(values: Sequence[Any]) -> str:
    """A tuple as Python has it, with double quotes."""
    inner = ", ".join(listed(value) if isinstance(value, tuple) else _value(value) for value in values)
    return f"({inner},)" if len(values) == 1 else f"({inner})"


def _statements(layer: str, draw: Draw) -> list[str]:
    """What to write for one draw."""
    held = attribute(layer, draw.parameter) if draw.parameter else layer
    p = "values" if draw.through else held
    if draw.rows is not None:
        p += f"[{draw.rows[0]}:{draw.rows[1]}]"
    lines = [f"values = torch.empty_like({held}, dtype=torch.float32)"] if draw.through else []
    times = "" if draw.times is None else f".mul_({draw.times})"
    arguments = "".join(f", {name}={_value(value)}" for name, value in draw.arguments)
    if draw.chunks > 1:
        lines += [f"for gate in {p}.chunk({draw.chunks}):", f"    {_function(draw)}(gate{arguments}){times}"]
    else:
        lines.append(f"{_function(draw)}({p}{arguments}){times}")
    if draw.through == "copy":
        lines.append(f"{held}.copy_(values)")
    elif draw.through == "assign":
        lines.append(f"{held} = values")
    return lines


def _function(draw: Draw) -> str:
    name = draw.function.__name__
    return f"nn.init.{name}" if getattr(nn.init, name, None) is draw.function else name


def _value(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def own_functions(draws: Iterable[Draw]) -> tuple[Callable[..., Any], ...]:
    """Functions that torch does not have, for `Code.classes`."""
    functions = dict.fromkeys(draw.function for draw in draws)
    return tuple(f for f in functions if getattr(nn.init, f.__name__, None) is not f)
