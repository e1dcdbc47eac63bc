"""Measures the gradients of any PyTorch training, says why they vanish or explode, and where.

The public names, loaded when they are first used, so that reading a run needs no torch::

    import gradiometer as gm

    with gm.watch(model, optimizer) as watch:
        ...                              # the training loop as it was
    print(gm.diagnose(watch.run))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gradiometer.version import __version__

if TYPE_CHECKING:
    from gradiometer.errors import (
        DamagedRunError,
        GradiometerError,
        GradiometerWarning,
        InputError,
        NewerRunError,
        NotARunError,
        RunError,
        UnhealthyError,
    )
    from gradiometer.healthy import assert_healthy
    from gradiometer.probe.measure import measure
    from gradiometer.probe.watch import watch
    from gradiometer.records import (
        Arm,
        Birth,
        Diagnosis,
        Finding,
        Interval,
        Ledger,
        LedgerRow,
        Parameter,
        ParameterReading,
        Reading,
        Recurrence,
        Run,
        Site,
        SiteReading,
        Trial,
    )
    from gradiometer.remedies.base import Remedy
    from gradiometer.remedies.recipe import Recipe
    from gradiometer.rules import diagnose
    from gradiometer.store import load
    from gradiometer.trials.prescribe import prescribe
    from gradiometer.trials.prescription import Prescription

_HOME = {
    "assert_healthy": "gradiometer.healthy",
    "measure": "gradiometer.probe.measure",
    "watch": "gradiometer.probe.watch",
    "diagnose": "gradiometer.rules",
    "load": "gradiometer.store",
    "prescribe": "gradiometer.trials.prescribe",
    "Prescription": "gradiometer.trials.prescription",
    "Recipe": "gradiometer.remedies.recipe",
    "Remedy": "gradiometer.remedies.base",
    **dict.fromkeys(
        [
            "Arm",
            "Birth",
            "Diagnosis",
            "Finding",
            "Interval",
            "Ledger",
            "LedgerRow",
            "Parameter",
            "ParameterReading",
            "Reading",
            "Recurrence",
            "Run",
            "Site",
            "SiteReading",
            "Trial",
        ],
        "gradiometer.records",
    ),
    **dict.fromkeys(
        [
            "DamagedRunError",
            "GradiometerError",
            "GradiometerWarning",
            "InputError",
            "NewerRunError",
            "NotARunError",
            "RunError",
            "UnhealthyError",
        ],
        "gradiometer.errors",
    ),
}

__all__ = [
    "Arm",
    "Birth",
    "DamagedRunError",
    "Diagnosis",
    "Finding",
    "GradiometerError",
    "GradiometerWarning",
    "InputError",
    "Interval",
    "Ledger",
    "LedgerRow",
    "NewerRunError",
    "NotARunError",
    "Parameter",
    "ParameterReading",
    "Prescription",
    "Reading",
    "Recipe",
    "Recurrence",
    "Remedy",
    "Run",
    "RunError",
    "Site",
    "SiteReading",
    "Trial",
    "UnhealthyError",
    "__version__",
    "assert_healthy",
    "diagnose",
    "load",
    "measure",
    "prescribe",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gradiometer' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
