"""Weights whose every unit has mean zero and the variance that its inputs ask for, whatever the parameters are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from gradiometer.remedies.anatomy import ACTIVATIONS, anatomy
from gradiometer.remedies.base import Code, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import normalization as cases
from gradiometer.remedies.placing import like, loop, moved, objection
from gradiometer.remedies.wiring import Wiring

END, STEPS = 10.0, 20_001
"""The trapezoids of the integral: the normal density is 1e-22 at the end, and a kink at zero lies on a node."""


class Standardized(nn.Module):
    """Each unit's weights with mean zero and variance gain^2 / fan-in, the gain learned."""

    def __init__(self, units, gain):
        """One gain for each unit."""
        super().__init__()
        self.gain = nn.Parameter(torch.full((units,), gain))

    def forward(self, weight):
        """The weight that the layer uses."""
        rows = weight.flatten(1)
        rows = rows - rows.mean(1, keepdim=True)
        scale = self.gain / (rows.square().sum(1) + 1e-4 * rows.shape[1] ** -1).sqrt()
        return (rows * scale.unsqueeze(1)).view_as(weight)


@cache
def gain_of(activation: str) -> float:
    """The gain that keeps a signal's variance: 1 over the standard deviation of the activation of a unit normal.

    Formula: ``1 / sqrt(Var f(z))`` with ``z ~ N(0, 1)``, summed over a fine grid. Weights of mean zero pass on the
    variance of what comes in and not its mean, which is why it is not ``1 / sqrt(E f(z)^2)``.

    Args:
        activation: a name of `gradiometer.remedies.anatomy.ACTIVATIONS`; any other, ``"linear"`` say, has gain 1.

    Returns:
        The gain.

    Raises:
        nothing.

    Example:
        >>> round(gain_of("relu"), 3), round(gain_of("tanh"), 3), gain_of("linear")
        (1.713, 1.593, 1.0)

    Source:
        Brock, De and Smith, Characterizing signal propagation to close the performance gap in unnormalized ResNets
        (2021), section 4.2: ``sqrt(2 / (1 - 1 / pi))`` for ReLU.
    """
    if activation not in ACTIVATIONS or "softmax" in activation:
        return 1.0
    z = torch.linspace(-END, END, STEPS, dtype=torch.float64)
    weights = torch.exp(-z * z / 2)
    weights /= weights.sum()
    with torch.no_grad():
        values = ACTIVATIONS[activation]().double()(z)
    return float(weights @ (values - weights @ values).square()) ** -0.5


def _plan(model: nn.Module, situation: Situation) -> list[tuple[str, int, float]]:
    """Path, units and gain of each hidden layer whose weights can be standardized."""
    wiring = Wiring(model, situation.batch)
    before, last = {}, "linear"
    for call in anatomy(model, situation.batch).calls:
        if call.role == "activation":
            last = call.operation
        elif call.role in ("weights", "recurrent", "attention", "normalization"):
            before.setdefault(id(call.module), last)
            last = "linear"
    owners: dict[int, int] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            owners[id(p)] = owners.get(id(p), 0) + 1
    found = [
        (one.path, one.module.get_parameter("weight").shape[0], round(gain_of(before.get(id(one.module), "linear")), 4))
        for one in wiring.layers()
        if wiring.hidden(one)
        and not isinstance(one.module, (_ConvTransposeNd, nn.Bilinear))
        and "weight" in one.module._parameters  # and not computed from others already
        and owners[id(one.module.weight)] == 1
    ]
    if not found:
        raise UnusableError(
            "there is no hidden linear or convolutional layer with a weight of its own (not tied to another, not "
            "parametrized already)."
        )
    return found


def _treat(model: nn.Module, situation: Situation) -> nn.Module:
    for path, units, gain in _plan(model, situation):
        layer = model.get_submodule(path)
        parametrize.register_parametrization(
            layer, "weight", like(Standardized(units, gain), layer).train(layer.training)
        )
    return model


def _code(situation: Situation) -> Code:
    groups: dict[str, list[str]] = {}
    for path, units, gain in _plan(situation.model, situation):
        made = f"Standardized({units}, {gain})" + moved(situation.model.get_submodule(path))
        groups.setdefault(made, []).append(path)
    body = 'parametrize.register_parametrization(model.get_submodule(path), "weight", {made})'
    single = 'parametrize.register_parametrization(model.get_submodule("{path}"), "weight", {made})'
    return Code(
        imports=("from torch.nn.utils import parametrize",),
        classes=(Standardized,),
        model=loop(groups, body, single),
    )


_objection: Callable[[Situation], str | None] = objection(_plan)

WEIGHT_STANDARDIZATION = Remedy(
    name="weight_standardization",
    title="standardized weights in the hidden layers",
    group="normalization",
    treats=(
        "vanishing_gradient",
        "exploding_gradient",
        "bad_initialization",
        "saturated_units",
        "dead_units",
        "rank_collapse",
        "stalled_training",
        "diverging_loss",
    ),
    changes_function=True,
    source="Qiao et al., Micro-batch training with batch-channel normalization and weight standardization (2019), "
    "equation 4; scaled by the fan-in and the gain of the activation as in Brock, De and Smith, Characterizing signal "
    "propagation to close the performance gap in unnormalized ResNets (2021), equation 4",
    code=_code,
    model=_treat,
    unusable=_objection,
    proofs=cases.WEIGHT_STANDARDIZATION,
)
