"""What is under watch: models and the places of their modules, optimizers and the parameters they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from gradiometer.probe import alive
from gradiometer.probe.parameters import ParameterMeter
from gradiometer.records import ModelInfo, Parameter


class Roster:
    """Models and optimizers in the order in which they came, and what they are called."""

    def __init__(self, changed: Callable[[tuple[ModelInfo, ...], tuple[str, ...]], None]) -> None:
        """``changed`` is told whenever something is added."""
        self.models: dict[str, nn.Module] = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        self.paths: dict[int, tuple[str, str]] = {}
        """``id(module)`` to the name of its model and its path, both as they stand in site names."""
        self._changed = changed
        self._names: dict[int, tuple[str, str]] = {}  # id(parameter) -> model, name
        self._transposed: set[int] = set()
        self._numbers: dict[int, int] = {}  # id(optimizer) -> place in the list
        self._parameters: dict[tuple[int, int, bool], Parameter] = {}
        self._strangers: list[Tensor] = []
        self._foreign: set[int] = set()  # parameters that an optimizer holds which is not under watch
        self._meters: dict[int, tuple[list[Any], list[tuple[Parameter, Tensor]], ParameterMeter]] = {}

    def add_model(self, name: str, model: nn.Module) -> None:
        """Puts a model under watch; its sites and parameters are prefixed with ``name``, if there is one."""
        self.models[name] = model
        prefix = f"{name}." if name else ""
        for path, module in model.named_modules():
            self.paths.setdefault(id(module), (name, (prefix + path).rstrip(".")))
        for path, parameter in model.named_parameters():
            self._names.setdefault(id(parameter), (name, prefix + path))
        # A unit of an embedding is one of its dimensions, as long as no output layer shares the weight.
        self._transposed |= _weights(model, _ConvTransposeNd, nn.Embedding, nn.EmbeddingBag) - _weights(
            model, nn.Linear
        )
        self._tell()

    def add_optimizer(self, optimizer: torch.optim.Optimizer) -> int:
        """Puts an optimizer under watch and returns its number."""
        self._numbers[id(optimizer)] = number = len(self.optimizers)
        self.optimizers.append(optimizer)
        self._tell()
        return number

    def holds(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer holds a parameter of a model under watch."""
        return any(id(p) in self._names for group in optimizer.param_groups for p in group["params"])

    def number(self, optimizer: torch.optim.Optimizer) -> int | None:
        """The number of an optimizer, ``None`` if it is not under watch."""
        return self._numbers.get(id(optimizer))

    def _tell(self) -> None:
        models = tuple(
            ModelInfo(name, type(m).__name__, sum(p.numel() for p in m.parameters() if not _lazy(p)))
            for name, m in self.models.items()
        )
        self._changed(models, tuple(type(o).__name__ for o in self.optimizers))

    @property
    def parameter_names(self) -> dict[int, str]:
        """``id(parameter)`` to its name."""
        return {key: name for key, (_, name) in self._names.items()}

    @property
    def trained(self) -> set[int]:
        """``id`` of the parameters that should get a gradient."""
        return {id(p) for model in self.models.values() for p in model.parameters() if p.requires_grad}

    def take_in(self, leaves: Iterable[Tensor]) -> None:
        """Notes parameters that take part in the training and that no model knows, and no optimizer of the process.

        Layers in a plain list are such: ``model.parameters()`` does not find them. What another optimizer holds is
        another model's, which nobody asked us to watch.
        """
        own = {id(p) for p in self.parameters()} | set(self._names) | self._foreign
        unknown = {id(p): p for p in leaves if isinstance(p, nn.Parameter) and id(p) not in own}
        if not unknown:
            return
        held = {id(p) for o in alive.optimizers() for group in o.param_groups for p in group["params"]}
        places = self._hidden()
        self._foreign |= unknown.keys() & held
        new = [p for key, p in unknown.items() if key not in held]
        self._strangers += new
        for p in new:
            self._names[id(p)] = places.get(id(p), ("", "a parameter outside every model"))

    def _hidden(self) -> dict[int, tuple[str, str]]:
        """Model and name of the parameters that lie in lists and dictionaries of a module."""
        out: dict[int, tuple[str, str]] = {}
        for name, model in self.models.items():
            for path, module in model.named_modules():
                start = ".".join(part for part in (name, path) if part)
                kept = ((a, v) for a, v in vars(module).items() if not a.startswith("_"))
                for attribute, value in kept:
                    parts = value.items() if isinstance(value, dict) else enumerate(value) if _listed(value) else ()
                    for key, part in parts:
                        if isinstance(part, nn.Module):
                            where = f"{start}.{attribute}[{key!r}]".lstrip(".")
                            out |= {id(p): (name, f"{where}.{n}") for n, p in part.named_parameters()}
        return out

    def parameters(self) -> list[Tensor]:
        """All parameters of the models under watch, each once, and what else an optimizer under watch holds."""
        own = (p for model in self.models.values() for p in model.parameters())
        others = (p for o in self.optimizers for group in o.param_groups for p in group["params"])
        return list({id(p): p for p in (*own, *others, *self._strangers)}.values())

    def learning_rate(self, number: int) -> float | None:
        """The largest learning rate of an optimizer's groups, ``None`` without one."""
        groups = self.optimizers[number].param_groups if self.optimizers else []
        rates = [float(group["lr"]) for group in groups if isinstance(group.get("lr"), (int, float))]
        return max(rates, default=None)

    def meter(self, number: int) -> ParameterMeter:
        """The meter of one optimizer, kept for as long as its parameters are the same tensors in the same memory."""
        count = sum(len(group["params"]) for o in self.optimizers for group in o.param_groups) + len(self._strangers)
        key, held, meter = self._meters.get(number, (None, None, None))
        if held is not None and meter is not None:
            same = [count, *((p.data_ptr(), p.requires_grad) for _, p in held)] == key
            if same:
                return meter
        held = self._held(number)
        meter = ParameterMeter(held)
        self._meters[number] = [count, *((p.data_ptr(), p.requires_grad) for _, p in held)], held, meter
        return meter

    def _held(self, number: int) -> list[tuple[Parameter, Tensor]]:
        """The parameters of one optimizer, and with the first optimizer those that none holds.

        Without any optimizer all are held by number 0: whoever changes the weights by hand.
        """
        held: list[tuple[Parameter, Tensor]] = []
        for i, optimizer in enumerate(self.optimizers):
            if i == number:
                for g, group in enumerate(optimizer.param_groups):
                    for k, p in enumerate(group["params"]):
                        held.append((self._parameter(p, i, f"param_groups[{g}][{k}]"), p))
        if number == 0:
            owned = {id(p) for o in self.optimizers for group in o.param_groups for p in group["params"]}
            holder = -1 if self.optimizers else 0
            everything = (*(p for model in self.models.values() for p in model.parameters()), *self._strangers)
            held += [(self._parameter(p, holder, ""), p) for p in everything if id(p) not in owned]
        return [(info, p) for info, p in held if not _lazy(p)]

    def _parameter(self, p: Tensor, number: int, otherwise: str) -> Parameter:
        key = (id(p), number, p.requires_grad)
        if key not in self._parameters:
            model, name = self._names.get(id(p), ("", otherwise))
            shape = () if _lazy(p) else tuple(p.shape)
            unit_dim = int(id(p) in self._transposed)
            dtype = str(p.dtype).removeprefix("torch.")
            self._parameters[key] = Parameter(name, shape, number, p.requires_grad, model, unit_dim, dtype)
        return self._parameters[key]


def _weights(model: nn.Module, *kinds: type) -> set[int]:
    """``id`` of the weights of some kinds of layers; of one that is parametrized to ask for it would run its code."""
    return {id(m._parameters.get("weight")) for m in model.modules() if isinstance(m, kinds)} - {id(None)}


def _listed(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _lazy(p: Tensor) -> bool:
    return nn.parameter.is_lazy(p)
