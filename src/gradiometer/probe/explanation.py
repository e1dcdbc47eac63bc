"""What in the inputs of an operation made it give NaN or Inf, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_SAVED = "_saved_"

# What is wrong with the inputs of an operation that has a domain, in the order in which it is asked.
_ZERO = "an argument is exactly zero"
_NEGATIVE = "an argument is negative"
_DOMAINS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("log", "log2", "log10", "rsqrt", "logit"), (_ZERO, _NEGATIVE)),
    "sqrt": (_NEGATIVE, _ZERO),
    "reciprocal": (_ZERO,),
    "pow": (_ZERO, _NEGATIVE),
    "hypot": (_ZERO,),
    "norm": (_ZERO,),
    "std": (_ZERO,),
}
_DIVISIONS = frozenset(("div", "true_divide", "floor_divide", "fmod", "remainder"))
_SOFTMAX = ("softmax", "scaled_dot_product", "attention", "logsumexp")
RISKY = frozenset(
    (*_DOMAINS, *_DIVISIONS, "acos", "asin", "atanh", "acosh", "linalg_norm", "vector_norm", "hypot", "atan2")
)
"""Operations whose derivative is not finite everywhere: of these the inputs are looked at while they are at hand."""


def explain(
    operation: str, inputs: Sequence[Any], *, backward: bool = False, form: torch.dtype | None = None
) -> tuple[str, dict[str, Any]]:
    """In words and numbers, what in its inputs made an operation, or its derivative, NaN or Inf.

    Args:
        operation: its name.
        inputs: its arguments, or what it has kept of them for the backward pass; plain numbers count in a denominator.
        backward: whether it is the derivative that is not finite.
        form: the format of what it gave.

    Returns:
        The reason, and the facts: largest magnitude, numbers of zeros, of negative elements and of infinities, the
        format and where it ends.
    """
    given = [x.detach() for x in numbers(inputs) if x.numel()]
    facts: dict[str, Any] = {}
    kind = form or min((x.dtype for x in given), key=lambda t: torch.finfo(t).max, default=None)
    if kind is not None and (given or form is not None):
        limit = torch.finfo(kind).max
        facts |= {"format": str(kind).removeprefix("torch."), "format_largest": limit}
    if given:
        facts["largest"] = max(largest(x) for x in given)
    doubted = [d.detach() for d in numbers(inputs[1:])] if operation in _DIVISIONS else given
    facts["zeros"] = sum(int((x == 0).sum()) for x in doubted)
    if operation in _DIVISIONS:
        facts["zeros"] += sum(1 for d in inputs[1:2] if not isinstance(d, Tensor) and d == 0)
    facts["negative"] = sum(int((x < 0).sum()) for x in given if not x.is_complex())
    return _reason(operation, given, facts, backward), facts


def _reason(operation: str, given: Sequence[Tensor], facts: dict[str, Any], backward: bool) -> str:
    """The first of the usual reasons that fits."""
    zeros, where = facts["zeros"], "its derivative has" if backward else "it has"
    rows = whole_rows_masked(operation, given)
    if rows is not None:
        facts |= rows[1]
        return rows[0]
    infinite = sum(int((~torch.isfinite(x)).sum()) for x in given)
    if infinite:
        facts["nonfinite"] = infinite
        return f"an argument holds {infinite:,} Inf or NaN (0 times Inf, and Inf - Inf, are NaN)"
    if operation in _DIVISIONS and zeros:
        return f"{zeros:,} zero{'s' if zeros > 1 else ''} in the denominator"
    for problem in _DOMAINS.get(operation, ()):
        number = zeros if problem is _ZERO else facts["negative"]
        if number:
            return f"{problem} ({number:,} of them), and {where} no finite value there"
    limit, top = facts.get("format_largest", math.inf), facts.get("largest", 0.0)
    if limit < 1e6 or top > math.sqrt(limit) or operation.startswith(("exp", "cosh", "sinh")):
        return f"values up to {top:.3g} overflow {facts['format']}, which ends at {limit:.3g}"
    if zeros and backward:
        return f"{_ZERO} ({zeros:,} of them), and {where} no finite value there"
    if not given:
        return "its derivative is not finite there" if backward else "it gave NaN or Inf"
    return f"its {'derivative' if backward else 'value'} at inputs up to {top:.3g} is not finite"


def whole_rows_masked(operation: str, given: Sequence[Tensor]) -> tuple[str, dict[str, Any]] | None:
    """The reason and the number of rows, if a softmax gets rows of nothing but minus infinity."""
    if not any(word in operation for word in _SOFTMAX):
        return None
    rows = sum(int(_is_off(x).all(-1).sum()) for x in given if x.dim())
    if not rows:
        return None
    said = f"{rows:,} row{'s are' if rows > 1 else ' is'} masked as a whole: nothing but -inf is left to choose from"
    return said, {"masked_rows": rows}


def _is_off(x: Tensor) -> Tensor:
    return torch.isneginf(x) if not x.is_complex() else torch.zeros_like(x, dtype=torch.bool)


def saved_tensors(node: Any) -> list[Tensor]:
    """What a node of autograd's graph has kept of its inputs, in their order; of its results if of no input."""
    values: dict[str, Any] = {}
    for name in dir(node):
        if name.startswith(_SAVED):
            try:
                values[name.removeprefix(_SAVED)] = getattr(node, name)
            except RuntimeError:  # given up already
                continue
    order = [n for n in ("self", "other") if n in values] + sorted(n for n in values if n not in ("self", "other"))
    kept = {name: numbers([values[name]]) for name in order}
    inputs = [x for name, xs in kept.items() if not name.startswith("result") for x in xs]
    results = [x for name, xs in kept.items() if name.startswith("result") for x in xs]
    own: tuple[Any, ...] = ()
    if not values:  # a function of the user's
        try:
            own = tuple(getattr(node, "saved_tensors", ()))
        except RuntimeError:
            own = ()
    return inputs or results or numbers(own)


def at_the_edge(operation: str, kept: Sequence[Tensor]) -> bool:
    """Whether a log or a division got zeros, or a log negative numbers."""
    if operation in ("log", "log2", "log10", "rsqrt"):
        return any(bool((x <= 0).any()) for x in kept)
    if operation in _DIVISIONS or operation == "reciprocal":
        return any(bool((x == 0).any()) for x in kept)
    return False


def largest(x: Tensor) -> float:
    """Largest magnitude among the finite elements."""
    x = x.detach().abs()
    x = x[torch.isfinite(x)]
    return float(x.max()) if x.numel() else 0.0


def nonfinite(x: Tensor) -> bool:
    """Whether some element is NaN or infinite."""
    return bool(x.numel()) and not bool(torch.isfinite(x.detach()).all())


def is_mask(x: Tensor) -> bool:
    """Whether what is not finite is minus infinity alone, as in a mask before a softmax."""
    x = x.detach()
    if x.is_complex() or not bool(torch.isneginf(x).any()):
        return False
    return not bool(torch.isnan(x).any()) and not bool(torch.isposinf(x).any())


def count(x: Tensor) -> str:
    """Such as ``3 NaN and 1 Inf``."""
    nan, inf = int(torch.isnan(x).sum()), int(torch.isinf(x).sum())
    return " and ".join(f"{n:,} {what}" for n, what in ((nan, "NaN"), (inf, "Inf")) if n)


def numbers(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among some arguments, also in lists and dictionaries, that hold real or complex numbers."""
    return [x for x in _flat(values) if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        elif isinstance(value, dict):
            yield from _flat(value.values())
        else:
            yield value
