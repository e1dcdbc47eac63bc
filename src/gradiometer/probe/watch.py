"""`watch`: the one line that people add to their training."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import nn

from gradiometer.errors import InputError
from gradiometer.measures import Scalar
from gradiometer.probe import alive, discovery, intercept
from gradiometer.probe.engine import Probe
from gradiometer.probe.schedule import Schedule
from gradiometer.records import Run
from gradiometer.store import MemoryRun, RunWriter

Models = nn.Module | Iterable[nn.Module] | Mapping[str, nn.Module]
Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]


class watch:  # noqa: N801 - used as a function, like `open`
    """Watches the training of one or several models, for as long as the block lasts.

    Formula: an interval between sampled steps such that (cost of sampling) <= ``budget`` * (time of training).

    Args:
        model: a module, several of them, or a mapping from the names their sites shall be prefixed with.
        optimizer: the optimizer or optimizers of the loop; without, every one that holds a parameter of the
            model is found when it steps. A loop without any (weights changed by hand) works as well: a step
            then ends where the next forward pass begins.
        loss: the loss function. A module among them is watched as the site ``loss``; else its name is noted.
        budget: the share of the training's time that watching may cost, in (0, 1].
        every: samples every n-th step instead, whatever it costs.
        level: ``"full"`` measures activations, gradients and parameters, ``"parameters"`` only the last.
        path: a file to write the run to, which must not exist; ``None`` keeps it in memory.

    Returns:
        A context manager. ``watch.run`` is the `Run` so far, ``watch.record(accuracy=0.9)`` adds scalars,
        ``watch.close()`` ends it early.

    Raises:
        InputError: a model without parameters, what is no optimizer, options out of range.
        RunError: the file exists, or cannot be written.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, optimizer) as w:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(16, 4)).square().mean().backward()
        ...         optimizer.step()
        >>> w.run.steps, [site.name for site in w.run.readings[0].sites]
        (3, ['0', '1', '2'])

    Source:
        The quantities: Nielsen, Neural Networks and Deep Learning (2015), chapter 5 (learning speed by neuron);
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010), section 4
        (activation and gradient by layer, saturation).
    """

    def __init__(
        self,
        model: Models,
        optimizer: Optimizers | None = None,
        *,
        loss: Callable[..., Any] | None = None,
        budget: float = 0.01,
        every: int | None = None,
        level: Literal["parameters", "full"] = "full",
        path: str | PathLike[str] | None = None,
    ) -> None:
        """Checks what it is given; nothing is touched before the block is entered."""
        models, optimizers = _models(model), _optimizers(optimizer)
        _check(models)
        check_options(budget, every, level)
        if isinstance(loss, nn.Module):
            models["loss"] = loss
        details: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version(), "level": level}
        details |= {"budget": budget, "every": every}
        if loss is not None:
            details["loss"] = getattr(loss, "__name__", type(loss).__name__)
        name = " and ".join(type(m).__name__ for m in models.values())
        self._sink = MemoryRun(name, details) if path is None else RunWriter(path, details)
        self._probe = Probe(self._sink, Schedule(budget, every), level)
        for prefix, module in models.items():
            self._probe.roster.add_model(prefix, module)
        self._entered = False
        for one in optimizers:
            self._probe.add_optimizer(one)
        self._probe.accepts_optimizers = optimizer is None

    def __enter__(self) -> Self:
        """Starts watching; the first step is sampled."""
        if self._entered:
            raise InputError("this watch was entered before, and its run is closed. Make a new one with gm.watch(...).")
        self._entered = True
        if self._probe.accepts_optimizers:
            self._probe.find_optimizers(alive.optimizers)
        self._probe.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends watching, also after an exception, which goes on."""
        if kind is not None:
            self._sink.note(f"the block ended by {kind.__name__}: {str(error)[:200]}".rstrip(": "))
        self.close()

    def __repr__(self) -> str:
        """What is watched, in short."""
        return f"<gradiometer.watch of {', '.join(type(m).__name__ for m in self._probe.roster.models.values())}>"

    def record(self, **scalars: float | torch.Tensor) -> None:
        """Adds scalars to the step whose backward pass came last, such as ``loss=0.3, accuracy=0.9``."""
        values: dict[str, Scalar] = dict(scalars)
        self._probe.record(values)

    @property
    def run(self) -> Run:
        """The run so far; the same before and after the end of the block."""
        self._probe.flush()
        return self._sink.run()

    @property
    def path(self) -> str | None:
        """The file the run is written to, ``None`` in memory."""
        return self._sink.path

    def close(self) -> None:
        """Ends watching: all hooks are gone and the run is written. Safe to call twice."""
        self._probe.stop()


def _models(model: Models) -> dict[str, nn.Module]:
    if isinstance(model, nn.Module):
        return {"": model}
    if isinstance(model, Mapping):
        named: dict[Any, Any] = dict(model)
    elif isinstance(model, Iterable):
        parts = list(model)
        named = {}
        for part in parts:
            name = type(part).__name__
            alike = sum(type(other) is type(part) for other in parts) > 1
            named[f"{name}{len([n for n in named if n.startswith(name)])}" if alike else name] = part
        if len(parts) == 1:
            named = {"": parts[0]}
    else:
        named = {"": model}
    for part in named.values():
        if not isinstance(part, nn.Module):
            raise InputError(f"watch needs a torch.nn.Module and got {type(part).__name__}. Give it the model itself.")
    return named


def _optimizers(optimizer: Optimizers | None) -> list[torch.optim.Optimizer]:
    if optimizer is None:
        return []
    several = list(optimizer) if isinstance(optimizer, Iterable) else [optimizer]
    if not all(isinstance(o, torch.optim.Optimizer) for o in several):
        raise InputError(
            f"watch needs a torch.optim.Optimizer and got {type(optimizer).__name__}. Give it the optimizer inside, "
            "or leave it out: what steps on this model's parameters is then found by itself."
        )
    return several


def _check(models: dict[str, nn.Module]) -> None:
    if not models:
        raise InputError("watch got no model. Give it the module that is trained.")
    names = " and ".join(type(m).__name__ for m in models.values())
    mine = {id(p) for m in models.values() for p in m.parameters()}
    if not mine:
        raise InputError(
            f"{names} has no parameters, so nothing of it is trained. Watch the model that the optimizer holds."
        )


def check_options(budget: float, every: int | None, level: str) -> None:
    """Refuses options that mean nothing, before anything is touched."""
    if not isinstance(budget, (int, float)) or not 0 < budget <= 1:
        raise InputError(
            f"budget is a share of the training's time, above 0 and up to 1, and not {budget!r}. 0.01 is usual."
        )
    if every is not None and (not isinstance(every, (int, float)) or every != int(every) or every < 1):
        raise InputError(f"every counts steps and must be a whole number from 1 on, and not {every!r}.")
    if level not in ("parameters", "full"):
        raise InputError(f'level is "parameters" or "full", and not {level!r}.')


def watch_anything(sink: RunWriter, *, budget: float, every: int | None, level: str) -> Probe:
    """A probe, started, that finds models and optimizers by itself (for scripts that are run unmodified)."""
    probe = Probe(sink, Schedule(budget, every), level)
    discovery.Discovery(probe)
    probe.begin()
    return probe


def unheard(but: watch | None = None) -> AbstractContextManager[None]:
    """While it lasts every watch but one is deaf: for trainings that take turns in one process."""
    return intercept.without_others(None if but is None else but._probe)
