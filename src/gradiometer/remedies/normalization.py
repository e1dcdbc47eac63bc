"""Normalization put in where there is none: behind hidden layers, or before the first layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.behind import Choose, Place, hidden_places, insert, written
from gradiometer.remedies.cases import normalization as cases
from gradiometer.remedies.placing import aliases, like, moved, objection, put
from gradiometer.remedies.pre_norm import PRE_NORM
from gradiometer.remedies.qk_norm import QK_NORM
from gradiometer.remedies.weight_standardization import WEIGHT_STANDARDIZATION
from gradiometer.remedies.wiring import Pass, Wiring

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

    def __init__(self, channels, eps=1e-6):
        """Each channel has a weight, which begins at one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x):
        """The image, with its channels in dimension 1."""
        weight = self.weight.view(-1, *(1,) * (x.ndim - 2))
        return weight * x / (x.square().mean(1, keepdim=True) + self.eps).sqrt()


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
    if isinstance(first.module, nn.Bilinear):
        raise UnusableError("the first layer has two inputs: normalize each where it comes in.")
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
    text += moved(first.module)
    if not first.path:
        return Code(model=f"model = nn.Sequential({text}, model)")
    line = f'model.set_submodule("{first.path}", nn.Sequential({text}, model.get_submodule("{first.path}")))'
    return Code(model=line + aliases(situation.model, [first.path]))


def _row(name: str, title: str, source: str, plan: Callable[..., list[Place]], *proofs: Proof) -> Remedy:
    def treat(model: nn.Module, situation: Situation) -> nn.Module:
        return insert(model, situation, plan(model, situation))[0]

    def code(situation: Situation) -> Code:
        return written(situation, plan(situation.model, situation))

    return Remedy(
        name=name,
        title=title,
        group="normalization",
        treats=_KINDS,
        changes_function=True,
        source=source,
        code=code,
        model=treat,
        unusable=objection(lambda model, situation: written(situation, plan(model, situation))),
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
