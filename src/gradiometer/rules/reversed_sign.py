"""A loss whose sign was turned around on its way to backward, so that it is maximized."""

from __future__ import annotations

from itertools import takewhile

from gradiometer.records import Finding, Severity
from gradiometer.rules.base import Patient
from gradiometer.rules.mismatch import BINARY, DIFFERENCES
from gradiometer.rules.mismatched_targets import binary_targets


def reversed_sign(patient: Patient) -> Finding | None:
    """A loss that cannot be negative, and is.

    Not where all targets are the same, as the labels that a generator or a domain classifier is trained against.
    """
    reading = patient.last
    loss, operations = reading.loss, reading.loss_operations
    if loss is None or not loss < 0 or len(reading.tasks) != 1 or not patient.alone:
        return None
    task = reading.tasks[0]
    signs = tuple(takewhile(("neg", "mul", "div").__contains__, operations))
    sign = "neg" if "neg" in signs else "mul"
    usual = task.loss in DIFFERENCES or (task.loss == "nll_loss" and task.before[:1] == ("log_softmax",))
    if task.loss in BINARY:
        usual = binary_targets(task, reading) is None
    varied = task.targets is not None and task.targets[0] < task.targets[1]
    follows = operations[len(signs) : len(signs) + 1] == (task.loss,)
    if not follows or not usual or not varied or task.examples < 2 or sign not in signs:
        return None
    severity: Severity = "critical" if sign == "neg" else "warning"  # a factor may be a reward
    return Finding(
        kind="diverging_loss",
        severity=severity,
        sites=("loss",),
        evidence={"loss": loss, "operations": operations[: len(signs) + 1], "onset": 0, "step": reading.step},
        cause=f"the sign of the loss is turned around ({sign}): it is maximized",
        explanation=(
            f"backward was called on {loss:.3g}, and {task.loss} cannot be negative: its sign was turned around on the "
            "way, and every step makes the answers worse."
        ),
        remedies=("leave out the minus", "backward on the loss itself"),
        wrong_if="it is meant to be maximized (an adversary, unlearning)",
    )
