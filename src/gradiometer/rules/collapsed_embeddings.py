"""Embeddings that have become one and the same, because the loss asks for nothing else."""

from __future__ import annotations

from gradiometer.records import Finding, Reading, SiteReading
from gradiometer.rules.base import Patient
from gradiometer.rules.patience import PATIENCE, in_time

SAME = 1e-3
"""One minus the cosine between the embeddings of different inputs: 2.6 degrees. A small SimSiam (Chen and He, 2021)
that keeps its stop-gradient passes 4e-3 on its way and parts again; without it it stands at 5e-4 after thirty steps.
Embeddings that are kept apart by negative pairs fill their space, at 60 to 90 degrees."""

LOST = 20.0
"""Times that they were further apart at birth: embeddings that come alike from their encoder are its affair."""

FLOOR = 1e-7
"""What float32 resolves."""

UNITS = 4
"""Dimensions below which embeddings have no room to differ."""


def collapsed_embeddings(patient: Patient) -> Finding | None:
    """A finding where a network is called twice in a step, to compare its own outputs, and gives the same for all.

    Only where no targets are known: a regression may well give nearly the same to all.
    """
    if len(patient.losses) < PATIENCE or any(task.targets for task in patient.last.tasks if task.direct):
        return None
    readings = [r for r in in_time(patient) if _twins(r)]
    if len(readings) < 2 or readings[0].step != 0 or patient.progress.guess is not None:
        return None
    first, now = _twins(readings[0]), _twins(readings[-1])
    apart = {name: (_apart(first[name]), _apart(row)) for name, row in now.items() if name in first}
    lost = {name: pair for name, pair in apart.items() if pair[1] <= SAME and pair[0] >= LOST * pair[1]}
    # The last layer of the encoder and its second call, both.
    if not lost or len(lost) < len(apart):
        return None
    name = next(iter(lost))
    before, after = lost[name]
    return Finding(
        kind="rank_collapse",
        severity="critical",
        sites=tuple(lost),
        evidence={
            "between": "examples",
            "apart_before": before,
            "apart_after": after,
            "step": readings[-1].step,
            "onset": next(
                (r.step for r in in_time(patient) if (row := _twins(r).get(name)) and _apart(row) <= SAME), 0
            ),
        },
        cause="a loss that is smallest when all embeddings are equal",
        explanation=(
            f"The embeddings that {name} gives to different inputs have become the same: one minus their cosine was "
            f"{before:.2g} at first and is {after:.1g}. The loss compares the network's outputs with each other, "
            "and equal ones please it best: it falls, and nothing about the inputs is left."
        ),
        remedies=(
            "negative pairs (InfoNCE, a margin)",
            "a stop-gradient on one side, with a predictor on the other",
            "a term for the variance of each dimension (VICReg)",
        ),
        wrong_if="all inputs of a batch are meant to have one embedding",
    )


def _apart(row: SiteReading) -> float:
    return max(1 - (row.correlation or 0.0), FLOOR)


def _twins(reading: Reading) -> dict[str, SiteReading]:
    """The last layer of the model and its further call in the same step, where there is one and both are compared."""
    rows = {row.name: row for row in reading.sites if row.site.cause == "weights"}
    last = next(reversed(rows), "")
    base, _, number = last.rpartition(".")
    twins = [rows[base], rows[last]] if number == "1" and base in rows else []
    known = all(row.correlation is not None and row.units >= UNITS for row in twins)
    return {row.name: row for row in twins} if known else {}
