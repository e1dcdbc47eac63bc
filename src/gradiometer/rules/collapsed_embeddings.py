"""Embeddings that have become one and the same, because the loss asks for nothing else."""

from __future__ import annotations

from gradiometer.records import Finding, Reading, SiteReading
from gradiometer.rules.base import RECENT, Patient
from gradiometer.rules.mismatch import DIFFERENCES
from gradiometer.rules.patience import PATIENCE, in_time

SAME = 3e-3
"""One minus the cosine between the embeddings of different inputs: 4.4 degrees. A small SimSiam (Chen and He, 2021)
that keeps its stop-gradient passes 4e-3 on its way and parts again; without it it stands at 5e-4 after thirty steps.
Embeddings that are kept apart by negative pairs fill their space, at 60 to 90 degrees."""

SHRUNK = 10.0
"""Times that targets varied more at birth. Those of data vary as they always did."""

LOST = 100.0
"""Times that they were further apart at birth: embeddings that come alike from their encoder are its affair, and those
of the SimSiam above are 40 times nearer for a while."""

FLOOR = 1e-7
"""What float32 resolves."""

UNITS = 4
"""Dimensions below which embeddings have no room to differ."""


def collapsed_embeddings(patient: Patient) -> Finding | None:
    """A finding where a network is compared with itself, and gives the same for all."""
    return _alike(patient) or _shrunk(patient)


def _shrunk(patient: Patient) -> Finding | None:
    """Targets that vary less and less are no data: the network makes them itself, and makes them easy."""
    read = [(r, r.tasks[0]) for r in in_time(patient) if len(r.tasks) == 1 and r.tasks[0].loss in DIFFERENCES]
    spreads = [(r, task.spread[1], task.spread[0]) for r, task in read if task.spread is not None]
    if len(patient.losses) < PATIENCE or len(spreads) < 2 or spreads[0][0].step != 0 or not patient.alone:
        return None
    # One odd batch is no proof, neither at birth nor now.
    before = min(spread for r, spread, _ in spreads if r.step < RECENT)
    after = max(spread for _, spread, _ in spreads[-RECENT:])
    answered = max(spread for _, _, spread in spreads[-RECENT:])
    newest = spreads[-1][0]
    if not 0 < after * SHRUNK <= before or answered * SHRUNK > before:
        return None
    last = next((row.name for row in reversed(newest.sites) if row.site.cause == "weights"), "loss")
    return _finding(newest, (last,), before, after, "the targets that it makes for itself vary by")


def _alike(patient: Patient) -> Finding | None:
    """The network is called twice in a step, and its embeddings are the same for all inputs.

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
    return _finding(readings[-1], tuple(lost), *lost[name], f"one minus the cosine of what {name} gives is")


def _finding(newest: Reading, sites: tuple[str, ...], before: float, after: float, what: str) -> Finding:
    return Finding(
        kind="rank_collapse",
        severity="critical",
        sites=sites,
        evidence={
            "between": "examples",
            "apart_before": before,
            "apart_after": after,
            "step": newest.step,
            "onset": newest.step,
        },
        cause="a loss that is smallest when all embeddings are equal",
        explanation=(
            f"The network gives the same to different inputs: {what} {after:.1g}, and was {before:.2g} at first. The "
            "loss compares its outputs with each other, and equal ones please it best: it falls, and nothing about the "
            "inputs is left."
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
