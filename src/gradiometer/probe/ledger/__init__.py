"""The ledger of one backward pass.

Data flow: while the model runs, a `CallLog` notes which operation made which nodes of autograd's graph. Below the
loss, a `Layout` (``knots``) sorts the nodes into operations, a `Flow` hooks them and measures what enters and leaves
each, with the ``factors`` of weights and activations; `Accounts` turn that into rows, ``recurrence``
finds what is applied again and again, and ``through_time`` reads it. `Tracing` is the one who does all this in order.
"""

from gradiometer.probe.ledger.calls import CallLog
from gradiometer.probe.ledger.tracing import Traced, Tracing

__all__ = ["CallLog", "Traced", "Tracing"]
