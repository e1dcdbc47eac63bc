"""Several networks of one shape as one: stacked parameters and buffers, one forward pass, one optimizer."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from gradiometer.probe.given import call, own_loss, parts
from gradiometer.probe.watch import unheard
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.randomness import RandomStates
from gradiometer.trials.training import Batches, Training, lost, score_of

ELEMENTWISE = (
    optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad, optim.NAdam, optim.RAdam, optim.Adamax,
    optim.Adadelta,
)  # fmt: skip
"""Optimizers that treat every element by itself, so that a stack of parameters is stepped as each of them would be."""

FUSED = (optim.Adam, optim.AdamW)
"""Those that can step all parameters in one call, on a processor as well: the same formula, a fraction of the time."""


_functorch: Any = vars(torch._C)["_functorch"]
"""What ``vmap`` itself puts a dimension away with, and takes it out again."""


class Unstackable(Exception):  # noqa: N818 - no error that anybody sees
    """A recipe, or a step of it, that has no form for several seeds at once."""


class Together:
    """Several trainings that have not begun, taken as one from here on; the trainings themselves stay as they are.

    The network is a copy of the first one, whose parameters and buffers are put in their places stacked while it runs
    under ``torch.func.vmap``, which knows them as those of one network. Everything else is as in `Training`: each
    seed has its own batches, its own loss, its own norm to clip by.

    Raises:
        Unstackable, or whatever torch raises: this recipe cannot be trained so.
    """

    def __init__(self, recipe: Recipe, trainings: Sequence[Training]) -> None:
        """Copies what the trainings have; raises if there is no way."""
        if recipe.step is not None or recipe.autocast is not None or recipe.scaler:
            raise Unstackable("a step of one's own, or one in a number format of its own")
        self.recipe = recipe
        self.losses: list[list[float]] = [[] for _ in trainings]
        self.failures = [""] * len(trainings)
        self.seconds = 0.0
        self._seeds = [training.seed for training in trainings]
        self._batches = [Batches(recipe, seed) for seed in self._seeds]
        self._ended: dict[int, dict[str, Tensor]] = {}  # the values of those that failed, as they were then
        _check_hooks(trainings[0].model)
        self._model = copy.deepcopy(trainings[0].model)
        self._places = _Places(self._model)
        self.begun = [
            {name: x.detach().clone() for name, x in tensors(training.model).items()} for training in trainings
        ]
        names = set(self.begun[0])
        if any(set(values) != names for values in self.begun) or names != set(self._places.values):
            raise Unstackable("networks that differ")
        self._stacked = {
            name: _stacked([values[name] for values in self.begun]).requires_grad_(one.requires_grad)
            for name, one in self._places.values.items()
        }
        self._optimizer = _optimizer(recipe, self._model, self._stacked, self._places)
        self._schedule = recipe.schedule(self._optimizer) if recipe.schedule is not None else None
        for module in self._model.modules():
            if type(module) is nn.Linear and "forward" not in vars(module):
                module.__class__ = _Linear

    @property
    def steps(self) -> int:
        """Steps of those that have not failed."""
        return max(map(len, self.losses))

    def advance(self, until: int, deadline: float = math.inf) -> None:
        """Takes steps until there are ``until`` of them, all trainings have failed, or the deadline has passed."""
        began = perf_counter()
        # Fused attention has no form for several networks; its formula, written out, has.
        with RandomStates() as states, unheard(), sdpa_kernel(SDPBackend.MATH):
            while self.steps < until and not all(self.failures) and monotonic() < deadline:
                self._step()
        if states.moved:
            raise Unstackable("random numbers that each seed would draw by itself")
        self.seconds += perf_counter() - began

    def score(self, i: int) -> float | None:
        """What ``evaluate`` says of one of the networks."""
        values = self.values(i)
        with torch.no_grad():
            for name, own in self._places.values.items():
                own.copy_(values[name])
        return score_of(self.recipe, self._model, self._seeds[i])

    def values(self, i: int) -> dict[str, Tensor]:
        """The parameters and buffers of one of the networks."""
        return self._ended.get(i) or {name: x.detach()[i] for name, x in self._stacked.items()}

    def _step(self) -> None:
        batches = [parts(next(one), self.recipe.loss) for one in self._batches]
        self._optimizer.zero_grad()
        run = vmap(self._forward, randomness="error")  # random numbers: each seed would draw its own
        outputs = _apart(run(self._stacked, _stacked([given for given, _ in batches])), len(batches))
        losses = {
            i: self._loss(own, targets)
            for i, (own, (_, targets)) in enumerate(zip(outputs, batches, strict=True))
            if not self.failures[i]
        }
        torch.autograd.backward(list(losses.values()))
        if self.recipe.clip is not None:
            _clip(list(self._stacked.values()), self.recipe.clip)
        self._optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        for i, value in zip(losses, torch.stack([x.detach() for x in losses.values()]).tolist(), strict=True):
            self.losses[i].append(value)
            self.failures[i] = lost(self.losses[i])
            if self.failures[i]:
                self._ended[i] = {name: x.clone() for name, x in self.values(i).items()}

    def _forward(self, values: Mapping[str, Tensor], inputs: Any) -> Any:
        with self._places.filled(values):
            return call(self._model, inputs)

    def _loss(self, outputs: Any, targets: Any) -> Tensor:
        loss = own_loss(outputs) if self.recipe.loss is None else self.recipe.loss(outputs, targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise Unstackable("a loss that is not one number")
        return loss.reshape(())


class _Places:
    """Where the parameters and buffers of a model are kept, each under all of its names."""

    def __init__(self, model: nn.Module) -> None:
        self.values = tensors(model)
        names = {id(x): name for name, x in self.values.items()}
        self._places = [
            (held, key, names[id(x)])
            for module in model.modules()
            for held in (module._parameters, module._buffers)
            for key, x in held.items()
            if x is not None
        ]

    def filled(self, values: Mapping[str, Tensor]) -> _Filled:
        return _Filled(self._places, self.values, values)


class _Filled:
    """While it lasts other values stand in these places."""

    def __init__(
        self, places: list[tuple[Any, str, str]], own: Mapping[str, Tensor], other: Mapping[str, Tensor]
    ) -> None:
        self._places, self._own, self._other = places, own, other

    def __enter__(self) -> None:
        for held, key, name in self._places:
            held[key] = self._other[name]

    def __exit__(self, kind: object, *_: object) -> None:
        rebound = False
        for held, key, name in self._places:
            rebound |= held[key] is not self._other[name]
            held[key] = self._own[name]
        if rebound and kind is None:
            raise Unstackable("a buffer that is not changed in place but made anew")


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _check_hooks(model: nn.Module) -> None:
    """Refuses hooks on gradients: they would see those of all seeds as one."""
    for module in model.modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise Unstackable("a hook on the gradients of a module")
    for x in model.parameters():
        if x._backward_hooks or x._post_accumulate_grad_hooks:
            raise Unstackable("a hook on the gradient of a parameter")


def _optimizer(recipe: Recipe, model: nn.Module, stacked: Mapping[str, Tensor], places: _Places) -> Optimizer:
    """The recipe's optimizer over stacked parameters.

    It is made for the copy of the network first, and its groups and options are then taken over: a factory that looks
    at what it is given (no weight decay for vectors) would take stacked vectors for matrices.
    """
    own = recipe.optimizer(model.parameters())
    kind = type(own)
    hooks = (own._optimizer_step_pre_hooks, own._optimizer_step_post_hooks, "step" in vars(own))
    if kind not in ELEMENTWISE or any(hooks) or (own.state and kind is not optim.Adagrad):
        raise Unstackable(f"an optimizer whose steps are not those of {kind.__name__}, element by element")
    names = {id(x): name for name, x in places.values.items()}
    fused = kind in FUSED and all(x.is_floating_point() and x.device.type == "cpu" for x in model.parameters())
    groups = []
    for group in own.param_groups:
        options = {**group, "params": [stacked[names[id(x)]] for x in group["params"]]}
        if fused and options["fused"] is None and not (options["foreach"] or options["differentiable"]):
            options["fused"] = True
        groups.append(options)
    asked = inspect.signature(kind).parameters
    return kind(groups, **{name: value for name, value in own.defaults.items() if name in asked})


def _stacked(values: Sequence[Any]) -> Any:
    """Tensors stacked, and what holds them as it is."""
    first = values[0]
    if isinstance(first, Tensor):
        if any(x.dtype != first.dtype or x.device != first.device for x in values):
            raise Unstackable("tensors that differ in kind")
        return torch.stack(list(values))
    if type(first) in (tuple, list):
        return tuple(_stacked(row) for row in zip(*values, strict=True))
    if isinstance(first, Mapping):
        return {key: _stacked([value[key] for value in values]) for key in first}
    raise Unstackable(f"{type(first).__name__}, which cannot be stacked")


def _apart(value: Any, count: int) -> list[Any]:
    """What is stacked, one by one."""
    if isinstance(value, Tensor):
        return list(value.unbind())
    if isinstance(value, Mapping):
        rows = {key: _apart(one, count) for key, one in value.items()}
        return [{key: row[i] for key, row in rows.items()} for i in range(count)]
    if isinstance(value, (tuple, list)):
        rows = [_apart(one, count) for one in value]
        return [tuple(row[i] for row in rows) for i in range(count)]
    return [value] * count


def _clip(parameters: Sequence[Tensor], bound: float) -> None:
    """``clip_grad_norm_`` for each of the networks."""
    gradients = [x.grad for x in parameters if x.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in gradients])
    factors = (bound / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *(1,) * (gradient.dim() - 1)))


class _Linear(nn.Linear):
    """A linear layer of several networks as one product of stacked matrices.

    ``vmap`` gets there by five operations, of which each costs as much as the product of a small layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        given = input, self.weight, self.bias
        levels = {None if one is None else _functorch.maybe_get_level(one) for one in given}
        if input.dim() < 2 or len(levels) > 1 or not all(map(_functorch.is_batchedtensor, given)):
            return super().forward(input)
        level = levels.pop()
        rows, weight, bias = (_functorch._remove_batch_dim(one, level, 0, 0) for one in given)
        made = torch.baddbmm(bias.unsqueeze(1), rows.flatten(1, -2), weight.transpose(1, 2))
        return _functorch._add_batch_dim(made.unflatten(1, rows.shape[1:-1]), 0, level)
