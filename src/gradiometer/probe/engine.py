"""The probe: counts the steps of a training, opens a window on those to be sampled, makes a reading of each."""

from __future__ import annotations

import atexit
import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch
from torch import nn

from gradiometer.measures import Scalar, resolve
from gradiometer.probe import graph, intercept, observation
from gradiometer.probe.aftermath import Aftermath
from gradiometer.probe.bookkeeper import Bookkeeper
from gradiometer.probe.losses import Losses
from gradiometer.probe.notices import check_devices, say
from gradiometer.probe.parameters import ParameterMeter
from gradiometer.probe.roster import Roster
from gradiometer.probe.schedule import Schedule
from gradiometer.probe.sink import Sink
from gradiometer.probe.sites import SiteTracker
from gradiometer.probe.steps import StepNotes
from gradiometer.probe.unrest import Unrest
from gradiometer.records import ModelInfo, Reading

WINDOW_STEPS = 16
"""A window with several optimizers waits at most this many steps for each of them to step."""


class Probe:
    """Watches models and optimizers until it is stopped; the class that holds all state of a watch."""

    def __init__(self, sink: Sink, schedule: Schedule, level: str) -> None:
        """Nothing is touched before `begin`."""
        self.thread = threading.get_ident()
        self.roster = Roster(self._describe)
        self.sites = SiteTracker({}, self.fault)
        self.on = False
        self._failed = False
        self.accepts_optimizers = True
        self.on_unknown_module: Callable[[nn.Module], None] | None = None
        self.scalars_recorded: set[str] = set()
        self._sink = sink
        self._schedule = schedule
        self._level = level
        self._steps: list[int] = []
        self._losses = Losses()
        self._bookkeeper = Bookkeeper()
        self._unrest: dict[int, Unrest] = {}  # by the number of the optimizer
        self._notes = StepNotes()
        self._loss_operations: tuple[str, ...] = ()
        self._window = False
        self._window_seen: set[int] = set()
        self._window_steps = 0
        self._recent: dict[int, int] = {}  # optimizer -> total number of steps when it stepped last
        self._total = 0
        self._meter: ParameterMeter | None = None
        self._inside = 0.0
        self._aftermath = Aftermath()
        self._waiting_manual = False
        self._in_pass = False
        self._devices_checked = False

    # -- what is under watch ------------------------------------------------------------------------------------

    def add_optimizer(self, optimizer: torch.optim.Optimizer) -> int:
        """Puts an optimizer under watch and returns its number."""
        number = self.roster.add_optimizer(optimizer)
        self._recent[number] = self._total
        self._steps.append(0)
        return number

    def _number(self, optimizer: torch.optim.Optimizer) -> int | None:
        number = self.roster.number(optimizer)
        if number is None and self.accepts_optimizers and self.roster.holds(optimizer):
            number = self.add_optimizer(optimizer)
        return number

    @property
    def manual(self) -> bool:
        """Whether there is no optimizer at all: a step then ends where the next pass begins."""
        return not self.roster.optimizers

    def _describe(self, models: tuple[ModelInfo, ...], optimizers: tuple[str, ...]) -> None:
        with self._guard("describe"):
            self._sink.describe(models, optimizers)

    def wants(self, module: nn.Module) -> bool:
        """Whether a module's call is led through this probe: its own modules, and what they call."""
        if id(module) in self.roster.paths or self.sites.running:
            return True
        if self.on_unknown_module is None or not torch.is_grad_enabled() or self.sites.backward:
            return False
        try:
            self.on_unknown_module(module)
        except Exception as error:
            self.fault("discovery", error)
        return id(module) in self.roster.paths

    # -- life ---------------------------------------------------------------------------------------------------

    def find_optimizers(self, alive: Callable[[], list[torch.optim.Optimizer]]) -> None:
        """Puts those of the process that hold a parameter of a model under watch."""
        with self._guard("discovery"):
            for optimizer in alive():
                if self.roster.holds(optimizer) and self.roster.number(optimizer) is None:
                    self.add_optimizer(optimizer)

    def begin(self) -> None:
        """Begins to watch; the first step is sampled."""
        if self._failed:
            return
        self.on = True
        self._began = self._step_began = perf_counter()
        with self._guard("start"):
            atexit.register(self.stop)  # a script may end without the end of the block
            intercept.start(self)
            if self._schedule.due(0, 0.0):
                self._open()

    def stop(self) -> None:
        """Ends the watch: no hook or patch is left."""
        atexit.unregister(self.stop)
        if self.on and self._waiting_manual:
            with self._guard("step"):
                self._finish_step(0)
        if self.on and self.roster.optimizers and not self._total and self._losses.count > 1:
            with contextlib.suppress(Exception):
                self._sink.note(f"backward was called {self._losses.count} times, and no optimizer has stepped")
        self.flush()
        self._disconnect()
        intercept.remove_late()
        with contextlib.suppress(Exception):
            self._sink.close()

    def _disconnect(self) -> None:
        self.on = False
        self.sites.close()
        self._bookkeeper.drop()
        self._notes.renew()
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
        sites, outermost = self.sites, not self.sites.running
        if not (self._in_pass or sites.backward or sites.foreign) and torch.is_grad_enabled():
            self._in_pass = True
            with self._guard("step"):
                self._pass_begins(module, args, kwargs)
        if self._level != "full":
            return original(module, *args, **kwargs)
        output = self.sites.call(original, module, args, kwargs)
        if outermost:
            self._notes.gave(output)
        return output

    def _pass_begins(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._devices_checked:
            self._devices_checked = True
            check_devices(module, args)
        if self._waiting_manual:  # without an optimizer the step before ends here
            self._finish_step(0)
        if self.sites.propagation:
            self._notes.batch(args, kwargs)

    def backward_begins(self, roots: Any) -> None:
        """Notes the loss."""
        self.sites.backward += 1
        if not self.on or self.sites.backward > 1:
            return
        try:
            if self._waiting_manual:
                self._finish_step(0)
            self._notes.pass_begins()
            for root in self._losses.backward_begins(roots):
                if not self._window:
                    self._aftermath.look(root, self.roster)
                else:
                    self._loss_operations = graph.loss_operations(root, self.sites.nodes)
                    if not self._total:  # once: the graph is walked down to its leaves
                        self.roster.take_in(graph.leaves(root))
                    self._notes.backward_begins(root, self.roster.parameters())
                    if self._level == "full":
                        scaled = isinstance(self._losses.scale, torch.Tensor)
                        self._bookkeeper.begins(root, self.sites, scaled=scaled)
        except Exception as error:
            self.fault("loss", error)

    def backward_ends(self, failed: bool = False) -> None:
        """Ends a pass; one that failed is forgotten, since a training that goes on leaves it out as well."""
        self.sites.backward -= 1
        if not self.sites.backward:
            self._bookkeeper.ends(self.sites, failed)
        if not self.on or self.sites.backward:
            return
        self._in_pass = False
        self.sites.backward_ended(failed)
        if self._window and not failed:
            with self._guard("gradient"):
                self._notes.backward_ends()
        if failed:
            self._losses.backward_failed()
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
                self._losses.forget()
                self._renew()
            scale = getattr(optimizer, "grad_scale", None)
            self._measure_parameters(number, closure, 1.0 if scale is None else scale)

    def _measure_parameters(self, number: int, closure: bool, grad_scale: Scalar = 1.0) -> None:
        if not self._window:
            return
        start = perf_counter()
        with self._guard("parameters"):
            self._meter = self.roster.meter(number)
            self._meter.before(closure, grad_scale, copies=self.sites.log is not None)
            fused = isinstance(grad_scale, torch.Tensor)
            self._notes.stepping(self._meter.tensors, self._losses.scale, fused=fused)
        self._inside += perf_counter() - start

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """The counter: one step of one optimizer has ended."""
        if not self.on:
            return
        number = self.roster.number(optimizer)
        if number is None:
            with self._guard("discovery"):
                number = self._number(optimizer)
            if number is None:
                self._losses.forget()  # those losses were another model's
                return
        try:  # this and the next are on the way of every step, and a guard costs a microsecond
            self._finish_step(number)
        except Exception as error:
            self.fault("step", error)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _finish_step(self, number: int) -> None:
        began = perf_counter()
        if self._losses.due:
            self.flush()
        if not self._steps:
            self._steps.append(0)
        step = self._steps[number]
        self._waiting_manual = False
        # L-BFGS evaluates its closure many times in a step, the first time where the step begins.
        repeats = not self.manual and isinstance(self.roster.optimizers[number], torch.optim.LBFGS)
        keep = "loss" not in self.scalars_recorded
        loss = self._losses.step(number, step, first_only=repeats, keep=keep)
        if isinstance(loss, torch.Tensor) and loss.device.type == "cpu":  # elsewhere asking would stop the queue
            self._worry(number, loss.item())
        if self._window:
            self._read(number, step, loss)
        elif (found := self._aftermath.reading(number, step, perf_counter() - self._began, self._level)) is not None:
            self._sink.add_reading(found)
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
        recent, total = self._recent, self._total
        lead = 0 if len(recent) < 2 else min(n for n, at in recent.items() if total - at < 4 * WINDOW_STEPS)
        return self._schedule.due(self._steps[lead], now)

    def _read(self, number: int, step: int, loss: Scalar | None) -> None:
        parameters, norms = (), {}
        if self._meter is not None:
            parameters = self._meter.read()
            norms = self._meter.gradient_norms(parameters, number)
        self._meter = None
        loss_value, scale = resolve([math.nan if loss is None else loss, self._losses.scale])
        traced = self._bookkeeper.read(self.sites, self.roster, scale)
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
            ledger=traced.ledger,
            recurrences=traced.recurrences,
            birth=traced.birth,
            learning_rate=self.roster.learning_rate(number),
            **self._notes.read(norms),
        )
        self._sink.add_reading(reading)
        if not math.isfinite(loss_value) and loss is not None:
            self.flush()

    def _open(self) -> None:
        self._window = True
        self.thread = threading.get_ident()
        self._window_seen, self._window_steps = set(), 0
        backward = self.sites.backward
        self.sites = SiteTracker(self.roster.paths, self.fault)
        self.sites.backward = backward
        self._bookkeeper.opens(self.sites)
        self._renew()
        intercept.open_window(self)

    def _renew(self) -> None:
        self.sites.restart()
        self._notes.renew()
        self._loss_operations = ()

    def _close(self) -> None:
        self._window = False
        self._notes.renew()
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
                    self._losses.drop(number, step)
                self._sink.add_scalars(name, [(number, step, value)])

    def _newest(self) -> tuple[int, int]:
        number = max(self._recent, key=self._recent.__getitem__, default=0)
        step = self._steps[number] if self._steps else 0
        return number, step if self._losses.waiting or not step else step - 1

    def _worry(self, number: int, loss: float) -> None:
        if self._unrest.setdefault(number, Unrest()).seen(loss):
            self._schedule.demand()

    def flush(self) -> None:
        """Hands over the losses that are still on the device."""
        with self._guard("loss"):
            rows = self._losses.flush()
            if rows:
                self._sink.add_scalars("loss", rows)
            if self._losses.on_device:
                for number, _, value in rows:
                    self._worry(number, value)
