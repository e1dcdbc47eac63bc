"""Layer-sequential unit variance: orthogonal weights, scaled by what the first batch makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.probe.given import call as call_model
from gradiometer.remedies.base import Code, Situation, UnusableError
from gradiometer.remedies.draws import Draw, carry_out, listed, written
from gradiometer.remedies.flow import Flow, flow, flow_of
from gradiometer.remedies.weights import Weight, draw, zero_bias
from gradiometer.remedies.whole import whole


@contextmanager
def unit_variance(model: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Scales the weights of layers, in the order in which they are called, so that their outputs have variance one."""
    done = set()

    def scale(layer: Any, _: Any, output: Tensor) -> Tensor:
        std = output.float().std().to(output.dtype)
        if layer in done or not 0 < std < float("inf"):
            return output
        done.add(layer)
        layer.weight.div_(std)
        return output / std

    hooks = [model.get_submodule(path).register_forward_hook(scale) for path in paths]
    with torch.no_grad():
        yield
    for hook in hooks:
        hook.remove()


def scheme(weight: Weight) -> tuple[Draw, ...]:
    """Orthogonal, biases zero."""
    return (draw(weight, nn.init.orthogonal_), *zero_bias(weight))


def plan(model: nn.Module, seen: Flow) -> tuple[list[Draw], tuple[str, ...]]:
    """The draws, and the paths of the layers that are scaled.

    Raises:
        UnusableError: if there is none.
    """
    draws = whole(model, seen, scheme)
    paths = [
        d.path for d in draws if d.function is nn.init.orthogonal_ and d.parameter == "weight" and d.through != "assign"
    ]
    if not paths:
        raise UnusableError("This network has no trainable linear layer or convolution that could be scaled.")
    return draws, tuple(paths)


def change(model: nn.Module, situation: Situation) -> nn.Module:
    """Draws, and scales on the first batch."""
    draws, paths = plan(model, flow(model, situation.batch))
    carry_out(model, draws)
    with unit_variance(model, paths):
        call_model(model, inputs_of(situation.batch))
    return model


def code(situation: Situation) -> Code:
    """The draws, and one pass of the first batch, which is ``inputs``."""
    draws, paths = plan(situation.model, flow_of(situation))
    lines = [written(draws), f"with unit_variance(model, {listed(paths)}):", f"    {passed(situation.batch)}"]
    return Code(imports=IMPORTS, classes=(unit_variance,), model="\n".join(lines))


def unusable(situation: Situation) -> str | None:
    """Why nothing can be scaled."""
    try:
        plan(situation.model, flow_of(situation))
    except UnusableError as error:
        return str(error)
    return None


IMPORTS = (
    "from collections.abc import Iterator, Sequence",
    "from contextlib import contextmanager",
    "from typing import Any",
    "import torch",
    "from torch import Tensor, nn",
)


def inputs_of(batch: Any) -> Any:
    """What the model gets of a batch."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def passed(batch: Any) -> str:
    """How a user calls the model on it."""
    inputs = inputs_of(batch)
    stars = "**" if isinstance(inputs, Mapping) else "*" if isinstance(inputs, (tuple, list)) else ""
    return f"model({stars}inputs)  # inputs: those of the first batch"
