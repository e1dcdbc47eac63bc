"""The frozen records that cross walls: what the probe measured, what the rules found.

Nothing here imports torch, and nothing measures: a record is the same whether it comes from memory, from a
file or from a run that is still growing. Every field says what it means, with reduction and scale.

Gradients are those of the loss on which ``backward`` was called, after removing the loss scale of mixed
precision, before any clipping that acts on sites, after any clipping that acts on parameters (they are read
when the optimizer is about to step).
"""

from gradiometer.records.diagnosis import Diagnosis, Finding, Severity
from gradiometer.records.ledger import Birth, Branch, Edge, Ledger, LedgerRow, Recurrence, decades_by_cause
from gradiometer.records.parameter import UNIT_QUANTILES, Parameter, ParameterReading
from gradiometer.records.prescription import PrescriptionRecord
from gradiometer.records.reading import SCHEMA_VERSION, Reading
from gradiometer.records.run import ModelInfo, Run
from gradiometer.records.site import Cause, Site, SiteReading
from gradiometer.records.task import Inputs, Task
from gradiometer.records.trial import Arm, Interval, Trial

__all__ = [
    "SCHEMA_VERSION",
    "UNIT_QUANTILES",
    "Arm",
    "Birth",
    "Branch",
    "Cause",
    "Diagnosis",
    "Edge",
    "Finding",
    "Inputs",
    "Interval",
    "Ledger",
    "LedgerRow",
    "ModelInfo",
    "Parameter",
    "ParameterReading",
    "PrescriptionRecord",
    "Reading",
    "Recurrence",
    "Run",
    "Severity",
    "Site",
    "SiteReading",
    "Task",
    "Trial",
    "decades_by_cause",
]
