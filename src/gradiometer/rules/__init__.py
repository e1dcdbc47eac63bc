"""Records in, findings out: one pathology a file, each with the sick and healthy cases that prove it.

How a diagnosis comes about: a run is split into the trainings of its optimizers; each becomes a `Patient` (its
newest readings, its losses, whether it learns); every rule looks at every patient; what explains another finding
is put before it.
"""

from gradiometer.rules.diagnosis import RULES, diagnose

__all__ = ["RULES", "diagnose"]
