"""Which of the calls that let no gradient pass have left parameters without one."""

from __future__ import annotations

from collections.abc import Container, Sequence

from torch import Tensor

from gradiometer.probe.graph import leaves
from gradiometer.probe.ledger.calls import CallLog, Cut
from gradiometer.probe.ledger.knots import Layout


def starved(cuts: Sequence[Cut], layout: Layout, trained: Container[int]) -> list[tuple[Cut, Tensor]]:
    """The cuts behind which there are parameters that the loss does not reach, the nearest to the loss first,
    each with one of them.

    ``trained`` holds the ``id`` of the parameters that should get a gradient.
    A detach that is part of a method (a straight-through estimator, a stopped gradient on one of two paths) is none.
    """
    reached = {id(knot.parameter) for knot in layout.knots if knot.parameter is not None}
    found = []
    for cut in reversed(cuts):
        behind = {id(p): p for x in cut.inputs for p in leaves(x)}
        missing = [p for i, p in behind.items() if i not in reached and i in trained]
        if missing:
            reached |= {id(p) for p in missing}
            found.append((cut, missing[0]))
    return found


def cut_off(loss: Tensor, outputs: Tensor | None, log: CallLog, model: str) -> str:
    """In words, where the graph ends between a loss and the parameters it should lead to.

    Args:
        loss: which does not depend on any parameter.
        outputs: the first tensor that the model gave.
        log: the calls of the pass, the cuts among them.
        model: its class.
    """
    lost = "the loss has no graph" if loss.grad_fn is None else "the loss depends on no parameter of the model"
    behind = log.cuts_behind(loss) or (() if outputs is None else log.cuts_behind(outputs))
    if not behind and loss.grad_fn is None:  # numbers were made of it, or the loss function has cut it off
        behind = tuple(cut for cut in log.cuts if cut.to_numbers or cut.model == "loss")[-1:]
    if not behind and loss.grad_fn is not None:
        behind = tuple(cut for call in log.calls for cut in call.cuts)
    if behind:
        cut = behind[0]
        own = f"{cut.site[1:]} in the forward of {model}" if cut.site.startswith(":") else cut.site
        if cut.block:
            return (
                f"{lost}: {own} ({cut.operation.name}) ran under {cut.block}, so it is cut off there. Leave that out."
            )
        return (
            f"{lost}: it is cut off at {own}, whose input has a graph and whose output has none. "
            f"Leave out {cut.operation.name} there, or put something differentiable in its place."
        )
    if loss.grad_fn is None and any(call.model == "loss" for call in log.calls):
        return f"{lost}: the loss function cuts it off on the way. Look in it for detach, detach_, .data and numpy."
    if outputs is not None and outputs.grad_fn is not None:
        return (
            f"{lost}: the output of {model} has a graph, but the loss function does not use it. Compute it from that."
        )
    return (
        f"{lost}: the output of {model} does not depend on its parameters. Look for a tensor that is made anew "
        "(detach, numpy, torch.tensor, as_tensor) or for weights that are used as .data."
    )
