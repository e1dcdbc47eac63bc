"""Readings made by hand, for the cases that prove the rules; one file for each kind of thing that is made."""

from gradiometer.rules.cases.chains import (
    chain,
    nonfinite,
    parameter,
    patient,
    pooled,
    reading,
    recurrent,
    site,
    through_time,
    unguessed,
)
from gradiometer.rules.cases.curves import training
from gradiometer.rules.cases.ends import closed, cut, gate, output

__all__ = [
    "chain",
    "closed",
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
    "through_time",
    "training",
    "unguessed",
]
