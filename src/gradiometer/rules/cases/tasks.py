"""Trainings that ask for something: what the loss compares, what goes in, which weights are held and how drawn."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace

from gradiometer.records import Cause, Inputs, ParameterReading, Reading, Site, SiteReading, Task
from gradiometer.rules.base import Patient
from gradiometer.rules.cases.chains import Loss, parameter, patient, reading, site
from gradiometer.rules.cases.chains import chain as _chain

_CAUSES: dict[str, Cause] = {
    "linear": "weights", "embedding": "weights", "relu": "activation", "tanh": "activation",
    "batch_norm": "normalization", "layer_norm": "normalization", "add": "connection", "div": "connection",
}  # fmt: skip


def asked(
    name: str,
    before: tuple[str, ...],
    *,
    loss: Loss,
    width: int | None = 10,
    targets: tuple[float, float] | None = None,
    spread: tuple[float, float] = (1.0, 1.0),
    beyond: float = 0.0,
    broadcast: bool = False,
    minus: str = "",
    examples: int = 512,
    units: int = 64,
    sums: tuple[float, float] | None = None,
    outputs: tuple[float, float] | None = None,
    layer: str = "linear",
    squashed: float | None = None,
) -> Patient:
    """A healthy chain whose loss is this one; with ``minus`` that operation turns its sign around.

    The output ``layer`` gives ``units`` numbers for each of 512 examples; ``squashed`` is the saturation of a tanh that
    is behind it.
    """
    classes, soft = name == "nll_loss", name in ("cross_entropy", "kl_div")
    task = Task(
        loss=name,
        before=before,
        examples=examples,
        width=width if classes or soft else None,
        guess=math.log(64),
        outputs=outputs or (-3.0, 2.0 if before[0] in ("linear", "softmax") else 0.0),
        targets=targets or ((0.0, 9.0) if classes else (0.0, 1.0) if soft else (-2.0, 2.0)),
        spread=None if classes or soft or name == "mul" else spread,
        beyond=beyond,
        broadcast=broadcast,
        direct=not minus,
        sums=sums,
    )
    whole = _chain([1.0] * 3, "relu", loss=loss)
    operations = (minus, name, *before) if minus else (name, *before)
    readings = []
    for r in whole.recent:
        out = replace(r.sites[-1], shape=(512, units), units=units)
        out = replace(out, site=Site(out.name, layer, "weights"))
        behind = () if squashed is None else (_at("act", "tanh", squashed),)
        changed = replace(r, tasks=(task,), sites=(*r.sites[:-1], out, *behind), loss_operations=operations)
        readings.append(replace(changed, loss=-2.3) if minus else changed)
    return Patient(readings[:3], readings, whole.losses)


def fed(
    inputs: Inputs,
    *,
    loss: Loss,
    first: Sequence[str] = ("linear", "tanh"),
    saturation: float = 0.0,
    ratio: float = 1e-3,
    outputs: float = 1.0,
) -> Patient:
    """A network with such inputs that begins with these operations.

    Its first step moves the weights by ``ratio`` of their size, and the spread of its outputs is ``outputs`` of that of
    the targets.
    """
    whole = _chain([1.0] * 3, "tanh", loss=loss, saturation=saturation, ratios=[ratio] * 4)
    begin = tuple(_at(f"in{i}", operation, saturation) for i, operation in enumerate(first))
    task = Task("mse_loss", ("linear",), 512, None, math.log(64), (-2.0, 2.0), (-2.0, 2.0), (outputs, 1.0))
    tables = next((i for i, operation in enumerate(first) if operation != "embedding"), 0)
    first_weight = parameter(f"in{tables}.weight", ratio)
    readings = [
        replace(r, inputs=inputs, tasks=(task,), sites=(*begin, *r.sites), parameters=(first_weight, *r.parameters))
        for r in whole.recent
    ]
    return Patient(readings[:3], readings, whole.losses)


def drawn(
    weights: Sequence[float],
    *,
    loss: Loss,
    between: Sequence[str] = ("relu",),
    ratio: float = 1e-6,
    step: int = 0,
) -> Patient:
    """Layers of 64 units whose weights have these root mean squares times ``sqrt(64)``, first to last.

    Between two of them are these operations.
    """
    sites: list[SiteReading] = []
    for i in range(len(weights)):
        sites.append(_at(f"fc{i}", "linear"))
        sites += [_at(f"b{i}.{k}", name) for k, name in enumerate(between)] if i + 1 < len(weights) else []
    parameters = [parameter(f"fc{i}.weight", ratio, w / 8) for i, w in enumerate(weights)]
    return patient([reading(sites, parameters, step + k) for k in range(1 if loss == "unknown" else 3)], loss)


def loud(times: float, rms: float, *, loss: Loss, inputs: float | None = None) -> Patient:
    """He's layers whose last output has this rms, with a first loss so many times that of a constant guess."""
    made = drawn([1.41] * 3, loss=loss)
    entering = Inputs(rms=inputs, offset=0.0, spread=1.0, feature=0, features=64) if inputs is not None else None
    readings = []
    for r in made.recent:
        out = replace(r.sites[-1], rms=rms)
        readings.append(replace(r, sites=(*r.sites[:-1], out), loss=times * math.log(64), inputs=entering))
    return replace(made, early=readings[:3], recent=readings)


def alike(
    copies: float,
    gradients: Sequence[float],
    *,
    loss: Loss,
    layer: int = 0,
    later: float | None = None,
    after: str = "relu",
    steps: int = 10,
    table: int | None = None,
) -> Patient:
    """Three layers, of one of which this share of the units are copies, with these gradient norms by unit.

    ``later`` is the share from the second reading on, ``after`` the operation behind each of the layers, ``steps``
    how many lie between two readings. With ``table`` the first layer is an embedding whose units lie along that
    dimension.
    """
    sites = [s for i in range(2) for s in (_at(f"fc{i}", "linear"), _at(f"b{i}", after))] + [_at("fc2", "linear")]
    sites[0] = sites[0] if table is None else _at("fc0", "embedding")
    readings = []
    for k in range(1 if loss == "unknown" else 3):
        parameters = [replace(parameter(f"fc{i}.weight", 1e-3), copies=0.0) for i in range(3)]
        parameters[0] = replace(parameters[0], parameter=replace(parameters[0].parameter, unit_dim=table or 0))
        share = copies if later is None or k == 0 else later
        data = array("f", gradients).tobytes()
        parameters[layer] = replace(parameters[layer], copies=share, unit_data=data)
        readings.append(reading(sites, parameters, steps * k))
    return patient(readings, loss)


def held(
    *parameters: ParameterReading,
    loss: Loss,
    alone: bool = True,
    chain: bool = True,
    rate: float | None = None,
    backward: bool = True,
) -> Patient:
    """A chain of three layers, all of them held and moving, with these parameters beside them, or with these alone.

    Without ``backward`` no gradient comes back through the sites.
    """
    whole = _chain([1.0] * 2, "relu", loss=loss, ratios=[1e-3] * 3)
    own = [replace(p, weight_rms=p.weight_rms * 1.001) for p in whole.last.parameters] if chain else []
    readings = [replace(r, parameters=(*own, *parameters), learning_rate=rate) for r in whole.recent]
    if not backward:
        readings = [replace(r, sites=tuple(replace(s, grad_rms=None) for s in r.sites)) for r in readings]
    return replace(patient(readings, loss), alone=alone)


def in_turn(*seen: Sequence[ParameterReading], loss: Loss) -> Patient:
    """The chain of `held`, beside which a different set of these parameters is seen in each reading."""
    readings = [replace(held(*some, loss=loss).last, step=step) for step, some in enumerate(seen)]
    return Patient(readings[:3], readings[-8:], patient(readings, loss).losses)


def weight(
    name: str, *, held: bool = True, trainable: bool = True, gradient: float | None = 1.0, rms: float = 1.0
) -> ParameterReading:
    """A matrix of 64 by 64 that does not move."""
    made = parameter(name, 0.0)
    info = replace(made.parameter, optimizer=0 if held else -1, trainable=trainable)
    return replace(made, parameter=info, weight_rms=rms / 8, grad_rms=gradient, update_rms=0.0 if held else None)


def carrying(shares: Sequence[float], *, loss: Loss) -> Patient:
    """A chain in whose steps these shares of the gradient were there before the backward pass."""
    made = _chain([1.0] * 2, "relu", loss="unknown").last
    readings: list[Reading] = [replace(made, step=k, carried=share) for k, share in enumerate(shares)]
    return patient(readings, loss)


def _at(name: str, operation: str, saturation: float = 0.0) -> SiteReading:
    """A site of any operation of a healthy network."""
    flat = saturation if operation == "tanh" else None
    made = site(name, "linear", 1.0, saturation=flat)
    return replace(made, site=Site(name, operation, _CAUSES[operation]))
