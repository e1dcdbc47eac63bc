"""A training that has learned something, and stops or crawls: by a schedule that ended, or steps far too short."""

from __future__ import annotations

from gradiometer.records import Finding
from gradiometer.rules.base import Patient
from gradiometer.rules.curve import curve, finite
from gradiometer.rules.patience import unwell
from gradiometer.rules.steps import ENDED, ended, length

CRAWL = 1e-4
"""Update-to-weight ratio of the whole network, in every reading, of steps that are too short to be meant: a tenth of
the usual 1e-3 (Karpathy, CS231n). Fine-tuning takes such steps, and begins far below its constant guess."""

LONG_ENOUGH = 200
"""Steps after which a training at this pace that has lost less than a fifth of its loss is said to crawl."""


def slow_training(patient: Patient) -> Finding | None:
    """One finding for a training that was brought to a halt on its way, or that goes at a crawl."""
    if not patient.alone or patient.failed or not patient.readings:
        return None
    return _ended(patient) or _crawling(patient)


def _ended(patient: Patient) -> Finding | None:
    """The learning rate fell to nothing before the middle, and most of the loss is there still."""
    progress, since = patient.progress, ended(patient)
    if since is None or not unwell(patient):
        return None
    return _finding(
        patient,
        "the schedule has brought the learning rate down before the task was learned",
        f"The learning rate has been below {ENDED:.0%} of what it was since step {since}, and the loss stays at "
        f"{progress.current:.3g}"
        + (f" where a constant guess costs {progress.guess:.3g}" if progress.guess is not None else ""),
        ("a schedule that falls later", "scheduler.step() once an epoch, if it counts epochs"),
        made_by_the_optimizer=True,
    )


def _crawling(patient: Patient) -> Finding | None:
    """Every step is far shorter than usual, and the loss falls, steadily and hardly."""
    progress, shape = patient.progress, curve(finite(patient.losses))
    if progress.learning is not False or progress.guess is None or progress.trained or shape is None:
        return None
    lengths = [value for r in patient.readings if (value := length(r)) is not None]
    rates = {r.learning_rate for r in patient.readings}
    a, b, c, d = shape.parts
    if len(patient.losses) < LONG_ENOUGH or not lengths or max(lengths) > CRAWL or len(rates) > 1 or not a > b > c > d:
        return None
    return _finding(
        patient,
        "the steps are too short for the weights",
        f"In {len(patient.losses):,} steps the loss has fallen from {a:.3g} to {d:.3g}, steadily, and a step moves the "
        f"weights by {max(lengths):.0e} of their size at most, where 1e-3 is usual",
        ("a learning rate ten times larger", "Adam"),
        made_by_the_optimizer=False,
    )


def _finding(
    patient: Patient, cause: str, said: str, remedies: tuple[str, ...], *, made_by_the_optimizer: bool
) -> Finding:
    progress = patient.progress
    return Finding(
        kind="stalled_training",
        severity="warning",
        sites=("loss",),
        evidence={
            "step": patient.last.step,
            "loss": progress.current,
            "loss_at_first": progress.initial,
            "constant_guess": progress.guess,
            "onset": 0,
            "made_by_the_optimizer": made_by_the_optimizer,
        },
        cause=cause,
        explanation=f"{said}: {cause}.",
        remedies=remedies,
        wrong_if="with a larger learning rate it learns no more",
    )
