"""A softmax that ran over another dimension than that of the classes."""

from __future__ import annotations

from gradiometer.records import Task
from gradiometer.rules.mismatch import Mismatch, first

ROUNDING = 0.05
"""How far a sum over the classes may lie from one: bfloat16 keeps a logarithm between -8 and -16 to within 1/32, and
all of them may be rounded alike."""


def other_dimension(task: Task) -> Mismatch | None:
    """Probabilities that do not sum to one over the classes, straight from a softmax."""
    if task.sums is None or task.width == 1:  # of a single one single_class tells
        return None
    low, high = task.sums
    if not (low < 1 - ROUNDING or high > 1 + ROUNDING):
        return None
    operation = next((name for name in task.before if "softmax" in name), first(task))
    over = "another dimension" if task.width is None else f"another dimension, of size {task.width}"
    return Mismatch(
        cause=f"a {operation} over another dimension than that of the classes",
        operation=operation,
        explanation=(
            f"The probabilities that the loss gets sum to {low:.2g} to {high:.2g} over the classes, where they must "
            f"sum to 1: the {operation} runs over {over}. Examples or places then compete with each other instead of "
            "the classes, and one by itself says nothing."
        ),
        remedies=("dim=1, where the loss expects the classes", "cross_entropy of the raw scores, which knows where"),
        wrong_if="the outputs are pairs, and the other side is meant to compete",
        evidence={"sums": task.sums, "width": task.width},
    )
