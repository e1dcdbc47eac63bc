"""What is kept of a watched step beside its sites: now and then a ledger, and where a NaN came from."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from gradiometer.measures import Scalar
from gradiometer.probe import observation
from gradiometer.probe.ledger import CallLog, Traced, Tracing
from gradiometer.probe.replays import Replays
from gradiometer.probe.roster import Roster
from gradiometer.probe.sites import SiteTracker

SELDOM = 50
"""Readings after which a ledger is kept at the latest; before that with readings number 0, 2, 4, 8, 16, 32.

A ledger costs a few times what the sites of a step cost. What it says, which operation takes the gradient, changes
slowly, and most early in training.
"""


class Bookkeeper:
    """Keeps ledgers of some of the steps that are sampled anyway.

    The calls of one window are logged as they run. The first backward of a step is traced. Hooks are gone when it ends.
    """

    def __init__(self) -> None:
        """The first reading gets a ledger."""
        self._readings = 0
        self._due = 0
        self._tracing: Tracing | None = None
        self._active = False

    def opens(self, sites: SiteTracker) -> None:
        """A window opens: decides whether the calls in it are logged."""
        self.drop()
        if self._readings >= self._due:
            sites.log = CallLog()
            sites.replays = Replays(sites.guarded)
            sites.propagation = True

    def begins(self, root: Tensor, sites: SiteTracker, *, scaled: bool) -> None:
        """A backward pass begins from this loss; ``scaled`` says that a gradient scaler has multiplied it."""
        births = sites.lookout.births
        if scaled and self._tracing is not None and births.born_backward:
            self.drop()  # a gradient scaler skips a step that overflows, and this is the next try
            if sites.replays is not None:
                sites.replays.drop()
            births.forget_skipped()
        if root.device.type == "cpu":
            births.look_at_loss(root, sites.nodes)
        if sites.log is not None and self._tracing is None and root.grad_fn is not None:
            self._tracing = Tracing(root, sites.log, births, sites.guarded)
            self._tracing.install()
            self._active = True
            if sites.replays is not None:
                sites.replays.listening = True

    def ends(self, sites: SiteTracker, failed: bool = False) -> None:
        """That backward pass has ended; one that failed is no part of the step."""
        if self._active and self._tracing is not None:
            self._tracing.remove()
            if failed:
                self.drop()
            if sites.replays is not None:
                if failed:
                    sites.replays.drop()
                else:
                    sites.guarded("recurrence", sites.replays.replay)
        self._active = False

    def drop(self) -> None:
        """Lets go of what was traced and will not be read."""
        if self._tracing is not None:
            self._tracing.remove()
            self._tracing.release()
        self._tracing = None

    def read(self, sites: SiteTracker, roster: Roster, scale: Scalar) -> Traced:
        """The ledger of the step that ends, empty if none was kept."""
        tracing, self._tracing = self._tracing, None
        self._readings += 1
        if sites.log is not None and tracing is None:  # where only parameters are watched nothing is traced
            self._due = self._next()
        if tracing is None and not sites.lookout.births.any:
            return Traced()
        names = observation.names(sites.observations)
        if tracing is None:
            return Traced(birth=sites.lookout.births.found(names))
        self._due = self._next()
        traced = tracing.read(names, roster.parameter_names, roster.trained)
        if sites.replays is not None:
            replayed = sites.replays.read(roster.parameter_names)
            traced = replace(traced, recurrences=(*traced.recurrences, *replayed))
        return traced.unscaled(float(scale))

    def _next(self) -> int:
        """The reading that gets the next ledger."""
        return min(max(2, 2 * (self._readings - 1)), self._readings - 1 + SELDOM)
