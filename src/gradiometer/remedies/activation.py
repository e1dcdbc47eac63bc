"""Other activations between the weight layers; those of outputs, gates and attention stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from gradiometer.remedies.anatomy import ACTIVATIONS
from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.by_line import Instead, exchange_by_line
from gradiometer.remedies.cases import activation as cases
from gradiometer.remedies.draws import listed, named
from gradiometer.remedies.flow import Flow, flow, flow_of
from gradiometer.remedies.following import Step
from gradiometer.remedies.functional import Found, Shallow, exchange, find

BLOCKS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
"""Modules of torch that hold their activation as an attribute, a function or a module."""

_FAST = {"relu": 1, "gelu": 2}
"""What an encoder layer of torch notes of its activation for its fused path in evaluation; 0 keeps it off that."""

_SHARES = frozenset(("softmax", "log_softmax"))
"""What is meant to weigh other signals: an activation between layers only where nothing but weights reads it."""


@dataclass(frozen=True)
class Places:
    """Where a network's hidden activations are: paths of modules, blocks and recurrent layers; calls in a forward."""

    modules: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    recurrent: tuple[str, ...] = ()
    calls: tuple[Found, ...] = ()
    lines: tuple[str, ...] = ()


def places(model: nn.Module, batch: Any, target: str, seen: Flow) -> Places:
    """Where activations have to be exchanged so that all hidden ones are the target.

    Raises:
        UnusableError: if there is none, or one cannot be exchanged.
    """
    hidden = [
        step
        for step in seen.hidden()
        if step.operation != target and (step.operation not in _SHARES or step.uses == {"weights"})
    ]
    recurrent = tuple(
        path
        for path, module in model.named_modules()
        if isinstance(module, (nn.RNN, nn.RNNCell)) and target in ("relu", "tanh") and module.nonlinearity != target
    )
    whole = [step for step in hidden if step.module is not None and _whole(seen, step, hidden)]
    modules = {id(step.module) for step in whole}
    rest = [step for step in hidden if id(step.module) not in modules or step.module is None]
    blocks = tuple(dict.fromkeys(s.caller for s in rest if isinstance(model.get_submodule(s.caller), BLOCKS)))
    # The activation of a block may be a module too, which then is one of its submodules: the attribute is what counts.
    inside = [s for s in whole if isinstance(model.get_submodule(s.caller), BLOCKS)]
    blocks = tuple(dict.fromkeys((*blocks, *(s.caller for s in inside))))
    modules -= {id(s.module) for s in inside}
    callers = dict.fromkeys(s.caller for s in rest if s.caller not in blocks)
    if not modules and not blocks and not recurrent and not callers:
        raise UnusableError(f"No activation other than {target} lies between the weight layers of this network.")
    calls = [find(model, batch, seen, caller, [s for s in rest if s.caller == caller]) for caller in callers]
    return Places(
        modules=tuple(path for path, module in model.named_modules(remove_duplicate=False) if id(module) in modules),
        blocks=blocks,
        recurrent=recurrent,
        calls=tuple(calls),
        lines=tuple(dict.fromkeys(step.line for step in rest if step.caller in callers and step.line)),
    )


def _whole(seen: Flow, step: Step, hidden: Sequence[Step]) -> bool:
    """Whether all calls of a module are hidden ones."""
    return all(any(other is one for one in hidden) for other in seen.of(step.module))


def change(model: nn.Module, situation: Situation, *, target: str) -> nn.Module:
    """Exchanges the hidden activations of a network."""
    # What was found out of the untreated network's modules holds for those of the same class and the same calls.
    seen = replace(flow(model, situation.batch), traced=flow_of(situation).traced)
    where = places(model, situation.batch, target, seen)
    make = partial(_made, target, model)
    for path in where.modules:
        mode = model.get_submodule(path).training
        model.set_submodule(path, make().train(mode))
    for path in where.blocks:
        layer: Any = model.get_submodule(path)
        layer.activation, layer.activation_relu_or_gelu = make(), _FAST.get(target, 0)
    for path in where.recurrent:
        layer = model.get_submodule(path)
        layer.nonlinearity = target
        if isinstance(layer, nn.RNN):
            layer.mode = f"RNN_{target.upper()}"
    for found in where.calls:
        found.exchange(model, make)
    _keep_off_nested(model, where, target)
    return model


def _made(target: str, model: nn.Module) -> nn.Module:
    """A new activation, on the device and in the number format of the network if it has parameters."""
    made = ACTIVATIONS[target]()
    like = next(model.parameters(), None)
    return made if like is None else made.to(like.device, like.dtype)


def _keep_off_nested(model: nn.Module, where: Places, target: str) -> None:
    """An encoder packs padded sequences only for layers that take torch's fused path."""
    if target not in _FAST and where.blocks:
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False


def code(situation: Situation, *, target: str) -> Code:
    """What a user would write."""
    model = situation.model
    where = places(model, situation.batch, target, flow_of(situation))
    make = _written(target, model)
    lines: list[str] = []
    if where.modules:
        lines += [f"for path in {listed(where.modules)}:", f"    model.set_submodule(path, {make})"]
    if where.blocks:
        fast = _FAST.get(target, 0)
        lines += [
            f"for path in {listed(where.blocks)}:",
            "    layer = model.get_submodule(path)",
            f"    layer.activation, layer.activation_relu_or_gelu = {make}, {fast}",
        ]
        if not fast and any(isinstance(module, nn.TransformerEncoder) for module in model.modules()):
            lines += [
                "for module in model.modules():",
                "    if isinstance(module, nn.TransformerEncoder):",
                "        module.use_nested_tensor = False",
            ]
    for path in where.recurrent:
        lines.append(f'{named(path)}.nonlinearity = "{target}"')
        if isinstance(model.get_submodule(path), nn.RNN):
            lines.append(f'{named(path)}.mode = "RNN_{target.upper()}"')
    if where.calls:
        if where.lines:
            lines.append(f"# The same by hand: {', '.join(where.lines)} call {FUNCTIONS[target]} instead.")
        factory = make.removesuffix("()") if make.count("(") == 1 else f"lambda: {make}"
        lines += [found.written(factory) for found in where.calls]
    if not where.calls:
        return Code(model="\n".join(lines))
    traced = any(found.names for found in where.calls)
    by_line = any(found.places for found in where.calls)
    return Code(
        imports=(*_IMPORTS, *(_TRACING if traced else ()), *(_BY_LINE if by_line else ())),
        classes=(*((Shallow, exchange) if traced else ()), *((Instead, exchange_by_line) if by_line else ())),
        model="\n".join(lines),
    )


_IMPORTS = ("from collections.abc import Callable, Mapping, Sequence", "from typing import Any", "from torch import nn")
_TRACING = ("from torch import fx",)
_BY_LINE = ("import sys", "from pathlib import Path", "from torch.overrides import TorchFunctionMode")

FUNCTIONS = {name: f"F.{name}" for name in ACTIVATIONS} | {"prelu": "an nn.PReLU of their own", "tanh": "torch.tanh"}
"""How the activation is called in a forward."""


def _written(target: str, model: nn.Module) -> str:
    """The constructor of an activation as a user writes it."""
    plain = f"nn.{ACTIVATIONS[target].__name__}()"
    like = next(model.parameters(), None)
    if like is None or target != "prelu" or (like.device.type == "cpu" and like.dtype == torch.float32):
        return plain
    return f"{plain}.to({str(like.device)!r}, {like.dtype})"


def unusable(situation: Situation, *, target: str) -> str | None:
    """Why the hidden activations cannot be exchanged."""
    try:
        places(situation.model, situation.batch, target, flow_of(situation))
    except UnusableError as error:
        return str(error)
    return None


_VANISHING = ("vanishing_gradient", "saturated_units", "rank_collapse", "stalled_training")
_DEAD = ("dead_units", *_VANISHING)


def _row(target: str, treats: tuple[str, ...], source: str, *proofs: tuple[Callable[[], Any], float]) -> Remedy:
    return Remedy(
        name=target,
        title=f"{ACTIVATIONS[target].__name__} between the layers",
        group="activation",
        treats=treats,
        changes_function=True,
        source=source,
        code=partial(code, target=target),
        model=partial(change, target=target),
        unusable=partial(unusable, target=target),
        proofs=tuple(Proof(recipe, good) for recipe, good in proofs),
    )


REMEDIES: tuple[Remedy, ...] = (
    _row(
        "relu",
        _VANISHING,
        "Nair and Hinton, Rectified linear units improve restricted Boltzmann machines (2010); Glorot, Bordes and "
        "Bengio, Deep sparse rectifier neural networks (2011)",
        (cases.sigmoid_chain, 0.7),
        (cases.sigmoid_functions, 0.7),
    ),
    _row(
        "leaky_relu",
        _DEAD,
        "Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models (2013)",
        (cases.dead_chain, 0.7),
        (cases.sigmoid_chain, 0.7),
    ),
    _row(
        "prelu",
        _DEAD,
        "He et al., Delving deep into rectifiers (2015), section 2.1",
        (cases.dead_chain, 0.7),
        (cases.sigmoid_chain, 0.7),
    ),
    _row(
        "elu",
        _DEAD,
        "Clevert, Unterthiner and Hochreiter, Fast and accurate deep network learning by exponential linear units "
        "(2016), equation 1",
        (cases.dead_chain, 0.7),
        (cases.sigmoid_chain, 0.7),
    ),
    _row(
        "selu",
        _DEAD,
        "Klambauer et al., Self-normalizing neural networks (2017), equation 2",
        (cases.sigmoid_chain, 0.7),
        (cases.dead_chain, 0.7),
    ),
    _row(
        "gelu",
        _DEAD,
        "Hendrycks and Gimpel, Gaussian error linear units (2016), section 2",
        (cases.sigmoid_functions, 0.7),
        (cases.dead_chain, 0.7),
    ),
    _row(
        "silu",
        _DEAD,
        "Elfwing, Uchibe and Doya, Sigmoid-weighted linear units (2018), equation 3; Ramachandran, Zoph and Le, "
        "Searching for activation functions (2017)",
        (cases.sigmoid_chain, 0.7),
        (cases.dead_chain, 0.7),
    ),
    _row(
        "tanh",
        ("exploding_gradient", "nonfinite", "diverging_loss", *_DEAD),
        "LeCun et al., Efficient BackProp (1998), section 4.4",
        (cases.sigmoid_chain, 0.7),
        (cases.dead_chain, 0.7),
    ),
)
