"""The divergence of Kullback and Leibler between what are no log-probabilities, or no probabilities."""

from __future__ import annotations

from gradiometer.records import Reading, Task
from gradiometer.rules.mismatch import SCORES, Mismatch, first
from gradiometer.rules.mismatched_targets import ALIKE


def divergence_of_scores(task: Task, reading: Reading) -> Mismatch | None:
    """Probabilities or raw scores where their logarithms are expected: the loss falls below zero."""
    operation = first(task)
    if task.loss != "kl_div" or operation not in SCORES or task.outputs is None or task.outputs[1] <= ALIKE:
        return None
    probabilities = operation == "softmax"
    what = "probabilities" if probabilities else "raw scores"
    negative = reading.loss is not None and reading.loss < 0
    return Mismatch(
        cause=f"kl_div of {what} ({operation}) instead of log-probabilities",
        operation=operation,
        explanation=(
            f"kl_div gets the output of {operation}: {what} up to {task.outputs[1]:.3g}, where it expects the log of "
            "probabilities, which is never above zero. What it then minimizes is no divergence: "
            + (
                "the best answer is the most probable class alone, with hardly a gradient where the network is wrong."
                if probabilities
                else "it falls without end as the scores grow."
            )
        ),
        remedies=("kl_div of log_softmax(outputs)",),
        wrong_if="the network gives log-densities, which may be above zero",
        learning="critical" if negative else "warning",
        evidence={"loss": reading.loss, "largest_output": task.outputs[1]},
    )


def targets_no_probabilities(task: Task, reading: Reading) -> Mismatch | None:
    """Targets whose logarithm was taken, and ``log_target`` not said, or the other way round."""
    if task.loss != "kl_div" or task.targets is None:
        return None
    low, high = task.targets
    if low >= 0 and high <= 1 + ALIKE:
        return None
    logs = low < 0
    return Mismatch(
        cause="log-probabilities as the targets of kl_div"
        if logs
        else "log_target, and targets that are no logarithms",
        operation="kl_div",
        explanation=(
            f"kl_div takes its targets for probabilities and gets their logarithms, {low:.3g} to {high:.3g}: "
            "the loss is not a number."
            if logs
            else "kl_div was told log_target=True, takes the exponential of its targets, and these are probabilities "
            f"already: every class weighs {low:.3g} to {high:.3g}."
        ),
        remedies=("log_target=True",) if logs else ("targets.log()", "no log_target"),
        wrong_if="never: such weights are the divergence from nothing",
        evidence={"targets": (low, high), "loss": reading.loss},
    )
