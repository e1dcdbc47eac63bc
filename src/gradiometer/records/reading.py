"""All that was measured in one training step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gradiometer.records.ledger import Birth, Ledger, Recurrence
from gradiometer.records.parameter import ParameterReading
from gradiometer.records.site import SiteReading
from gradiometer.records.task import Inputs, Task

SCHEMA_VERSION = 1
"""Raised when a record changes in a way that an older reader would misread."""


_NONE = Ledger()


@dataclass(frozen=True, slots=True, repr=False)
class Reading:
    """All that was measured in one training step of one optimizer.

    ``step`` counts this optimizer's steps from zero; ``time`` is in seconds since the watch began; ``loss``
    is the sum of what ``backward`` was called on between this step and the one before, unscaled (of the many
    evaluations in a step of L-BFGS, the first). ``level``
    is ``"parameters"`` or ``"full"``; ``loss_scale`` the factor of mixed precision, 1 without.
    ``loss_operations`` names the operations between the model's output and the loss, the loss first. ``ledger`` is
    empty where none was kept in this step; ``recurrences`` belong to it. ``birth`` says where the first NaN or Inf
    came from. ``tasks`` are the losses that the step's last backward pass began from, ``inputs`` the batch, where it
    was looked at. ``clipped`` is the norm of the gradient as the optimizer saw it over that which backward left, over
    a sample: 1 where nothing was clipped. ``carried`` is the norm of the gradient that was there before the step's
    first backward pass, over that of the gradient that the optimizer saw: 0 where it is set to zero between steps.
    ``learning_rate`` is the largest of the optimizer's groups.
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
    ledger: Ledger = _NONE
    recurrences: tuple[Recurrence, ...] = ()
    birth: Birth | None = None
    tasks: tuple[Task, ...] = ()
    inputs: Inputs | None = None
    clipped: float | None = None
    carried: float | None = None
    learning_rate: float | None = None

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
        data["ledger"] = data["ledger"]["rows"]
        for plain, row in zip(data["ledger"], self.ledger, strict=True):
            plain |= {"log10_norm_gain": row.log10_norm_gain, "change": row.change}
        data["ledger_total"] = self.ledger.total if self.ledger else None
        return data
