"""Readings made by hand, for the cases that prove the rules; one file for each kind of thing that is made."""

from gradiometer.rules.cases.chains import (
    chain,
    cut,
    gate,
    nonfinite,
    output,
    parameter,
    patient,
    pooled,
    reading,
    recurrent,
    site,
)
from gradiometer.rules.cases.curves import training

__all__ = [
    "chain",
    "cut",
    "gate",
    "nonfinite",
    "output",
    "parameter",
    "patient",
    "pooled",
    "reading",
    "recurrent",
    "site",
    "training",
]
