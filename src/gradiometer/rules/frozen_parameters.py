"""Parameters that an optimizer holds and that get no gradient: the graph is cut off between them and the loss."""

from __future__ import annotations

import math

from gradiometer.records import Finding, LedgerRow, Severity
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule

_BY_MISTAKE = frozenset("detach data item tolist numpy float int argmax round".split())
"""What cuts off where it stands. Of a part under ``no_grad`` the own operations are seen, and it is mostly meant so."""


def check(patient: Patient) -> list[Finding]:
    """One finding for the cuts in the newest ledger behind which a parameter should have moved.

    One for those that stand by mistake, and one for the layers of a part that runs under ``no_grad``.
    """
    newest = max(patient.traced, key=lambda reading: reading.step, default=None)
    if newest is None:
        return []
    waiting = {p.name for p in newest.parameters if p.parameter.optimizer >= 0 and not p.grad_rms}
    cuts = [row for row in newest.ledger if _is_cut(row) and row.parameter in waiting]
    kinds = ([r for r in cuts if r.operation in _BY_MISTAKE], [r for r in cuts if r.operation not in _BY_MISTAKE])
    return [_finding(patient, rows) for rows in kinds if rows]


def _is_cut(row: LedgerRow) -> bool:
    return row.gain == 0 and math.isnan(row.grad_rms)


def _finding(patient: Patient, rows: list[LedgerRow]) -> Finding:
    row, more = rows[0], len(rows) - 1
    mistake = row.operation in _BY_MISTAKE
    stalled: Severity = "critical" if mistake else "warning"
    doubt: Severity = "warning" if mistake else "info"
    return Finding(
        kind="frozen_parameters",
        severity=patient.severity(stalled=stalled, unknown=doubt, learning="info"),
        sites=tuple(r.site for r in rows),
        evidence={"parameters": [r.parameter for r in rows], "operation": row.operation},
        cause=f"the graph is cut off at {row.site} ({row.operation})",
        explanation=(
            f"{row.parameter}, and what else lies behind {row.site} ({row.operation}), gets no gradient: the graph is "
            f"cut off there{f' and at {more} more places' if more else ''}, while an optimizer holds it."
        ),
        remedies=(
            f"leave out what cuts it off at {row.site}",
            "requires_grad_(False), and no place in the optimizer, if it is meant to stay as it is",
        ),
    )


RULE = Rule(
    kind="frozen_parameters",
    check=check,
    sick=(
        Case("a detach in the middle, and the loss does not fall", cases.cut("detach", loss="stalled")),
        Case("the same in the first step", cases.cut("detach", loss="unknown")),
        Case("a backbone under no_grad, and the loss does not fall", cases.cut("linear", loss="stalled")),
    ),
    healthy=(
        Case("nothing is cut off", cases.chain([1.0] * 10, "relu", loss="stalled")),
        Case("a backbone under no_grad, in the first step", cases.cut("linear", loss="unknown")),
        Case("the same, and it learns", cases.cut("linear", loss="learning")),
        Case("a detached part that no optimizer holds", cases.cut("detach", loss="stalled", held=False)),
    ),
)
