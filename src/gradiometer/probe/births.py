"""Where the first NaN or Inf of a step came from, and what in the finite inputs made it."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradiometer.probe.graph import ACCUMULATE
from gradiometer.probe.nodes import of_node
from gradiometer.probe.observation import Observation
from gradiometer.records import Birth

_MASKING = frozenset(("masked_fill", "where", "add", "sub", "tril", "triu"))
_SAVED = "_saved_"

# What is wrong with the inputs of an operation that has a domain, in the order in which it is asked.
_ZERO = "an argument is exactly zero"
_NEGATIVE = "an argument is negative"
_DOMAINS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("log", "log2", "log10", "rsqrt", "logit"), (_ZERO, _NEGATIVE)),
    "sqrt": (_NEGATIVE, _ZERO),
    "reciprocal": (_ZERO,),
    "pow": (_ZERO, _NEGATIVE),
    "norm": (_ZERO,),
    "std": (_ZERO,),
}
RISKY = frozenset((*_DOMAINS, "div", "true_divide", "acos", "asin", "atanh", "acosh", "linalg_norm", "vector_norm"))
"""Operations whose derivative is not finite everywhere: of these the inputs are looked at while they are at hand."""
_DIVISIONS = frozenset(("div", "true_divide", "floor_divide", "fmod", "remainder"))
_SOFTMAX = ("softmax", "scaled_dot_product", "attention")


class Births:
    """Looks at what is not finite, in the order in which it comes about."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.root: Any = None
        """The node of the loss, while the backward pass runs."""
        self._bad_loss: bool | None = None
        self._forward: list[tuple[Observation, Birth]] = []
        self._loss: Birth | None = None
        self._handles: list[Any] = []
        self._backward: tuple[Any, Birth] | None = None

    def look_forward(self, seen: Observation, inputs: Sequence[Any], inputs_of_network: Container[int] = ()) -> None:
        """Judges one operation of the forward pass right after it ran."""
        bad = float(seen.activation.nonfinite)
        if not bad or (seen.operation.name in _MASKING and bad == float(seen.activation.masked)):
            return
        given = numbers(inputs)
        sick = next((x for x in given if _nonfinite(x) and not _is_mask(x, seen)), None)
        if sick is None:
            birth = Birth("forward", "", seen.operation.name, *explain(seen.operation.name, given), seen.model)
        elif sick.is_leaf and sick.requires_grad and id(sick) not in inputs_of_network:
            birth = Birth("forward", "", "parameter", f"its weight holds {_count(sick)}", {}, seen.model)
        elif sick.grad_fn is None or id(sick) in inputs_of_network:
            birth = Birth("forward", "input", "input", f"the batch holds {_count(sick)}", {}, seen.model)
        elif self._forward:
            return  # it only hands on what another one made
        else:
            made = of_node(sick.grad_fn.name(), has_parameter=False).name
            birth = Birth("forward", "", made, f"what {made} gave holds {_count(sick)}", {}, seen.model)
        self._forward.append((seen, birth))

    def look_at_loss(self, loss: Tensor, known: Container[object]) -> None:
        """Judges what backward is about to be called on; ``known`` are the nodes of the network.

        What the nodes behind the network have kept is looked at when the backward pass has used it, and not before: a
        checkpoint gives its tensors out but once.
        """
        self.root = loss.grad_fn
        self._bad_loss = not math.isfinite(float(loss.detach().abs()))
        if self._bad_loss and not self._forward:
            for node in _nodes_above(known, loss):
                self._handles.append(node.register_hook(partial(self._judge_loss, node)))

    def _judge_loss(self, node: Any, *_: Any) -> None:
        with contextlib.suppress(Exception), torch._C.DisableTorchFunction(), torch.no_grad():
            kept = saved_tensors(node)
            name = of_node(node.name(), has_parameter=False).name
            sound = [x for x in kept if not _nonfinite(x)]
            # The last that is found is nearest to the network, and so the first that was made.
            if kept and (len(sound) < len(kept) or _at_the_edge(name, kept)):
                self._loss = Birth("forward", f"loss:{name}", name, *explain(name, sound), "loss")

    def backward_ended(self) -> None:
        """Takes the hooks off the nodes of the loss."""
        self.root = None
        while self._handles:
            self._handles.pop().remove()

    def look_backward(self, place: Any, operation: str, saved: Sequence[Tensor], entering: Sequence[Any]) -> None:
        """Notes that gradients that are not finite left an operation which finite ones had entered."""
        if self._backward is not None:
            return
        reason, inputs = explain(operation, saved, backward=True)
        largest = max((_largest(g) for g in entering if isinstance(g, Tensor)), default=0.0)
        self._backward = (place, Birth("backward", "", operation, reason, {**inputs, "largest_gradient": largest}))

    def look_at_arrival(self, seen: Observation, nodes: Mapping[Any, Observation]) -> None:
        """Notes that a gradient which is not finite has come to a site: the first that does tells where it was made.

        ``nodes`` maps nodes of the graph to the sites they are at. It was made in one of the operations that used the
        site's output, since every site nearer to the loss had a finite gradient.
        """
        if self._backward is not None or self._bad_loss:
            return
        maker = _user_of(seen, nodes, self.root)
        if isinstance(maker, Observation):
            name = maker.operation.name
            reason, inputs = maker.domain or explain(name, (), backward=True)
            self._backward = (maker, Birth("backward", "", name, reason, inputs, maker.model))
        else:
            reason, inputs = explain(maker, (), backward=True)
            self._backward = (f"loss:{maker}", Birth("backward", "", maker, reason, inputs, "loss"))

    @property
    def any(self) -> bool:
        """Whether anything has been found."""
        return bool(self._forward) or self._loss is not None or self._backward is not None

    @property
    def born_backward(self) -> bool:
        """Whether the first gradient that is not finite has been seen."""
        return self._backward is not None

    def found(
        self, names: Mapping[Observation, str], locate: Callable[[Any], tuple[str, str]] | None = None
    ) -> Birth | None:
        """The first birth that made the loss or a gradient NaN or Inf, by the name of its site.

        ``locate`` gives model and site of a place that is neither an observation nor a name.
        """
        if self._bad_loss is not False and self._forward:
            seen, birth = self._forward[0]
            return birth if birth.site else replace(birth, site=names.get(seen, seen.base))
        if self._bad_loss or self._backward is None:
            return self._loss
        place, birth = self._backward
        if isinstance(place, Observation):
            return replace(birth, site=names.get(place, place.base))
        if isinstance(place, str) or locate is None:
            return replace(birth, site=str(place))
        model, site = locate(place)
        return replace(birth, site=site, model=model)


def _user_of(seen: Observation, nodes: Mapping[Any, Observation], root: Any) -> Observation | str:
    """The site, or the name of the operation, nearest above a site in the graph below ``root``."""
    above: dict[Any, list[Any]] = {}
    stack, met = [root], set()
    while stack:
        node = stack.pop()
        if node is None or node in met:
            continue
        met.add(node)
        for target, _ in node.next_functions:
            above.setdefault(target, []).append(node)
            stack.append(target)
    queue = deque(node for node, at in nodes.items() if at is seen)
    risky: list[Observation] = []
    plain: list[Observation | str] = []
    while queue:
        for node in above.get(queue.popleft(), ()):
            at = nodes.get(node)
            operation = of_node(node.name(), has_parameter=False)
            if at is not None:
                (risky if at.domain is not None else plain).append(at)
            elif operation.cause == "reshaping":
                queue.append(node)
            else:
                plain.append(operation.name)
    return next(iter((*risky, *plain)), "loss")


def saved_tensors(node: Any) -> list[Tensor]:
    """What a node of autograd's graph has kept of its inputs and results."""
    out = []
    for name in dir(node):
        if name.startswith(_SAVED):
            try:
                value = getattr(node, name)
            except RuntimeError:  # given up already
                continue
            out += [v for v in _flat([value]) if isinstance(v, Tensor) and v.is_floating_point()]
    return out


def explain(operation: str, inputs: Sequence[Tensor], *, backward: bool = False) -> tuple[str, dict[str, Any]]:
    """In words and numbers, what in finite inputs made an operation give NaN or Inf."""
    facts: dict[str, Any] = {}
    given = [x.detach() for x in inputs if x.numel()]
    if not given:
        return ("its derivative is not finite there" if backward else "it gave NaN or Inf"), facts
    facts["largest"] = max(_largest(x) for x in given)
    form = min((x.dtype for x in given), key=lambda t: torch.finfo(t).max)
    limit = torch.finfo(form).max
    facts |= {"format": str(form).removeprefix("torch."), "format_largest": limit}
    doubted = given[1:] if operation in _DIVISIONS else given  # a denominator that is a number is none of these
    facts["zeros"] = sum(int((x == 0).sum()) for x in doubted)
    facts["negative"] = sum(int((x < 0).sum()) for x in doubted if not x.is_complex())
    if operation in _DIVISIONS and facts["zeros"]:
        return f"{facts['zeros']:,} zeros in the denominator", facts
    if any(word in operation for word in _SOFTMAX):
        rows = sum(int(torch.isneginf(x).all(-1).sum()) for x in given if x.dim())
        if rows:
            facts["masked_rows"] = rows
            return f"{rows:,} rows are masked as a whole: a softmax over nothing but -inf is 0/0", facts
    for problem in _DOMAINS.get(operation, ()):
        count = facts["zeros" if problem is _ZERO else "negative"]
        if count:
            where = "its derivative has no finite value there" if backward else "it has no finite value there"
            return f"{problem} ({count:,} of them), and {where}", facts
    if limit < 1e6 or facts["largest"] > math.sqrt(limit) or operation.startswith("exp"):
        return f"values up to {facts['largest']:.3g} overflow {facts['format']}, which ends at {limit:.3g}", facts
    if facts["zeros"] and backward:
        return f"{_ZERO} ({facts['zeros']:,} of them), and its derivative has no finite value there", facts
    return f"its {'derivative' if backward else 'value'} at inputs up to {facts['largest']:.3g} is not finite", facts


def _nodes_above(known: Container[object], loss: Tensor, limit: int = 64) -> list[Any]:
    """The nodes behind the network's outputs, the loss first."""
    found: list[Any] = []
    queue, seen = deque([loss.grad_fn]), set()
    while queue and len(found) < limit:
        node = queue.popleft()
        if node is None or node in seen or node in known or node.name() == ACCUMULATE:
            continue
        seen.add(node)
        found.append(node)
        queue.extend(target for target, _ in node.next_functions)
    return found


def _at_the_edge(operation: str, kept: Sequence[Tensor]) -> bool:
    if operation in ("log", "log2", "log10", "rsqrt"):
        return any(bool((x <= 0).any()) for x in kept)
    if operation in _DIVISIONS or operation == "reciprocal":
        return any(bool((x == 0).any()) for x in kept)
    return False


def numbers(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among some arguments that hold real or complex numbers."""
    return [x for x in _flat(values) if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]


def _largest(x: Tensor) -> float:
    x = x.detach().abs()
    x = x[torch.isfinite(x)]
    return float(x.max()) if x.numel() else 0.0


def _nonfinite(x: Tensor) -> bool:
    return bool(x.numel()) and not bool(torch.isfinite(x).all())


def _is_mask(x: Tensor, seen: Observation) -> bool:
    """Minus infinity alone, in what a softmax gets: it is there on purpose."""
    softmax = any(word in seen.operation.name for word in _SOFTMAX) or seen.operation.name in _MASKING
    return softmax and not bool(torch.isnan(x).any()) and not bool(torch.isposinf(x).any())


def _count(x: Tensor) -> str:
    nan, inf = int(torch.isnan(x).sum()), int(torch.isinf(x).sum())
    return " and ".join(f"{n:,} {what}" for n, what in ((nan, "NaN"), (inf, "Inf")) if n)


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        elif isinstance(value, dict):
            yield from _flat(value.values())
        else:
            yield value
