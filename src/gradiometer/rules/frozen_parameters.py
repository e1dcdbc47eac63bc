"""Parameters that do not learn by how a training is wired: cut off, held by no optimizer, or never set to zero."""

from __future__ import annotations

import math
from dataclasses import replace

from gradiometer.records import Finding, LedgerRow, Reading, Severity
from gradiometer.rules import carried_gradients, cases, unheld_parameters
from gradiometer.rules.base import Case, Patient, Rule
from gradiometer.rules.cases import parameter, tasks
from gradiometer.rules.cases.chains import Loss
from gradiometer.rules.drawn import as_drawn
from gradiometer.rules.patience import in_time, poorly, severity
from gradiometer.rules.standing import MOST, share
from gradiometer.rules.unheld_parameters import FEW

_BY_MISTAKE = frozenset(
    """detach data item tolist numpy float int long bool argmax argmin round gt lt ge le eq ne one_hot bernoulli
    multinomial argsort searchsorted bucketize""".split()
)
"""What cuts off where it stands. Of a part under ``no_grad`` the own operations are seen, and it is mostly meant so."""


def check(patient: Patient) -> list[Finding]:
    """What the graph cuts off, what is wired wrongly around it, and a missing ``zero_grad``."""
    return [*_cuts(patient), *unheld_parameters.check(patient), *carried_gradients.check(patient)]


def _cuts(patient: Patient) -> list[Finding]:
    """One finding for the cuts in the newest ledger behind which a parameter should have moved.

    One for those that stand by mistake, and one for the layers of a part that runs under ``no_grad``.
    """
    newest = max(patient.traced, key=lambda reading: reading.step, default=None)
    if newest is None:
        return []
    waiting = {p.name for p in newest.parameters if p.parameter.optimizer >= 0 and not p.grad_rms}
    cuts = [row for row in newest.ledger if _is_cut(row) and row.parameter in waiting]
    kinds = ([r for r in cuts if r.operation in _BY_MISTAKE], [r for r in cuts if r.operation not in _BY_MISTAKE])
    return [_finding(patient, newest, rows) for rows in kinds if rows]


def _is_cut(row: LedgerRow) -> bool:
    return row.gain == 0 and math.isnan(row.grad_rms)


def _finding(patient: Patient, reading: Reading, rows: list[LedgerRow]) -> Finding:
    row, more = rows[0], len(rows) - 1
    mistake = row.operation in _BY_MISTAKE
    # What was trained before may stand behind a cut on purpose. What nobody has trained does not.
    behind = [p for p in reading.parameters if p.parameter.optimizer >= 0 and p.grad_rms is None]
    drawn = as_drawn(behind, enough=FEW) is not None
    lost = mistake or (drawn and share(reading, behind) >= MOST)
    stalled: Severity = "critical" if mistake else "warning"
    doubt: Severity = "warning" if mistake else "info"
    # The rest of the network may learn the task without what stands behind it, which nobody has trained nonetheless.
    learns: Severity = "warning" if (mistake and drawn) or (lost and poorly(patient)) else "info"
    # A mistake needs no patience.
    early = patient.severity(stalled=stalled, unknown=doubt, learning=learns)
    severe = early if mistake else severity(patient, stalled=stalled, unknown=doubt, learns=learns)
    parameters = tuple(dict.fromkeys(r.parameter for r in rows if r.parameter is not None))
    return Finding(
        kind="frozen_parameters",
        severity=severe,
        sites=(*(r.site for r in rows), *parameters),
        evidence={
            "step": reading.step,
            "onset": in_time(patient)[0].step,
            "parameters": [r.parameter for r in rows],
            "operation": row.operation,
        },
        cause=f"the graph is cut off at {row.site} ({row.operation})",
        explanation=(
            f"{row.parameter}, and what else lies behind {row.site} ({row.operation}), gets no gradient: the graph is "
            f"cut off there{f' and at {more} more places' if more else ''}, while an optimizer holds it."
        ),
        remedies=(
            f"leave out what cuts it off at {row.site}",
            "requires_grad_(False), and no place in the optimizer, if it is meant to stay as it is",
        ),
        wrong_if="what lies behind is trained in other steps, or is meant to stay as it is",
    )


_FROZEN = {"held": False, "trainable": False, "gradient": None}
_OLD_HEAD = tasks.weight("param_groups[0][2]", gradient=None)
_BODY_OFF = tasks.weight("body", **_FROZEN, rms=0.8)
_BODY_LEFT_OUT = tasks.weight("body", held=False, rms=0.8)
_USED = [tasks.weight(f"body.{k}") for k in range(4)]
_IDLE = [tasks.weight(f"body.{k}", gradient=None) for k in range(4)]


def _left_out(layer: int, *, loss: Loss, rms: float = 0.577) -> Patient:
    """Three layers, of which no optimizer holds this one."""
    parameters = [parameter(f"{name}.weight", 1e-3) for name in ("fc0", "fc1", "out")]
    parameters[layer] = tasks.weight(parameters[layer].name, held=False, rms=rms)
    return tasks.held(*parameters, chain=False, loss=loss)


def _multiplied(*gradients: float, loss: Loss, dtype: str = "float32", through: Patient | None = None) -> Patient:
    """A network all of whose weights get this gradient, one a reading; weight decay moves them.

    Its sites are those of ``through``, or else in good health.
    """
    made = parameter("all", 1e-3)
    info = replace(made.parameter, dtype=dtype)
    weights = [replace(made, parameter=info, grad_rms=gradient) for gradient in gradients]
    readings = [tasks.held(weight, chain=False, loss=loss).last for weight in weights]
    sites = (through.last if through is not None else readings[0]).sites
    return cases.patient([replace(r, step=k, sites=sites) for k, r in enumerate(readings)], loss)


RULE = Rule(
    kind="frozen_parameters",
    check=check,
    sick=(
        Case("a detach in the middle, and the loss does not fall", cases.cut("detach", loss="stalled")),
        Case("the same in the first step", cases.cut("detach", loss="unknown")),
        Case("a comparison in the middle, and a third learned", cases.cut("gt", loss="little")),
        Case("the same before layers as they were drawn", cases.cut("gt", loss="half", drawn=True)),
        Case("a backbone under no_grad, and the loss does not fall", cases.cut("linear", loss="stalled")),
        Case(
            "most of the network held by no optimizer",
            tasks.held(*(tasks.weight(f"body.{k}", held=False) for k in range(4)), loss="stalled"),
        ),
        Case(
            "a new head, of which the optimizer does not know",
            tasks.held(tasks.weight("head", held=False), _OLD_HEAD, loss="unknown"),
        ),
        Case(
            "the optimizer of a copy",
            tasks.held(tasks.weight("head", held=False), _OLD_HEAD, chain=False, loss="unknown"),
        ),
        Case(
            "layers in a list",
            tasks.held(tasks.weight("layers[0].weight", held=False), loss="stalled"),
        ),
        Case(
            "the same as they were drawn, and it learns",
            tasks.held(tasks.weight("layers[0].weight", held=False, rms=0.577), loss="learning"),
        ),
        Case(
            "layers that were switched on later, and it learns",
            tasks.in_turn(*[[_BODY_OFF]] * 3, *[[_BODY_LEFT_OUT]] * 3, loss="learning"),
        ),
        Case("a layer in the middle as it was drawn, and most learned", _left_out(1, loss="half")),
        Case("the first layer as it was drawn, and a third learned", _left_out(0, loss="little")),
        Case(
            "an encoder frozen as it was drawn, and nothing learned",
            tasks.held(*(tasks.weight(f"body.{k}", **_FROZEN, rms=0.577) for k in range(4)), loss="stalled"),
        ),
        Case(
            "most of what is held takes no part",
            tasks.held(*(tasks.weight(f"body.{k}", gradient=None) for k in range(4)), loss="stalled"),
        ),
        Case(
            "most of what is held takes no part any more",
            tasks.in_turn(*[_USED] * 3, *[_IDLE] * 8, loss="stalled"),
        ),
        Case(
            "no gradient reaches anything",
            tasks.held(tasks.weight("all", gradient=None), chain=False, loss="stalled", backward=False),
        ),
        Case(
            "zero_grad between backward and step",
            tasks.held(tasks.weight("all", gradient=None), chain=False, loss="stalled"),
        ),
        Case(
            "nothing that can be trained is held",
            tasks.held(tasks.weight("all", trainable=False, gradient=None), chain=False, loss="unknown"),
        ),
        Case("no step moves anything", tasks.held(tasks.weight("all"), chain=False, loss="stalled")),
        Case("a loss that is multiplied by zero", _multiplied(0.0, 0.0, 0.0, loss="stalled")),
        Case("the same in the first steps", _multiplied(0.0, 0.0, 0.0, loss="unknown")),
        Case("zero_grad is missing", tasks.carrying([0.0, 0.7, 0.8, 0.9, 0.9], loss="stalled")),
        Case("the same, after a few readings", tasks.carrying([0.0, 0.7, 0.8, 0.9, 0.9], loss="unknown")),
        Case(
            "a comparison before layers as they were drawn, and nearly all learned",
            cases.cut("gt", loss="most", drawn=True),
        ),
        Case("a layer in the middle as it was drawn, and nearly all learned", _left_out(1, loss="most")),
    ),
    healthy=(
        Case("nothing is cut off", cases.chain([1.0] * 10, "relu", loss="stalled")),
        Case("a backbone under no_grad, in the first step", cases.cut("linear", loss="unknown")),
        Case("the same, and it learns", cases.cut("linear", loss="learning")),
        Case("a comparison before layers that were trained, and most learned", cases.cut("gt", loss="half")),
        Case("a detached part that no optimizer holds", cases.cut("detach", loss="stalled", held=False)),
        Case(
            "a body that is left out of the optimizer on purpose, and it learns",
            tasks.held(*(tasks.weight(f"body.{k}", held=False) for k in range(4)), loss="learning"),
        ),
        Case(
            "layers in a list that were trained before, and it learns",
            tasks.held(tasks.weight("layers[0].weight", held=False, rms=0.8), loss="learning"),
        ),
        Case("the first layer as it was drawn, and most learned", _left_out(0, loss="half")),
        Case("a layer in the middle that was trained before, and most learned", _left_out(1, loss="half", rms=0.8)),
        Case(
            "a frozen body that was trained before, not learning",
            tasks.held(*(tasks.weight(f"body.{k}", **_FROZEN, rms=0.8) for k in range(4)), loss="stalled"),
        ),
        Case(
            "random features that learn well",
            tasks.held(*(tasks.weight(f"body.{k}", **_FROZEN, rms=0.577) for k in range(4)), loss="learning"),
        ),
        Case(
            "a target network",
            tasks.held(
                *(tasks.weight(n, **_FROZEN, rms=0.577) for n in ("t.fc0.weight", "t.fc1.weight")), loss="stalled"
            ),
        ),
        Case("a part that is used in every third step", tasks.in_turn(*[_USED, _IDLE, _IDLE] * 4, loss="stalled")),
        Case("one that was used shortly before", tasks.in_turn(*[_USED] * 4, *[_IDLE] * 7, loss="stalled")),
        Case(
            "weights that are changed by hand",
            tasks.held(replace(parameter("all", 1e-3), grad_rms=None), chain=False, loss="stalled", backward=False),
        ),
        Case(
            "an adversary that no gradient reaches",
            tasks.held(tasks.weight("all", gradient=None), chain=False, loss="stalled", backward=False, alone=False),
        ),
        Case("a gradient of zero in all batches but one", _multiplied(0.0, 1e-9, 0.0, 0.0, loss="stalled")),
        Case("a gradient of zero in the first two steps", _multiplied(0.0, 0.0, loss="stalled")),
        Case("a gradient that float16 cannot hold", _multiplied(0.0, 0.0, 0.0, dtype="float16", loss="stalled")),
        Case(
            "a gradient that ends at an activation, which is told there",
            _multiplied(0.0, 0.0, 0.0, through=cases.closed("sigmoid", [0.0] * 3, loss="stalled"), loss="stalled"),
        ),
        Case("a gradient of zero where all is learned", _multiplied(0.0, 0.0, 0.0, loss="learning")),
        Case("a learning rate of zero", tasks.held(tasks.weight("all"), chain=False, loss="stalled", rate=0.0)),
        Case("a head that takes no part", tasks.held(tasks.weight("old", gradient=None), loss="stalled")),
        Case("zero_grad is missing, and it learns", tasks.carrying([0.0, 0.7, 0.8, 0.9, 0.9], loss="learning")),
        Case("gradients set to zero", tasks.carrying([0.0, 0.0, 0.0, 0.0], loss="stalled")),
        Case("a gradient left over once", tasks.carrying([0.9, 0.0, 0.0, 0.6, 0.0], loss="stalled")),
    ),
)
