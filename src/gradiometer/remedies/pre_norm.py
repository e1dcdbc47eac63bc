"""Post-norm transformers become pre-norm: the stream of residuals stays free, and branches read it normalized."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from gradiometer.remedies.base import Code, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import normalization as cases
from gradiometer.remedies.placing import Followed, aliases, like, listed, moved, objection, put
from gradiometer.remedies.wiring import FUSED, Pass, Wiring

_STACKS = (nn.TransformerEncoder, nn.TransformerDecoder)


class PreNormed(nn.Module):
    """A branch that reads its input normalized, in every place in which it is given it."""

    def __init__(self, norm, branch):
        """The norm may be that of several branches."""
        super().__init__()
        self.norm = norm
        self.branch = branch

    def forward(self, *args, **kwargs):
        """What is given first is the stream; other things are normalized only if they are the stream too."""
        x = args[0] if args else next(iter(kwargs.values()))
        y = self.norm(x)
        args = [y if a is x else a for a in args]
        return self.branch(*args, **{name: y if a is x else a for name, a in kwargs.items()})


class _Pair(NamedTuple):
    """A norm behind an addition, the modules that begin the branch, and whether it is the stream's last."""

    norm: str
    branch: tuple[str, ...]
    last: bool


def _post(module: Any) -> bool:
    return isinstance(module, FUSED) and not module.norm_first


class _Plan(NamedTuple):
    layers: list[str]
    stacks: list[str]
    ends: list[str]
    pairs: list[_Pair]


def _plan(model: nn.Module, situation: Situation) -> _Plan:
    """Blocks of torch to be told, stacks and single blocks that need a norm at their end, and hand-written pairs."""
    named = dict(model.named_modules())
    layers = [path for path, m in named.items() if _post(m)]
    stacks = [path for path, m in named.items() if isinstance(m, _STACKS) and m.norm is None and _post(m.layers[0])]
    wiring = Wiring(model, situation.batch)
    stacked = tuple(f"{path}." if path else "" for path, m in named.items() if isinstance(m, _STACKS))
    single = {type(named[path]): path for path in layers if not (stacked and path.startswith(stacked))}
    ends = list(single.values())  # the last of each class
    pairs = [] if layers else _pairs(wiring)
    if not layers and not pairs:
        raise UnusableError(_why_not(model, wiring))
    return _Plan(layers, stacks, ends, pairs)


def _made(layer: Any) -> nn.Module:
    """A new norm of the size of a block's own."""
    return like(nn.LayerNorm(layer.norm1.normalized_shape[0], eps=layer.norm1.eps), layer)


def _as_written(layer: Any) -> str:
    norm = layer.norm1
    eps = "" if norm.eps == 1e-5 else f", eps={norm.eps}"
    return f"nn.LayerNorm({norm.normalized_shape[0]}{eps})" + moved(layer)


def _pairs(wiring: Wiring) -> list[_Pair]:
    """``norm(x + f(x))``: nothing but the norm reads the sum, and modules beside the norm are all that read x."""
    found: dict[Any, tuple[str, tuple[str, ...], Any]] = {}
    for one in wiring.passes:
        usable = one.leaf and one.role == "normalization" and not isinstance(one.module, _NormBase)
        if not usable or len(one.before) != 1 or wiring.calls(one.module) > 1:
            continue
        total = one.before[0]
        stream = wiring.stream(total)
        if stream is None or any(node not in one.inside for node in wiring.readers(total)):
            continue
        begun = _begun(wiring, one, stream, total)
        if begun:
            found[stream] = (one.path, begun, one.after[0])
    return [_Pair(norm, begun, after not in found) for norm, begun, after in found.values()]


def _begun(wiring: Wiring, norm: Pass, stream: Any, total: Any) -> tuple[str, ...]:
    """The modules in the same parent as the norm that read the stream, if there is no other reader."""
    parent = norm.path.rpartition(".")[0]
    beside = [one for one in wiring.passes if stream in one.before and one.path.rpartition(".")[0] == parent]
    beside = [one for one in beside if not one.leaf or one.role in ("weights", "attention")]
    readers = [node for node in wiring.readers(stream) if node is not total]
    if any(wiring.normalizes(node) for node in readers):
        return ()  # the branch reads it normalized already
    covered = readers and all(any(node in one.inside for one in beside) for node in readers)
    once = all(wiring.calls(one.module) == 1 for one in beside)
    return tuple(one.path for one in beside) if covered and once else ()


def _why_not(model: nn.Module, wiring: Wiring) -> str:
    if any(isinstance(m, FUSED) for m in model.modules()):
        return "the transformer's blocks are pre-norm already."
    around = next((one.path for one in wiring.passes if one.leaf and "attention" in wiring.next_kinds(one)), None)
    attention = next((one.path for one in wiring.passes if one.role == "attention"), around)
    if attention is None:
        return "nothing in this network is attention: it is no transformer."
    where = ".".join(attention.split(".")[:-1]) or type(model).__name__
    return (
        f"no normalization behind an addition was found around {attention}. If {where} is post-norm, write "
        "x = x + f(norm(x)) for x = norm(x + f(x)) in its forward, and a last norm behind the last block."
    )


def _treat(model: nn.Module, situation: Situation) -> nn.Module:
    plan = _plan(model, situation)
    for path in plan.layers:
        model.get_submodule(path).norm_first = True  # type: ignore[assignment]
    for path in plan.stacks:
        stack: Any = model.get_submodule(path)
        stack.norm = _made(stack.layers[0]).train(stack.training)
    for stack in model.modules():
        if isinstance(stack, nn.TransformerEncoder) and plan.layers:
            stack.use_nested_tensor = False
    for path in plan.ends:
        layer = model.get_submodule(path)
        model = put(model, path, Followed(layer, _made(layer)))
    for pair in plan.pairs:
        norm = model.get_submodule(pair.norm)
        put(model, pair.norm, copy.deepcopy(norm) if pair.last else nn.Identity())
        for path in pair.branch:
            put(model, path, PreNormed(norm, model.get_submodule(path)))
    return model


def _code(situation: Situation) -> Code:
    model = situation.model
    plan = _plan(model, situation)
    lines: list[str] = []
    if plan.layers:
        lines += ["for module in model.modules():", '    if hasattr(module, "norm_first"):']
        lines.append("        module.norm_first = True")
        lines += ['    if hasattr(module, "use_nested_tensor"):', "        module.use_nested_tensor = False"]
    for path in plan.stacks:
        stack: Any = model.get_submodule(path)
        place = f'model.get_submodule("{path}")' if path else "model"
        lines.append(f"{place}.norm = {_as_written(stack.layers[0])}")
    for path in plan.ends:
        norm = _as_written(model.get_submodule(path))
        made = f'Followed(model.get_submodule("{path}"), {norm})'
        lines.append(f'model.set_submodule("{path}", {made})' if path else f"model = Followed(model, {norm})")
    if plan.pairs:
        lines += _pair_lines(plan.pairs)
    more = aliases(model, [*plan.ends, *(p for pair in plan.pairs for p in (*pair.branch, pair.norm))])
    last = any(pair.last for pair in plan.pairs)
    return Code(
        imports=("import copy",) if last else (),
        classes=(*((Followed,) if plan.ends else ()), *((PreNormed,) if plan.pairs else ())),
        model="\n".join(lines) + more,
    )


def _pair_lines(pairs: Sequence[_Pair]) -> list[str]:
    """Loops over the pairs that have the same names, save for numbers."""
    alike: dict[tuple[str, str], list[tuple[str, str]]] = {}
    gone: dict[str, list[str]] = {}
    for pair in pairs:
        for path in pair.branch:
            alike.setdefault((_template(path), _template(pair.norm)), []).append((path, pair.norm))
        if not pair.last:
            gone.setdefault(_template(pair.norm), []).append(pair.norm)
    lines: list[str] = []
    for two in alike.values():
        paths, norms = listed([path for path, _ in two]), listed([norm for _, norm in two])
        lines.append(f"for path, norm in zip({paths}, {norms}):")
        lines.append("    branch = PreNormed(model.get_submodule(norm), model.get_submodule(path))")
        lines.append("    model.set_submodule(path, branch)")
    for paths in gone.values():
        lines += [f"for path in {listed(paths)}:", "    model.set_submodule(path, nn.Identity())"]
    kept = [pair.norm for pair in pairs if pair.last]
    lines += [f'model.set_submodule("{path}", copy.deepcopy(model.get_submodule("{path}")))' for path in kept]
    return lines


def _template(path: str) -> str:
    return re.sub(r"\d+", "#", path)


PRE_NORM = Remedy(
    name="pre_norm",
    title="normalization before the branches of a transformer",
    group="normalization",
    treats=(
        "vanishing_gradient",
        "exploding_gradient",
        "stalled_training",
        "diverging_loss",
        "loss_spike",
        "oscillating_loss",
        "rank_collapse",
        "attention_collapse",
    ),
    changes_function=True,
    source="Xiong et al., On layer normalization in the transformer architecture (2020), figure 1 and section 3",
    code=_code,
    model=_treat,
    unusable=objection(_plan),
    proofs=cases.PRE_NORM,
)
