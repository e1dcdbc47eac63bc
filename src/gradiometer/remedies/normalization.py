"""Normalization put in where there is none: behind hidden layers, or before the first layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import normalization as cases
from gradiometer.remedies.placing import Followed, aliases, check, like, loop, objection, put, run
from gradiometer.remedies.pre_norm import PRE_NORM
from gradiometer.remedies.qk_norm import QK_NORM
from gradiometer.remedies.weight_standardization import WEIGHT_STANDARDIZATION
from gradiometer.remedies.wiring import Pass, Wiring

Choose = Callable[[Pass], "tuple[str, Callable[[], nn.Module]] | None"]
"""The norm for a layer's output: as a user writes it, and what makes it; ``None`` if it has none."""

GROUPS = 32
"""Groups of a group norm (Wu and He, 2018, section 4.1), at least `UNITS` channels in each."""

UNITS = 8
"""Below this the statistics of a group are those of a handful of numbers; Wu and He go down to 2, and lose."""

FEW = 2
"""Examples in a batch whose mean and variance say nothing of the data: with two, every unit becomes plus or minus
one."""

_KINDS = (
    "vanishing_gradient",
    "exploding_gradient",
    "saturated_units",
    "dead_units",
    "bad_initialization",
    "rank_collapse",
    "stalled_training",
    "oscillating_loss",
    "diverging_loss",
    "nonfinite",
)


class ChannelRMSNorm(nn.Module):
    """Divides each position of an image by the root mean square over its channels."""

    def __init__(self, channels, eps=1e-6):  # noqa: D107
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x):  # noqa: D102
        weight = self.weight.view(-1, *(1,) * (x.ndim - 2))
        return weight * x / (x.square().mean(1, keepdim=True) + self.eps).sqrt()


class Place(NamedTuple):
    """A layer, the norm that it gets as a user writes it, and what makes that norm."""

    path: str
    written: str
    make: Callable[[], nn.Module]


def hidden_places(model: nn.Module, situation: Situation, choose: Choose) -> list[Place]:
    """Where a norm goes: behind each hidden weight layer that none follows and whose output has one.

    Not behind layers whose output is an output of the network, nor behind what attention compares. An empty list is an
    `UnusableError`.
    """
    wiring = Wiring(model, situation.batch)
    layers = [one for one in wiring.layers() if wiring.hidden(one)]
    if not layers:
        raise UnusableError(
            "no linear or convolutional layer leads into another one (blocks of nn.Transformer have normalization of "
            "their own), so there is nothing to put it behind."
        )
    bare = [one for one in layers if not wiring.normalized(one) and "attention" not in wiring.next_kinds(one)]
    if not bare:
        raise UnusableError("a normalization follows every hidden layer already.")
    found = [(one, choose(one)) for one in bare]
    return [Place(one.path, *norm) for one, norm in found if norm is not None]


def insert(model: nn.Module, situation: Situation, found: list[Place]) -> tuple[nn.Module, bool]:
    """Puts the norms in; the second is whether the layers must go on to answer for their weights.

    They must if the forward pass, or a step of the user's own, asks them for their attributes.
    """
    layers = {place.path: model.get_submodule(place.path) for place in found}
    norms = {place.path: like(place.make(), layers[place.path]) for place in found}
    answers = situation.recipe.step is not None

    def wrap(kind: type[nn.Sequential]) -> None:
        for path, layer in layers.items():
            put(model, path, kind(layer, norms[path]))

    try:
        wrap(Followed if answers else nn.Sequential)
        if not answers:
            try:
                run(model, situation)
            except AttributeError:
                answers = True
                for path, layer in layers.items():
                    put(model, path, layer)
                wrap(Followed)
        check(model, situation, norms.values())
    except BaseException:
        for path, layer in layers.items():
            put(model, path, layer)
        raise
    return model, answers


def written(situation: Situation, found: list[Place]) -> Code:
    """What a user writes to put these norms in."""
    model = situation.model
    layers = {place.path: model.get_submodule(place.path) for place in found}
    try:
        _, answers = insert(model, situation, found)
    finally:
        for path, layer in layers.items():
            put(model, path, layer)
    groups: dict[str, list[str]] = {}
    for place in found:
        groups.setdefault(place.written, []).append(place.path)
    kind = "Followed" if answers else "nn.Sequential"
    body = f"model.set_submodule(path, {kind}(model.get_submodule(path), {{made}}))"
    single = f'model.set_submodule("{{path}}", {kind}(model.get_submodule("{{path}}"), {{made}}))'
    own = (ChannelRMSNorm,) if any(w.startswith("ChannelRMSNorm") for w in groups) else ()
    return Code(
        classes=(*((Followed,) if answers else ()), *own),
        model=loop(groups, body, single) + aliases(model, layers),
    )


def _flat(one: Pass) -> bool:
    return len(one.outputs) == 2


def _image(one: Pass) -> bool:
    return isinstance(one.module, _ConvNd) and len(one.outputs) > 2


def _batch(one: Pass) -> tuple[str, Callable[[], nn.Module]] | None:
    if _flat(one):
        return f"nn.BatchNorm1d({one.outputs[1]})", lambda: nn.BatchNorm1d(one.outputs[1])
    kinds = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    if _image(one) and len(one.outputs) in kinds:
        kind = kinds[len(one.outputs)]
        return f"nn.{kind.__name__}({one.outputs[1]})", lambda: kind(one.outputs[1])
    return None


def _layer(one: Pass) -> tuple[str, Callable[[], nn.Module]] | None:
    if _image(one):
        return f"nn.GroupNorm(1, {one.outputs[1]})", lambda: nn.GroupNorm(1, one.outputs[1])
    return f"nn.LayerNorm({one.outputs[-1]})", lambda: nn.LayerNorm(one.outputs[-1])


def _group(one: Pass) -> tuple[str, Callable[[], nn.Module]] | None:
    if not (_flat(one) or _image(one)):
        return None
    units = one.outputs[1]
    groups = max(g for g in range(1, min(GROUPS, max(units // UNITS, 1)) + 1) if units % g == 0)
    return f"nn.GroupNorm({groups}, {units})", lambda: nn.GroupNorm(groups, units)


def _rms(one: Pass) -> tuple[str, Callable[[], nn.Module]] | None:
    if _image(one):
        return f"ChannelRMSNorm({one.outputs[1]})", lambda: ChannelRMSNorm(one.outputs[1])
    return f"nn.RMSNorm({one.outputs[-1]})", lambda: nn.RMSNorm(one.outputs[-1])


def _batch_places(model: nn.Module, situation: Situation) -> list[Place]:
    wiring = Wiring(model, situation.batch)
    _enough(wiring)
    repeated = {one.path for one in wiring.layers() if wiring.calls(one.module) > 1}
    found = hidden_places(model, situation, lambda one: None if one.path in repeated else _batch(one))
    if not found:
        raise UnusableError(
            "the hidden layers work on sequences, or are called once a time step: the statistics of a batch would mix "
            "positions of different meaning and length. Use nn.LayerNorm or nn.RMSNorm."
        )
    return found


def _enough(wiring: Wiring) -> None:
    sizes = [one.outputs[0] for one in wiring.layers() if one.outputs]
    if sizes and min(sizes) <= FEW:
        raise UnusableError(
            f"a batch has {min(sizes)} example{'s' if min(sizes) > 1 else ''}: mean and variance over it say nothing. "
            "Use layer or group normalization, or larger batches."
        )


def _other_places(choose: Choose) -> Callable[[nn.Module, Situation], list[Place]]:
    def plan(model: nn.Module, situation: Situation) -> list[Place]:
        found = hidden_places(model, situation, choose)
        if not found:
            raise UnusableError("the hidden layers work on sequences, whose channels come last: use nn.LayerNorm.")
        return found

    return plan


def _input_place(model: nn.Module, situation: Situation) -> tuple[Pass, str, Callable[[], nn.Module]]:
    wiring = Wiring(model, situation.batch)
    _enough(wiring)
    first = next((one for one in wiring.passes if one.leaf and one.role not in ("other", "dropout")), None)
    if first is None or first.role != "weights":
        what = first.role if first is not None else "nothing that is known"
        raise UnusableError(f"{what} stands before the first weight layer: there are no plain inputs to normalize.")
    shape = first.inputs
    convolution = isinstance(first.module, _ConvNd)
    kinds = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d} if convolution else {2: nn.BatchNorm1d}
    if len(shape) not in kinds or wiring.calls(first.module) > 1:
        raise UnusableError("the inputs are sequences, over which the statistics of a batch mean little.")
    kind = kinds[len(shape)]
    return first, f"nn.{kind.__name__}({shape[1]})", lambda: kind(shape[1])


def _with_input_norm(model: nn.Module, situation: Situation) -> nn.Module:
    first, _, make = _input_place(model, situation)
    return put(model, first.path, nn.Sequential(like(make(), first.module), first.module))


def _input_code(situation: Situation) -> Code:
    first, text, _ = _input_place(situation.model, situation)
    if not first.path:
        return Code(model=f"model = nn.Sequential({text}, model)")
    line = f'model.set_submodule("{first.path}", nn.Sequential({text}, model.get_submodule("{first.path}")))'
    return Code(model=line + aliases(situation.model, [first.path]))


def _row(name: str, title: str, source: str, plan: Callable[..., list[Place]], *proofs: Proof) -> Remedy:
    def treat(model: nn.Module, situation: Situation) -> nn.Module:
        return insert(model, situation, plan(model, situation))[0]

    def code(situation: Situation) -> Code:
        return written(situation, plan(situation.model, situation))

    def tried(model: nn.Module, situation: Situation) -> Any:
        return plan(model, situation)

    return Remedy(
        name=name,
        title=title,
        group="normalization",
        treats=_KINDS,
        changes_function=True,
        source=source,
        code=code,
        model=treat,
        unusable=objection(tried),
        proofs=proofs,
    )


REMEDIES: tuple[Remedy, ...] = (
    _row(
        "batch_norm",
        "batch normalization behind the hidden layers",
        "Ioffe and Szegedy, Batch normalization: accelerating deep network training by reducing internal covariate "
        "shift (2015), algorithm 1; section 3.2 on its place before the activation",
        _batch_places,
        *cases.BATCH_NORM,
    ),
    _row(
        "layer_norm",
        "layer normalization behind the hidden layers",
        "Ba, Kiros and Hinton, Layer normalization (2016), equation 3",
        _other_places(_layer),
        *cases.LAYER_NORM,
    ),
    _row(
        "group_norm",
        "group normalization behind the hidden layers",
        "Wu and He, Group normalization (2018), equations 1 and 7",
        _other_places(_group),
        *cases.GROUP_NORM,
    ),
    _row(
        "rms_norm",
        "root mean square normalization behind the hidden layers",
        "Zhang and Sennrich, Root mean square layer normalization (2019), equation 4",
        _other_places(_rms),
        *cases.RMS_NORM,
    ),
    Remedy(
        name="input_norm",
        title="batch normalization before the first layer",
        group="normalization",
        treats=("unscaled_inputs", "stalled_training", "oscillating_loss", "diverging_loss", "saturated_units"),
        changes_function=True,
        source="Ioffe and Szegedy, Batch normalization (2015), algorithm 1, applied to the inputs, as LeCun et al., "
        "Efficient backprop (1998), section 4.3, ask of them",
        code=_input_code,
        model=_with_input_norm,
        unusable=objection(_input_place),
        proofs=cases.INPUT_NORM,
    ),
    WEIGHT_STANDARDIZATION,
    QK_NORM,
    PRE_NORM,
)
