"""The frozen records that cross walls: what the probe measured, what the rules found.

Nothing here imports torch, and nothing computes: a record is the same whether it comes from memory, from a
file or from a run that is still growing. Every field says what it means, with reduction and scale.

Gradients are those of the loss on which ``backward`` was called, after removing the loss scale of mixed
precision, before any clipping that acts on sites, after any clipping that acts on parameters (they are read
when the optimizer is about to step).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, overload

SCHEMA_VERSION = 1
"""Raised when a record changes in a way that an older reader would misread."""

Cause = Literal["weights", "activation", "normalization", "connection", "attention", "reshaping", "loss", "unknown"]
Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place where the signal is measured: the output of one operation.

    ``name`` is the module path, with ``:operation`` behind it for a functional operation and ``.k`` for the
    k-th further call (``blocks.3.mlp.act``, ``blocks.3.mlp:relu``, ``blocks.3.mlp:relu.1``).
    """

    name: str
    operation: str
    cause: Cause
    model: str = ""


@dataclass(frozen=True, slots=True)
class SiteReading:
    """What was measured at one site in one step, over all passes of that step (accumulation sums up).

    ``rms`` and ``mean`` are over the finite elements of the activation; ``nonfinite`` counts NaN and both
    infinities, ``masked`` those of them that are minus infinity (the usual mask before a softmax). ``zeros``
    is the fraction of elements that are exactly zero; ``saturation`` the fraction whose ``|f'(z)|`` is below
    1 % of its maximum, ``None`` where the operation cannot saturate. ``units`` is the number of units
    (channels), ``examples`` the number of values each of them had in this step; ``dead`` the number of units
    that were zero for all of them, ``None`` where the operation cannot die, and ``dead_mask`` one bit a unit.
    ``grad_rms`` and ``grad_nonfinite`` are of the gradient that arrives; ``None`` if none did. ``gates`` says
    that the output was multiplied with another signal, as that of a gate is.
    """

    site: Site
    shape: tuple[int, ...]
    passes: int
    rms: float
    mean: float
    nonfinite: int
    masked: int
    zeros: float
    saturation: float | None
    units: int
    examples: int
    dead: int | None
    dead_mask: bytes
    grad_rms: float | None
    grad_nonfinite: int
    gates: bool = False

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.name

    @property
    def grad_norm(self) -> float | None:
        """Euclidean norm of the gradient that arrives: ``grad_rms * sqrt(number of elements)``.

        The norm, unlike the rms, stays the same across a layer that changes width or resolution and passes
        the gradient on unharmed.
        """
        return None if self.grad_rms is None else self.grad_rms * math.sqrt(math.prod(self.shape))

    def dead_units(self) -> frozenset[int]:
        """Indices of the units that were zero for every example."""
        return frozenset(i for i in range(self.units) if self.dead_mask and self.dead_mask[i // 8] >> (i % 8) & 1)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter tensor: its name in the model, shape, and the optimizer that holds it (-1 for none).

    ``unit_dim`` is the dimension that counts output units: the first, but in transposed convolutions the second.
    """

    name: str
    shape: tuple[int, ...]
    optimizer: int
    trainable: bool
    model: str = ""
    unit_dim: int = 0


@dataclass(frozen=True, slots=True)
class ParameterReading:
    """What was measured of one parameter in one optimizer step.

    ``weight_rms`` is taken before the step, ``grad_rms`` just before it as well (accumulated, unscaled,
    clipped as the optimizer sees it), ``update_rms`` is that of the difference the step made. ``weight_rms`` and
    ``update_rms`` are over ``measured`` elements: all of them, or evenly spread blocks of a large tensor.
    ``None`` means there was nothing to measure: no gradient, or no optimizer that holds the parameter.
    ``unit_gradients`` are gradient norms by output unit, or, where there are more than
    ``units_limit`` units, their quantiles; ``unit_quantiles`` tells which.
    """

    parameter: Parameter
    weight_rms: float
    weight_nonfinite: bool
    grad_rms: float | None
    grad_nonfinite: int
    update_rms: float | None
    measured: int
    unit_data: bytes = b""
    unit_quantiles: bool = False

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.parameter.name

    @property
    def ratio(self) -> float | None:
        """Update-to-weight ratio ``rms(update) / rms(weight)``; ``None`` while the weight is all zero."""
        if self.update_rms is None or not self.weight_rms > 0:
            return None
        return self.update_rms / self.weight_rms

    @property
    def unit_gradients(self) -> tuple[float, ...]:
        """Gradient norm of each output unit, or the quantiles `UNIT_QUANTILES` of these norms."""
        return tuple(array("f", self.unit_data))


UNIT_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The quantiles kept of the gradient norms of the units of a layer too wide to keep them all."""


@dataclass(frozen=True, slots=True, repr=False)
class Reading:
    """All that was measured in one training step of one optimizer.

    ``step`` counts this optimizer's steps from zero; ``time`` is in seconds since the watch began; ``loss``
    is the sum of what ``backward`` was called on between this step and the one before, unscaled (of the many
    evaluations in a step of L-BFGS, the first). ``level``
    is ``"parameters"`` or ``"full"``; ``loss_scale`` the factor of mixed precision, 1 without.
    ``loss_operations`` names the operations between the model's output and the loss, the loss first.
    """

    step: int
    optimizer: int
    time: float
    loss: float | None
    loss_scale: float
    level: str
    passes: int
    sites: tuple[SiteReading, ...]
    parameters: tuple[ParameterReading, ...]
    loss_operations: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """In short: a reading has hundreds of numbers."""
        return f"<Reading of step {self.step}: {len(self.sites)} sites, {len(self.parameters)} parameters>"

    def to_dict(self) -> dict[str, Any]:
        """The reading as plain data, with the names of the fields."""
        data = asdict(self)
        for plain, row in zip(data["sites"], self.sites, strict=True):
            plain["dead_mask"] = sorted(row.dead_units())
            plain["grad_norm"] = row.grad_norm
        for plain, row in zip(data["parameters"], self.parameters, strict=True):
            del plain["unit_data"]
            plain["unit_gradients"] = row.unit_gradients
            plain["ratio"] = row.ratio
        return data


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model under watch: the name it goes by in site names, its class, and its number of parameters."""

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True, repr=False)
class Run:
    """The stored sequence of readings of one training.

    ``readings`` is a sequence in the order of time, read from the file as it is asked for. ``scalars`` maps a
    name (``"loss"`` and whatever was recorded) to rows ``(optimizer, step, value)``, one for every step
    and not only for the sampled ones. ``finished`` is false while the training goes on, or if it was killed.
    ``notes`` are what the instrument had to say about itself.
    """

    readings: Sequence[Reading]
    scalars: Mapping[str, Sequence[tuple[int, int, float]]] = field(default_factory=dict)
    models: tuple[ModelInfo, ...] = ()
    optimizers: tuple[str, ...] = ()
    name: str = ""
    path: str | None = None
    started: float = 0.0
    finished: bool = False
    steps: int = 0
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """In short: its name, and how much there is of it."""
        return f"<Run {self.name or 'without a name'}: {self.steps} steps, {len(self.readings)} readings>"

    def losses(self, optimizer: int = 0) -> list[tuple[int, float]]:
        """``(step, loss)`` for every step of one optimizer."""
        return [(step, value) for index, step, value in self.scalars.get("loss", ()) if index == optimizer]

    @cached_property
    def last(self) -> Reading | None:
        """The newest reading, or ``None`` before the first."""
        return self.readings[-1] if len(self.readings) else None


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnosed pathology.

    ``kind`` is one of the closed list in the documentation, ``sites`` names where it is seen (worst first),
    ``evidence`` holds the numbers it rests on, ``cause`` says what makes it, ``explanation`` is what a reader
    is told, ``remedies`` what to do, best first. ``follows_from`` is the kind of the finding that explains this one.
    """

    kind: str
    severity: Severity
    sites: tuple[str, ...]
    evidence: Mapping[str, Any]
    cause: str
    explanation: str
    remedies: tuple[str, ...] = ()
    follows_from: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data, with the names of the fields."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return data | {"evidence": dict(self.evidence), "sites": list(self.sites), "remedies": list(self.remedies)}

    def __str__(self) -> str:
        """Kind, severity, explanation and what to do, as plain text."""
        lines = [f"{self.kind.replace('_', ' ')} [{self.severity}]", f"   {self.explanation}"]
        if self.follows_from:
            lines.append(f"   follows from: {self.follows_from.replace('_', ' ')}")
        if self.remedies:
            lines.append("   do: " + " · ".join(self.remedies))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis(Sequence[Finding]):
    """A sequence of findings, first causes first; `healthy` is true when none is above ``info``.

    ``subject`` describes what was diagnosed in one line. ``conclusive`` is false when too little was
    recorded to say anything; then ``healthy`` is ``None``, unless something was found all the same. ``reason`` says
    what is missing, or what to keep in mind.
    """

    findings: tuple[Finding, ...]
    subject: str = ""
    conclusive: bool = True
    reason: str = ""

    @property
    def healthy(self) -> bool | None:
        """Whether no finding is above ``info``; ``None`` when nothing can be said."""
        if any(finding.severity != "info" for finding in self.findings):
            return False
        return True if self.conclusive else None

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | Sequence[Finding]:
        """The finding at this place."""
        return self.findings[index]

    def __len__(self) -> int:
        """Number of findings."""
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        """The findings, first causes first."""
        return iter(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain data."""
        return {
            "subject": self.subject,
            "healthy": self.healthy,
            "reason": self.reason,
            "findings": [finding.to_dict() for finding in self.findings],
        }

    @property
    def verdict(self) -> str:
        """``healthy``, ``not healthy`` or ``cannot say``."""
        return {True: "healthy", False: "not healthy", None: "cannot say"}[self.healthy]

    def __repr__(self) -> str:
        """The text, so that a prompt shows what there is to read."""
        return str(self)

    def __str__(self) -> str:
        """Subject, verdict and findings, as plain text."""
        lines = [" · ".join(part for part in (self.subject, self.verdict) if part)]
        if self.reason:
            lines += ["", self.reason]
        for number, finding in enumerate(self.findings, 1):
            lines += ["", f"{number}  {finding}"]
        return "\n".join(lines)
