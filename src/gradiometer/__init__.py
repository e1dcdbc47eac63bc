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
        Birth,
        Diagnosis,
        Finding,
        Ledger,
        LedgerRow,
        Parameter,
        ParameterReading,
        Reading,
        Recurrence,
        Run,
        Site,
        SiteReading,
    )
    from gradiometer.rules import diagnose
    from gradiometer.store import load

_HOME = {
    "assert_healthy": "gradiometer.healthy",
    "measure": "gradiometer.probe.measure",
    "watch": "gradiometer.probe.watch",
    "diagnose": "gradiometer.rules",
    "load": "gradiometer.store",
    **dict.fromkeys(
        [
            "Birth",
            "Diagnosis",
            "Finding",
            "Ledger",
            "LedgerRow",
            "Parameter",
            "ParameterReading",
            "Reading",
            "Recurrence",
            "Run",
            "Site",
            "SiteReading",
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
    "Birth",
    "DamagedRunError",
    "Diagnosis",
    "Finding",
    "GradiometerError",
    "GradiometerWarning",
    "InputError",
    "Ledger",
    "LedgerRow",
    "NewerRunError",
    "NotARunError",
    "Parameter",
    "ParameterReading",
    "Reading",
    "Recurrence",
    "Run",
    "RunError",
    "Site",
    "SiteReading",
    "UnhealthyError",
    "__version__",
    "assert_healthy",
    "diagnose",
    "load",
    "measure",
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
