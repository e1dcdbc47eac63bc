"""The probe: counts the steps of a training, opens a window on those to be sampled, makes a reading of each."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gradiometer.errors import GradiometerWarning
from gradiometer.measures import Scalar, resolve
from gradiometer.probe import graph, intercept, observation
from gradiometer.probe.parameters import ParameterMeter
from gradiometer.probe.schedule import Schedule
from gradiometer.probe.sites import SiteTracker
from gradiometer.records import ModelInfo, Parameter, Reading

FLUSH_SECONDS = 1.0
"""Losses of steps that are not sampled are read from the device and handed over about this often."""

WINDOW_STEPS = 16
"""A window with several optimizers waits at most this many steps for each of them to step."""


class Sink(Protocol):
    """Where readings go: memory, or the writer of a run file. No method may block or raise."""

    def add_reading(self, reading: Reading) -> None:
        """Takes a reading."""

    def add_scalars(self, name: str, rows: list[tuple[int, int, float]]) -> None:
        """Takes rows ``(optimizer, step, value)``."""

    def describe(self, models: tuple[ModelInfo, ...], optimizers: tuple[str, ...]) -> None:
        """Takes what is under watch; called again when that grows."""

    def note(self, text: str) -> None:
        """Takes something the instrument has to say about itself."""

    def close(self) -> None:
        """Writes what is left."""


class Probe:
    """Watches models and optimizers until it is stopped; the class that holds all state of a watch."""

    def __init__(self, sink: Sink, schedule: Schedule, level: str) -> None:
        """Nothing is touched before `start`."""
        self.thread = threading.get_ident()
        self.sites = SiteTracker({}, self.fault)
        self.on = False
        self._failed = False
        self.manual = False  # no optimizer at all: a step ends where the next pass begins
        self.accepts_optimizers = True
        self.on_unknown_module: Callable[[nn.Module], None] | None = None
        self.scalars_recorded: set[str] = set()
        self._sink = sink
        self._schedule = schedule
        self._level = level
        self._models: dict[str, nn.Module] = {}
        self._paths: dict[int, tuple[str, str]] = {}
        self._names: dict[int, tuple[str, str]] = {}  # id(parameter) -> model, name
        self._optimizers: dict[int, int] = {}
        self._optimizer_list: list[torch.optim.Optimizer] = []
        self._steps: list[int] = []
        self._losses: list[tuple[int, int, Scalar]] = []
        self._pending: list[Scalar] = []  # losses backward was called on since the last step
        self._pending_before = 0  # how many of them, before the backward that is running
        self._loss_scale: Scalar = 1.0
        self._loss_operations: tuple[str, ...] = ()
        self._window = False
        self._window_seen: set[int] = set()
        self._window_steps = 0
        self._recent: dict[int, int] = {}  # optimizer -> total number of steps when it stepped last
        self._total = 0
        self._meter: ParameterMeter | None = None
        self._meters: dict[int, tuple[list[Any], list[tuple[Parameter, Tensor]], ParameterMeter]] = {}
        self._parameters: dict[tuple[int, int, bool], Parameter] = {}
        self._inside = 0.0
        self._waiting_manual = False
        self._in_pass = False
        self._devices_checked = False

    # -- what is under watch ------------------------------------------------------------------------------------

    def add_model(self, name: str, model: nn.Module) -> None:
        """Puts a model under watch; its sites and parameters are prefixed with ``name``, if there is one."""
        self._models[name] = model
        prefix = f"{name}." if name else ""
        for path, module in model.named_modules():
            self._paths.setdefault(id(module), (name, (prefix + path).rstrip(".")))
        for path, parameter in model.named_parameters():
            self._names.setdefault(id(parameter), (name, prefix + path))
        self._describe()

    def add_optimizer(self, optimizer: torch.optim.Optimizer) -> int:
        """Puts an optimizer under watch and returns its number."""
        self._optimizers[id(optimizer)] = number = len(self._optimizer_list)
        self._recent[number] = self._total
        self._optimizer_list.append(optimizer)
        self._steps.append(0)
        self.manual = False
        self._describe()
        return number

    def holds(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer holds a parameter of a model under watch."""
        return any(id(p) in self._names for group in optimizer.param_groups for p in group["params"])

    def knows(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer is under watch."""
        return id(optimizer) in self._optimizers

    def wants(self, module: nn.Module) -> bool:
        """Whether a module's call is led through this probe: its own modules, and what they call."""
        if id(module) in self._paths or self.sites.running:
            return True
        if self.on_unknown_module is None or not torch.is_grad_enabled() or self.sites.backward:
            return False
        try:
            self.on_unknown_module(module)
        except Exception as error:
            self.fault("discovery", error)
        return id(module) in self._paths

    def _describe(self) -> None:
        models = tuple(
            ModelInfo(name, type(m).__name__, sum(p.numel() for p in m.parameters() if not _lazy(p)))
            for name, m in self._models.items()
        )
        with self._guard("describe"):
            self._sink.describe(models, tuple(type(o).__name__ for o in self._optimizer_list))

    # -- life ---------------------------------------------------------------------------------------------------

    def find_optimizers(self, alive: Callable[[], list[torch.optim.Optimizer]]) -> None:
        """Puts those of the process that hold a parameter of a model under watch."""
        with self._guard("discovery"):
            for optimizer in alive():
                if self.holds(optimizer) and not self.knows(optimizer):
                    self.add_optimizer(optimizer)

    def begin(self) -> None:
        """Begins to watch; the first step is sampled."""
        if self._failed:
            return
        self.on = True
        self.manual = not self._optimizers
        self._began = self._step_began = perf_counter()
        self._flushed = self._began
        with self._guard("start"):
            intercept.start(self)
            if self._schedule.due(0, 0.0):
                self._open()

    def stop(self) -> None:
        """Ends the watch: no hook or patch is left."""
        if self.on and self._waiting_manual:
            with self._guard("step"):
                self._finish_step(0)
        self.flush()
        self._disconnect()
        intercept.remove_late()
        with contextlib.suppress(Exception):
            self._sink.close()

    def _disconnect(self) -> None:
        self.on = False
        self.sites.close()
        intercept.close_window(self)
        intercept.stop(self)
        self._window, self._meter = False, None

    def fault(self, where: str, error: BaseException) -> None:
        """Switches the instrument off for good and says so once; the training goes on."""
        if self._failed:
            return
        self._failed = True
        self._disconnect()
        text = (
            f"gradiometer stopped watching: a fault of its own in the {where} part "
            f"({type(error).__name__}: {error}). The training goes on untouched; what was recorded is kept."
        )
        say(text)
        with contextlib.suppress(Exception):
            self._sink.note(text)

    @contextlib.contextmanager
    def _guard(self, where: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.fault(where, error)

    # -- what torch tells -----------------------------------------------------------------------------------------

    def call(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Stands in for the call of a module in a window."""
        sites = self.sites
        if not (self._in_pass or sites.backward or sites.foreign) and torch.is_grad_enabled():
            self._in_pass = True
            with self._guard("step"):
                self._pass_begins(module, args)
        if self._level == "full":
            return self.sites.call(original, module, args, kwargs)
        return original(module, *args, **kwargs)

    def _pass_begins(self, module: nn.Module, args: Any) -> None:
        if not self._devices_checked:
            self._devices_checked = True
            _check_devices(module, args)
        if self._waiting_manual:  # without an optimizer the step before ends here
            self._finish_step(0)

    def backward_begins(self, roots: Any) -> None:
        """Notes the loss."""
        self.sites.backward += 1
        if not self.on or self.sites.backward > 1:
            return
        with self._guard("loss"):
            if self._waiting_manual:
                self._finish_step(0)
            self._pending_before = len(self._pending)
            # Neither an iterator, which can be read but once, nor the edges of a graph, which have no value.
            for root in roots if isinstance(roots, (list, tuple)) else (roots,):
                if isinstance(root, Tensor):
                    self._note_loss(root)

    def _note_loss(self, root: Tensor) -> None:
        noted = intercept.loss_before_scaling(root)
        loss, self._loss_scale = noted if noted is not None else (root.detach(), 1.0)
        if loss.numel() != 1 or loss.layout is not torch.strided or loss.device.type == "meta":
            return
        self._pending.append(loss.item() if loss.device.type == "cpu" else loss)
        if self._window:
            self._loss_operations = graph.loss_operations(root, self.sites.nodes)

    def backward_ends(self, failed: bool = False) -> None:
        """Ends a pass; one that failed is forgotten, since a training that goes on leaves it out as well."""
        self.sites.backward -= 1
        if not self.on or self.sites.backward:
            return
        self._in_pass = False
        self.sites.backward_ended(failed)
        if failed:
            del self._pending[self._pending_before :]
        elif self.manual:
            self._waiting_manual = True
            self._measure_parameters(0, closure=False)

    def stepping(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Copies the weights of an optimizer that is about to step, in a window."""
        if not self._window:
            return
        with self._guard("parameters"):
            number = self._number(optimizer)
            if number is None:
                return
            if isinstance(optimizer, torch.optim.LBFGS):  # all of its step is in the closure: begin from there
                self._pending.clear()
                self._renew()
            scale = getattr(optimizer, "grad_scale", None)
            self._measure_parameters(number, closure, 1.0 if scale is None else scale)

    def _measure_parameters(self, number: int, closure: bool, grad_scale: Scalar = 1.0) -> None:
        if not self._window:
            return
        start = perf_counter()
        with self._guard("parameters"):
            self._meter = self._meter_for(number)
            self._meter.before(closure, grad_scale)
        self._inside += perf_counter() - start

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """The counter: one step of one optimizer has ended."""
        if not self.on:
            return
        number = self._optimizers.get(id(optimizer))
        if number is None:
            with self._guard("discovery"):
                number = self._number(optimizer)
            if number is None:
                self._pending.clear()  # those losses were another model's
                return
        with self._guard("step"):
            self._finish_step(number)

    def _number(self, optimizer: torch.optim.Optimizer) -> int | None:
        number = self._optimizers.get(id(optimizer))
        if number is None and self.accepts_optimizers and self.holds(optimizer):
            number = self.add_optimizer(optimizer)
        return number

    def _meter_for(self, number: int) -> ParameterMeter:
        """The meter of one optimizer, kept for as long as its parameters are the same tensors in the same memory."""
        count = sum(len(group["params"]) for o in self._optimizer_list for group in o.param_groups)
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
        """The parameters of one optimizer, and with the first optimizer those that none holds."""
        held: list[tuple[Parameter, Tensor]] = []
        for i, optimizer in enumerate(self._optimizer_list):
            if i == number:
                for g, group in enumerate(optimizer.param_groups):
                    for k, p in enumerate(group["params"]):
                        held.append((self._parameter(p, i, f"param_groups[{g}][{k}]"), p))
        if number == 0:
            owned = {id(p) for o in self._optimizer_list for group in o.param_groups for p in group["params"]}
            holder = 0 if self.manual else -1
            rest = (p for model in self._models.values() for p in model.parameters() if id(p) not in owned)
            held += [(self._parameter(p, holder, ""), p) for p in rest]
        return [(info, p) for info, p in held if not _lazy(p)]

    def _parameter(self, p: Tensor, number: int, otherwise: str) -> Parameter:
        key = (id(p), number, p.requires_grad)
        if key not in self._parameters:
            model, name = self._names.get(id(p), ("", otherwise))
            shape = () if _lazy(p) else tuple(p.shape)
            self._parameters[key] = Parameter(name, shape, number, p.requires_grad, model)
        return self._parameters[key]

    # -- steps ----------------------------------------------------------------------------------------------------

    def _finish_step(self, number: int) -> None:
        began = perf_counter()
        if began - self._flushed > FLUSH_SECONDS:
            self.flush()
        if not self._steps:
            self._steps.append(0)
        step = self._steps[number]
        self._waiting_manual = False
        loss = self._loss(number)
        if loss is not None and "loss" not in self.scalars_recorded:
            self._losses.append((number, step, loss))
        if self._window:
            self._read(number, step, loss)
        self._steps[number] = step + 1
        self._total += 1
        self._recent[number] = self._total
        now = perf_counter()
        length, self._step_began = now - self._step_began, now
        if self._window:
            self._schedule.sampled(length, self._inside + self.sites.inside + now - began)
            self._inside = 0.0
            self._window_seen.add(number)
            self._window_steps += 1
            # Optimizers that have stepped lately are waited for, so that a window holds a step of each.
            lately = {n for n, at in self._recent.items() if self._total - at < 4 * WINDOW_STEPS}
            if self._window_steps >= WINDOW_STEPS or lately <= self._window_seen:
                self._close()
            else:
                self._renew()
        else:
            self._schedule.plain(length)
        if not self._window and self._due(now - self._began):
            self._open()

    def _due(self, now: float) -> bool:
        # With several optimizers "every n-th step" means every n-th of the first of those at work. It is asked for
        # after a step of any of them, since its own next step may come right after another's.
        lead = min(n for n, at in self._recent.items() if self._total - at < 4 * WINDOW_STEPS)
        return self._schedule.due(self._steps[lead], now)

    def _loss(self, number: int) -> Scalar | None:
        losses, self._pending = self._pending, []
        if not losses:
            return None
        # L-BFGS evaluates its closure many times in a step, the first time where the step begins.
        repeats = not self.manual and isinstance(self._optimizer_list[number], torch.optim.LBFGS)
        return losses[0] if repeats else _sum(losses)

    def _read(self, number: int, step: int, loss: Scalar | None) -> None:
        parameters = self._meter.read() if self._meter is not None else ()
        self._meter = None
        loss_value, scale = resolve([math.nan if loss is None else loss, self._loss_scale])
        reading = Reading(
            step=step,
            optimizer=number,
            time=perf_counter() - self._began,
            loss=None if loss is None else loss_value,
            loss_scale=scale,
            level=self._level,
            passes=self.sites.passes,
            sites=observation.read(self.sites.observations, scale),
            parameters=parameters,
            loss_operations=self._loss_operations,
        )
        self._sink.add_reading(reading)
        if not math.isfinite(loss_value) and loss is not None:
            self.flush()

    def _open(self) -> None:
        self._window = True
        self.thread = threading.get_ident()
        self._window_seen, self._window_steps = set(), 0
        backward = self.sites.backward
        self.sites = SiteTracker(self._paths, self.fault)
        self.sites.backward = backward
        self._renew()
        intercept.open_window(self)

    def _renew(self) -> None:
        self.sites.restart()
        self._loss_operations, self._loss_scale = (), 1.0

    def _close(self) -> None:
        self._window = False
        self.sites.close()
        intercept.close_window(self)

    # -- scalars --------------------------------------------------------------------------------------------------

    def record(self, scalars: dict[str, Scalar]) -> None:
        """Adds scalars to the step whose backward came last."""
        with self._guard("record"):
            number, step = self._newest()
            for name, given in scalars.items():
                try:
                    value = float(given)
                except (TypeError, ValueError, RuntimeError):
                    say(f"record({name}=...) takes one number, and got {type(given).__name__}: it was left out.")
                    continue
                self.scalars_recorded.add(name)
                if name == "loss":  # what was seen of this step's is not wanted any more
                    self._losses = [row for row in self._losses if row[:2] != (number, step)]
                self._sink.add_scalars(name, [(number, step, value)])

    def _newest(self) -> tuple[int, int]:
        number = max(self._recent, key=self._recent.__getitem__, default=0)
        step = self._steps[number] if self._steps else 0
        return number, step if self._pending or not step else step - 1

    def flush(self) -> None:
        """Hands over the losses that are still on the device."""
        rows, self._losses = self._losses, []
        self._flushed = perf_counter()
        if not rows:
            return
        with self._guard("loss"):
            values = resolve(value for _, _, value in rows)
            self._sink.add_scalars("loss", [(n, s, v) for (n, s, _), v in zip(rows, values, strict=True)])
            if not all(map(math.isfinite, values)):
                self._schedule.demand()


def say(text: str) -> None:
    """Warns; where warnings are errors it prints instead, since nothing of ours may end a training."""
    try:
        warnings.warn(text, GradiometerWarning, stacklevel=3)
    except Exception:
        with contextlib.suppress(Exception):
            print(text, file=sys.stderr)


def _check_devices(module: nn.Module, args: Any) -> None:
    weight = next(module.parameters(), None)
    for x in args:
        if weight is not None and isinstance(x, Tensor) and x.dim() and x.device != weight.device:
            say(
                f"the batch is on {x.device} and {type(module).__name__} on {weight.device}: the forward pass "
                f"will fail. Move one to the other, for example batch.to({str(weight.device)!r})."
            )


def _sum(values: Iterable[Scalar]) -> Scalar:
    total: Scalar = 0.0
    for value in values:
        total = total + value
    return total


def _lazy(p: Tensor) -> bool:
    return nn.parameter.is_lazy(p)
