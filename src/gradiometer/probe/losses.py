"""The loss of every step: what ``backward`` was called on since the step before."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter

import torch
from torch import Tensor

from gradiometer.measures import Scalar, resolve
from gradiometer.probe import intercept

FLUSH_SECONDS = 1.0
"""Losses are read from the device and handed over about this often."""

Row = tuple[int, int, float]
"""Optimizer, step, value."""


class Losses:
    """Collects losses without reading them; `flush` reads what has come together."""

    def __init__(self) -> None:
        """Nothing is known yet; the clock for the next flush begins to run."""
        self.scale: Scalar = 1.0
        """The factor of a gradient scaler in the newest backward pass, 1 without."""
        self._pending: list[Scalar] = []  # of the step that is under way
        self._before = 0  # how many of them there were when the newest backward began
        self._rows: list[tuple[int, int, Scalar]] = []
        self.count = 0
        """Backward passes so far."""
        self.on_device = False
        """Whether the newest loss lies on an accelerator, where its value is not known before a flush."""
        self._flushed = perf_counter()

    @property
    def waiting(self) -> bool:
        """Whether backward has been called since the last step."""
        return bool(self._pending)

    @property
    def due(self) -> bool:
        """Whether it is time for a flush."""
        return perf_counter() - self._flushed > FLUSH_SECONDS

    def backward_begins(self, roots: object) -> list[Tensor]:
        """Notes the losses that a backward pass starts from, and returns the tensors among them."""
        self._before = len(self._pending)
        self.count += 1
        # Neither an iterator, which can be read but once, nor the edges of a graph, which have no value.
        if isinstance(roots, Tensor):
            tensors = [roots]
        else:
            tensors = [r for r in roots if isinstance(r, Tensor)] if isinstance(roots, (list, tuple)) else []
        for root in tensors:
            self.scale = scale = intercept.scale_of(root)
            if root.numel() == 1 and root.layout is torch.strided and root.device.type != "meta":
                loss = root.detach()
                if loss.dim():
                    loss = loss.reshape(())
                self._pending.append(loss / scale if isinstance(scale, Tensor) else loss)
        return tensors

    def backward_failed(self) -> None:
        """Forgets the pass that began last."""
        del self._pending[self._before :]

    def forget(self) -> None:
        """Forgets what has come since the last step: it was another model's."""
        self._pending.clear()

    def step(self, number: int, step: int, *, first_only: bool, keep: bool) -> Scalar | None:
        """Ends a step and returns its loss: the sum of all passes, or the first of repeated evaluations of one."""
        pending, self._pending = self._pending, []
        if not pending:
            return None
        loss = pending[0] if first_only or len(pending) == 1 else _sum(pending)
        self.on_device = isinstance(loss, Tensor) and loss.device.type != "cpu"
        if keep:
            self._rows.append((number, step, loss))
        return loss

    def drop(self, number: int, step: int) -> None:
        """Forgets the loss of a step for which one was recorded by hand."""
        self._rows = [row for row in self._rows if row[:2] != (number, step)]

    def flush(self) -> list[Row]:
        """The rows that have come together, read with one transfer."""
        rows, self._rows = self._rows, []
        self._flushed = perf_counter()
        return [(n, s, value) for (n, s, _), value in zip(rows, resolve(v for _, _, v in rows), strict=True)]


def _sum(values: Iterable[Scalar]) -> Scalar:
    total: Scalar = 0.0
    for value in values:
        total = total + value
    return total
