"""Where the first NaN or Inf of a step came from, and what in the finite inputs made it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.probe.explanation import (
    at_the_edge,
    count,
    explain,
    is_mask,
    largest,
    nonfinite,
    numbers,
    saved_tensors,
    whole_rows_masked,
)
from gradiometer.probe.graph import ACCUMULATE, node_of
from gradiometer.probe.nodes import of_node
from gradiometer.probe.observation import Observation
from gradiometer.records import Birth

_MASKS = ("masked_fill", "where", "tril", "triu", "pad", "constant_pad", "full", "scatter", "index_fill")
"""Operations that put minus infinity where it is wanted."""

_BROUGHT_DOWN = frozenset("logsumexp cross_entropy nll_loss log_softmax softmax softmin".split())
"""Operations that a mask over a whole row, or over the target, brings down."""


class Births:
    """Looks at what is not finite, in the order in which it comes about."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.root: Any = None
        """The node of the loss, while the backward pass runs."""
        self._bad_loss: bool | None = None
        self._forward: list[tuple[Observation | str, Birth]] = []
        self._masks: list[tuple[Observation | str, Birth]] = []
        self._unseen: dict[int, tuple[Tensor, str, Birth]] = {}
        self._loss: Birth | None = None
        self._handles: list[Any] = []
        self._backward: tuple[Any, Birth] | None = None

    # -- forward ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def look_forward(
        self,
        seen: Observation,
        y: Tensor,
        inputs: Sequence[Any],
        module: nn.Module | None = None,
        of_network: Container[int] = (),
    ) -> None:
        """Judges an operation whose output ``y`` is not finite, right after it ran.

        ``inputs`` are its arguments, ``module`` its module, ``of_network`` holds the ``id`` of the network's inputs.
        """
        if id(y) in self._unseen:  # a module that ends with a conversion
            _, site, birth = self._unseen[id(y)]
            self._forward.append((site, birth))
            return
        name = seen.operation.name
        given = [x for x in numbers(inputs) if x is not y]  # what was changed in place is not what it was
        parts = list(module.named_parameters()) + list(module.named_buffers()) if module is not None else []
        held = next(((n, p) for n, p in parts if p.is_floating_point() and nonfinite(p)), None)
        inputs = (*inputs, *(p for _, p in parts))
        sick = next((x for x in given if nonfinite(x) and not is_mask(x)), None)
        if held is None and isinstance(sick, nn.Parameter):
            held = ("weight", sick)
        if held is not None:
            what, bad = held
            kind = "parameter" if isinstance(bad, nn.Parameter) else "buffer"
            self._forward.append((seen, Birth("forward", "", kind, f"its {what} holds {count(bad)}", {}, seen.model)))
        elif sick is not None:
            self._handed_on(seen, sick, of_network)
        elif any(is_mask(x) for x in given):
            born = bool(torch.isnan(y).any()) or (name in _BROUGHT_DOWN and (name != "log_softmax"))
            if born:
                rows = whole_rows_masked(name, given)
                self._forward.append(
                    (seen, Birth("forward", "", name, *(rows or self._facts(seen, inputs, y)), seen.model))
                )
        else:
            found = (seen, Birth("forward", "", name, *self._facts(seen, inputs, y), seen.model))
            (self._masks if name.startswith(_MASKS) and is_mask(y) else self._forward).append(found)

    @staticmethod
    def _facts(seen: Observation, inputs: Sequence[Any], y: Tensor) -> tuple[str, dict[str, Any]]:
        if seen.domain is not None and any(x is y for x in numbers(inputs)):
            return seen.domain
        return explain(seen.operation.name, inputs, form=y.dtype)

    def _handed_on(self, seen: Observation, sick: Tensor, of_network: Container[int]) -> None:
        """What came in was not finite: the batch, or what an operation made that is no site."""
        if id(sick) in self._unseen:
            _, site, birth = self._unseen[id(sick)]
            self._forward.append((site, birth))
        elif self._forward:
            return  # it only hands on what another one made
        elif (maker := node_of(sick)) is None or id(sick) in of_network:
            what = "the batch holds" if id(sick) in of_network or seen.model != "loss" else "the targets hold"
            self._forward.append((seen, Birth("forward", "input", "input", f"{what} {count(sick)}")))
        else:
            name = of_node(maker.name(), has_parameter=False).name
            self._forward.append(
                (seen, Birth("forward", "", name, f"what {name} gave holds {count(sick)}", {}, seen.model))
            )

    @torch.no_grad()
    def look_at_unseen(self, model: str, site: str, operation: str, y: Tensor, inputs: Sequence[Any]) -> None:
        """Judges what is no site: the making of a mask, a conversion to another format."""
        given = numbers(inputs)
        known = next((self._unseen[id(x)] for x in given if id(x) in self._unseen), None)
        if known is not None:  # it hands on what another one made
            self._unseen[id(y)] = (y, *known[1:])
        elif nonfinite(y) and not is_mask(y) and not any(nonfinite(x) and not is_mask(x) for x in given):
            birth = Birth("forward", site, operation, *explain(operation, inputs, form=y.dtype), model)
            self._unseen[id(y)] = (y, site, birth)

    # -- the loss -----------------------------------------------------------------------------------------------------

    def look_at_loss(self, loss: Tensor, known: Container[object]) -> None:
        """Judges what backward is about to be called on; ``known`` are the nodes of the network.

        What the nodes behind the network have kept is looked at when the backward pass has used it, and not before: a
        checkpoint gives its tensors out but once.
        """
        self.root = self.root or loss.grad_fn
        self._bad_loss = bool(self._bad_loss) or nonfinite(loss.detach())
        if self._bad_loss and not self._forward:
            for node in _nodes_above(known, loss):
                self._handles.append(node.register_hook(partial(self._judge_loss, node)))

    def _judge_loss(self, node: Any, *_: Any) -> None:
        with contextlib.suppress(Exception), torch._C.DisableTorchFunction(), torch.no_grad():
            kept = saved_tensors(node)
            name = of_node(node.name(), has_parameter=False).name
            sound = [x for x in kept if not nonfinite(x)]
            # The last that is found is nearest to the network, and so the first that was made.
            if kept and (len(sound) < len(kept) or at_the_edge(name, kept)):
                self._loss = Birth("forward", f"loss:{name}", name, *explain(name, sound), "loss")

    def backward_ended(self) -> None:
        """Takes the hooks off the nodes of the loss."""
        self.root = None
        while self._handles:
            self._handles.pop().remove()

    # -- backward -----------------------------------------------------------------------------------------------------

    def look_backward(
        self,
        place: Any,
        operation: str,
        saved: Sequence[Tensor],
        entering: Sequence[Any],
        leaving: Sequence[Any] = (),
        seen: Observation | None = None,
    ) -> None:
        """Notes that gradients that are not finite left an operation which finite ones had entered.

        ``saved`` is what its node has kept, ``seen`` what was seen of it in the forward pass.
        """
        if self._backward is not None:
            return
        bad = next((g for g in leaving if isinstance(g, Tensor) and nonfinite(g)), None)
        forward = next((birth for at, birth in self._forward if at is seen and seen is not None), None)
        if forward is not None:  # it was not finite in the forward pass already, and the loss did not ask for it
            reason, inputs = forward.reason, dict(forward.inputs)
        elif not saved and seen is not None and seen.domain is not None:
            reason, inputs = seen.domain
        else:
            reason, inputs = explain(operation, saved, backward=True, form=bad.dtype if bad is not None else None)
        size = max((largest(g) for g in entering if isinstance(g, Tensor)), default=None)
        facts = {**inputs} if size is None else {**inputs, "largest_gradient": size}
        self._backward = (place, Birth("backward", "", operation, reason, facts))

    def forget_skipped(self) -> None:
        """Forgets the loss and the gradients of a step that was not taken."""
        self._bad_loss = self._loss = self._backward = None

    def look_at_arrival(self, seen: Observation, nodes: Mapping[Any, Observation]) -> None:
        """Notes that a gradient which is not finite has come to a site: the first that does tells where it was made.

        ``nodes`` maps nodes of the graph to the sites they are at. It was made in one of the operations that used the
        site's output, since every site nearer to the loss had a finite gradient.
        """
        if self._backward is not None or self._bad_loss:
            return
        maker = _user_of(seen, nodes, self.root)
        if isinstance(maker, Observation):
            self.look_backward(maker, maker.operation.name, (), (), seen=maker)
        else:
            self.look_backward(f"loss:{maker}", maker, (), ())

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
        if (self._bad_loss is not False and self._forward) or (self._bad_loss and self._masks):
            place, birth = (self._forward or self._masks)[0]
        elif self._bad_loss or self._backward is None:
            return self._loss
        else:
            place, birth = self._backward
        if birth.site:
            return birth
        if isinstance(place, Observation):
            return replace(birth, site=names.get(place, place.base), model=place.model)
        if isinstance(place, str) or locate is None:
            return replace(birth, site=str(place), model=birth.model or "loss")
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
