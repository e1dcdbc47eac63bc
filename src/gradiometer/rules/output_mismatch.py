"""Output activation, targets and loss do not fit each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradiometer.records import Finding, Reading, Task
from gradiometer.rules.base import RECENT, Case, Patient, Rule
from gradiometer.rules.cases import tasks as cases
from gradiometer.rules.mismatch import Mismatch
from gradiometer.rules.mismatched_dimension import other_dimension
from gradiometer.rules.mismatched_divergence import divergence_of_scores, targets_no_probabilities
from gradiometer.rules.mismatched_logits import bounded_logits, log_softmax_twice, raw_scores, single_class
from gradiometer.rules.mismatched_targets import binary_targets, held_in, stretched, targets_beyond
from gradiometer.rules.patience import severity, unwell


def check(patient: Patient) -> list[Finding]:
    """One finding for each mistake that stands in all of the newest readings."""
    newest = [reading for reading in patient.recent[-RECENT:] if reading.tasks]
    if not newest:
        return []
    always = set.intersection(*({m.cause for m in _all(reading)} for reading in newest))
    out: dict[str, Finding] = {}
    for mismatch in _all(newest[-1]):
        if mismatch.cause in always and mismatch.cause not in out:
            out[mismatch.cause] = _finding(patient, newest[-1], mismatch)
    return list(out.values())


def _all(reading: Reading) -> list[Mismatch]:
    return [mismatch for task in reading.tasks for mismatch in _find(task, reading)]


def _find(task: Task, reading: Reading) -> list[Mismatch]:
    """Everything that is wrong with one task, the most certain first."""
    found = (
        single_class(task, reading),
        raw_scores(task, reading),
        divergence_of_scores(task, reading),
        targets_no_probabilities(task, reading),
        other_dimension(task),
        binary_targets(task, reading),
        bounded_logits(task),
        log_softmax_twice(task),
        stretched(task, reading),
        targets_beyond(task),
        held_in(task, reading),
    )
    return [mismatch for mismatch in found if mismatch is not None]


def _finding(patient: Patient, reading: Reading, mismatch: Mismatch) -> Finding:
    place = _place(reading, mismatch.operation)
    learns = mismatch.poor if mismatch.poor is not None and unwell(patient) else mismatch.learning
    severe = severity(patient, stalled=mismatch.stalled, unknown=mismatch.unknown, learns=learns)
    seen = (r.step for r in patient.readings if any(m.cause == mismatch.cause for m in _all(r)))
    onset = min(seen, default=reading.step)
    return Finding(
        kind="output_mismatch",
        severity=severe,
        sites=(place, "loss") if place != "loss" else ("loss",),
        evidence={"step": reading.step, "onset": onset, "operation": mismatch.operation, **mismatch.evidence},
        cause=mismatch.cause,
        explanation=mismatch.explanation,
        remedies=mismatch.remedies,
        wrong_if=mismatch.wrong_if,
    )


def _place(reading: Reading, operation: str) -> str:
    """The site of an operation that stands just before the loss: behind the last layer, or that layer itself."""
    last = max((i for i, row in enumerate(reading.sites) if row.site.cause == "weights"), default=0)
    behind = [row.name for row in reading.sites[last:] if row.site.operation == operation]
    for row in reading.ledger.main:  # what is computed outside the network has a name there
        if row.operation == operation:
            behind.append(row.site)
        if row.cause == "weights":
            break
    return behind[0] if behind else "loss"


def ended(notes: Sequence[str]) -> Finding | None:
    """The finding for a training that ended by an error of the loss about its targets, as the notes of a run tell.

    Args:
        notes: `Run.notes`.

    Returns:
        A critical finding, or ``None``.

    Example:
        >>> ended(["the block ended by IndexError: Target 10 is out of bounds."]).evidence["target"]
        10
    """
    for note in reversed(notes):
        if " ended by " not in note:
            continue
        found = re.search(r"Target (-?\d+) is out of bounds", note)
        if found:
            return _outside(int(found[1]), note)
        if "device-side assert" in note or re.search(r"Assertion .*n_classes.* failed", note):
            return _ended(
                note,
                "a class (or another index) outside the outputs",
                "The device stopped at an index that is out of range: mostly a class that the output layer has no unit "
                "for, or a token that the embedding has no row for. Where exactly, only a run on the CPU tells.",
                ("run one batch on the CPU: the error then names the index", "as many outputs as classes, from 0 on"),
                "the indices of one batch all lie within the output layer and the embeddings",
            )
        found = re.search(r"all elements of (input|target) should be between 0 and 1", note)
        if found:
            raw = found[1] == "input"
            what = "raw scores" if raw else "targets outside 0 to 1"
            must = "it takes probabilities" if raw else "they must be probabilities"
            return _ended(
                note,
                f"binary_cross_entropy of {what}",
                f"binary_cross_entropy got {what}: {must}, between 0 and 1.",
                ("binary_cross_entropy_with_logits", "a sigmoid before the loss") if raw else ("targets of 0 and 1",),
                "the values are NaN: then look for what made them so",
            )
    return None


def _outside(target: int, note: str) -> Finding:
    says = f"a target is class {target}, and the output layer has no unit for it"
    why = "classes count from 0, and negative ones are none" if target < 0 else f"it would need {target + 1} units"
    return _ended(
        note,
        "a class outside the outputs",
        f"The training ended because {says}: {why}.",
        ("ignore_index, if it marks what is to be left out", "classes from 0 on")
        if target < 0
        else (f"an output layer of {target + 1} units or more", "classes from 0 on (labels that begin with 1?)"),
        "the target is a stray value in the data",
        target=target,
    )


def _ended(
    note: str, cause: str, explanation: str, remedies: tuple[str, ...], wrong_if: str, **evidence: object
) -> Finding:
    return Finding(
        kind="output_mismatch",
        severity="critical",
        sites=("loss",),
        evidence={"note": note, **evidence},
        cause=cause,
        explanation=explanation,
        remedies=remedies,
        wrong_if=wrong_if,
    )


_ONE_HOT = ("log_softmax", "linear")
_TIMES = ("mul", "tanh", "linear")
_N = 512

RULE = Rule(
    kind="output_mismatch",
    check=check,
    sick=(
        Case("softmax before cross-entropy", cases.asked("nll_loss", ("log_softmax", "softmax"), loss="stalled")),
        Case("the same, and it learns", cases.asked("nll_loss", ("log_softmax", "softmax"), loss="learning")),
        Case("softmax before soft labels", cases.asked("cross_entropy", ("log_softmax", "softmax"), loss="stalled")),
        Case("tanh before cross-entropy", cases.asked("nll_loss", ("log_softmax", "tanh"), loss="stalled")),
        Case("nll_loss of raw scores", cases.asked("nll_loss", ("linear",), width=None, loss="unknown")),
        Case("nll_loss of probabilities", cases.asked("nll_loss", ("softmax", "linear"), loss="stalled")),
        Case("log_softmax over the batch", cases.asked("nll_loss", _ONE_HOT, sums=(0.01, 0.3), loss="stalled")),
        Case(
            "over the batch, and it seems to learn", cases.asked("nll_loss", _ONE_HOT, sums=(0.5, 4), loss="learning")
        ),
        Case("kl_div of probabilities", cases.asked("kl_div", ("softmax", "linear"), targets=(0, 1), loss="stalled")),
        Case("kl_div of raw scores", cases.asked("kl_div", ("linear",), targets=(0, 1), loss="unknown")),
        Case("kl_div of logarithms", cases.asked("kl_div", _ONE_HOT, targets=(-9, -0.1), loss="unknown")),
        Case("log_target of probabilities", cases.asked("kl_div", _ONE_HOT, targets=(1, 2.1), loss="stalled")),
        Case("cross-entropy over one class", cases.asked("nll_loss", _ONE_HOT, width=1, loss="unknown")),
        Case(
            "sigmoid twice",
            cases.asked("binary_cross_entropy_with_logits", ("sigmoid",), targets=(0, 1), loss="stalled"),
        ),
        Case(
            "binary targets of -1 and 1",
            cases.asked("binary_cross_entropy_with_logits", ("linear",), targets=(-1, 1), loss="unknown"),
        ),
        Case("ReLU and negative targets", cases.asked("mse_loss", ("relu",), beyond=0.7, loss="stalled")),
        Case(
            "(N, 1) against (N,)",
            cases.asked("mse_loss", ("linear",), spread=(1.0, 0.0), broadcast=True, units=1, loss="stalled"),
        ),
        Case(
            "five times tanh, at its bounds",
            cases.asked("mse_loss", _TIMES, outputs=(-5, 5), spread=(4.5, 10.5), squashed=0.55, loss="stalled"),
        ),
        Case(
            "an LSTM as the output, at its bound",
            cases.asked("mse_loss", ("lstm",), outputs=(-0.9, 0.96), spread=(0.8, 1.95), layer="lstm", loss="stalled"),
        ),
        Case("(N, 1) times (N,)", cases.asked("mul", ("linear",), broadcast=True, units=1, loss="learning")),
    ),
    healthy=(
        Case("cross-entropy of raw scores", cases.asked("nll_loss", _ONE_HOT, loss="stalled")),
        Case(
            "probabilities that bfloat16 rounded", cases.asked("nll_loss", _ONE_HOT, sums=(0.97, 1.03), loss="stalled")
        ),
        Case("kl_div of a log_softmax", cases.asked("kl_div", _ONE_HOT, targets=(0, 1), loss="stalled")),
        Case("kl_div of differences", cases.asked("kl_div", ("sub", "linear"), targets=(0, 1), loss="stalled")),
        Case("log_softmax twice", cases.asked("nll_loss", ("log_softmax", "log_softmax"), loss="stalled")),
        Case("the log of a softmax", cases.asked("nll_loss", ("log", "add", "softmax"), loss="stalled")),
        Case("tanh times ten", cases.asked("nll_loss", ("log_softmax", "mul", "tanh"), loss="stalled")),
        Case("tanh before soft labels", cases.asked("cross_entropy", ("log_softmax", "tanh"), loss="stalled")),
        Case("tanh before cross-entropy, learning", cases.asked("nll_loss", ("log_softmax", "tanh"), loss="learning")),
        Case("ReLU and positive targets", cases.asked("mse_loss", ("relu", "linear"), loss="stalled")),
        Case("a few targets below zero", cases.asked("mse_loss", ("relu", "linear"), beyond=0.2, loss="stalled")),
        Case(
            "five times tanh, and targets within reach",
            cases.asked("mse_loss", _TIMES, outputs=(-5, 5), spread=(4.5, 9.5), squashed=0.55, loss="stalled"),
        ),
        Case(
            "five times tanh, mostly within its bounds",
            cases.asked("mse_loss", _TIMES, outputs=(-5, 5), spread=(3, 10.5), squashed=0.45, loss="stalled"),
        ),
        Case(
            "an LSTM as the output, within its bounds",
            cases.asked("mse_loss", ("lstm",), outputs=(-0.9, 0.94), spread=(0.8, 1.95), layer="lstm", loss="stalled"),
        ),
        Case(
            "a linear layer that gives too little",
            cases.asked("mse_loss", ("linear",), outputs=(-0.9, 0.96), spread=(0.8, 10.5), loss="stalled"),
        ),
        Case(
            "one label for a whole batch",
            cases.asked(
                "mse_loss", ("linear",), targets=(1, 1), spread=(1, 0), broadcast=True, units=1, loss="stalled"
            ),
        ),
        Case(
            "an ensemble that shares its targets",
            cases.asked("mse_loss", ("linear",), spread=(1.0, 0.0), broadcast=True, examples=5, loss="stalled"),
        ),
        Case("a policy gradient", cases.asked("nll_loss", _ONE_HOT, minus="mean", loss="learning")),
        Case(
            "a generator that maximizes the loss of its discriminator",
            cases.asked("binary_cross_entropy_with_logits", ("linear",), targets=(0, 0), minus="neg", loss="learning"),
        ),
    ),
)
