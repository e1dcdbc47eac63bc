"""Reads the gradient through time, its gain per step and what makes it, off a measured flow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from gradiometer.measures import Scalar
from gradiometer.probe.ledger.accounts import Accounts
from gradiometer.probe.ledger.factors import PEAKS
from gradiometer.probe.ledger.flow import Flow
from gradiometer.probe.ledger.knots import Group, Key, Knot
from gradiometer.probe.ledger.recurrence import Plan
from gradiometer.records import Recurrence

_BOUNDED = frozenset("sigmoid hardsigmoid tanh relu relu6 hardtanh softsign".split())
_GATES = {
    "lstm": ("input gate", "forget gate", "cell candidate", "output gate"),
    "gru": ("reset gate", "update gate", "candidate"),
}
_GONE = 0.01


def read(made: Plan, flow: Flow, accounts: Accounts, names: Mapping[int, str]) -> Recurrence | None:
    """What was measured of one recurrence."""
    gradients = [_norm(_at(key, made, flow) for key in state) for state in made.states]
    sent = [_norm(flow.tied_norms.get(key, 0.0) for key in state) for state in made.states[:-1]]
    if not gradients or not any(gradients):
        return None
    gains = [a / b if b else math.nan for a, b in zip(sent, gradients[1:], strict=True)]
    by: dict[str, float] = {}
    bounds: list[float | None] = []
    steps = len(gains)
    for i in range(steps):
        walked = _walk(made.states[i], made.states[i + 1], flow, accounts)
        for group, key, change in (*walked, *_other_gates(made, i, flow, accounts, names)):
            label = _label(group, key, names)
            by[label] = by.get(label, 0.0) + change / steps
        squashed = [g.operation.name for g, _, _ in walked if g.operation.cause == "activation"]
        known = squashed and all(name in _BOUNDED for name in squashed)
        bounds.append(math.prod(PEAKS.get(name, 1.0) for name in squashed) if known else None)
    bounded = [b for b in bounds if b is not None]
    bound = bounded[0] ** len(made.uses) if bounded and len(bounded) == steps and len(set(bounded)) == 1 else None
    group = made.uses[0].group
    call = group.call if group is not None else None
    return Recurrence(
        site=(call.base or call.operation.name) if call is not None else group.base if group is not None else "",
        parameter=names.get(id(made.parameter), ""),
        steps=len(made.uses),
        gradients=tuple(gradients),
        gains=tuple(gains),
        horizon=horizon(gains),
        by=by,
        bound=bound,
        model=group.model if group is not None else "",
    )


def _other_gates(
    made: Plan, step: int, flow: Flow, accounts: Accounts, names: Mapping[int, str]
) -> list[tuple[Group, Key, float]]:
    """The gates right behind those parts of the state on which little comes through: shut, they would not be seen."""
    state, out = made.states[step], []
    strongest = max(state, key=lambda k: float(flow.tied_norms.get(k, 0.0)))
    for key in state:
        if key is not strongest:
            first = _walk({key: state[key]}, made.states[step + 1], flow, accounts)[:1]
            out += [part for part in first if "gate" in _label(part[0], part[1], names)]
    return out


def _at(key: Key, made: Plan, flow: Flow) -> Scalar:
    """The norm of the gradient at one part of a state."""
    if key in made.counted:
        return flow.counted_norms.get(key, 0.0)
    return flow.entering[key][0] if key in flow.entering else 0.0


def _walk(
    state: dict[Key, set[Knot]], after: dict[Key, set[Knot]], flow: Flow, accounts: Accounts
) -> list[tuple[Group, Key, float]]:
    """The operations of one step on the way that carries most, from the state before to the one after it.

    Each with the key at which its gradient arrives and the ``log10`` gain of its norm; a fork counts with the operation
    whose gradients it sums.
    """
    out: list[tuple[Group, Key, float]] = []
    key = max(state, key=lambda k: float(flow.tied_norms.get(k, 0.0)))
    wanted: set[Group] | None = {k.group for k in state[key] if k.group is not None}
    while len(out) < 64:
        users = {u: a for u, a in flow.arrivals.get(key, {}).items() if u is not None and (not wanted or u in wanted)}
        if not users:
            return out
        user, arrival = max(users.items(), key=lambda pair: float(pair[1].norm))
        norm = accounts.norm(user)
        change = math.log10(float(arrival.norm) / norm) if norm and float(arrival.norm) else -math.inf
        out.append((user, key, change))
        if any((knot, nr) in after for knot in user.knots for nr in range(len(knot.consumers) or 1)):
            return out
        ways = [(float(a.norm), k) for k, us in accounts.entry(user).items() for u, a in us.items() if u is not None]
        if not ways:
            return out
        strongest, key = max(ways, key=lambda way: way[0])
        if strongest and norm:
            out[-1] = (user, out[-1][1], change + math.log10(norm / strongest))
        wanted = None
    return out


def _label(group: Group, key: Key, names: Mapping[int, str]) -> str:
    """What people call it: the name of a matrix, a gate, or the operation."""
    if group.operation.cause == "weights":
        named = (names.get(id(p)) for p in group.of_parameters())
        return next((name for name in named if name), group.operation.name)
    call = group.call
    kind = call.operation.name if call is not None else ""
    gates = next((gates for name, gates in _GATES.items() if name in kind), None)
    if gates is not None and group.operation.name == "mul":
        for target, _ in group.knots[0].edges:
            if target is None or target is key[0]:
                continue
            below = [*target.edges, *(edge for t, _ in target.edges if t is not None for edge in t.edges)]
            for split, nr in below:
                if split is not None and "Split" in split.node.name() and nr < len(gates):
                    return gates[nr]
    return group.operation.name


def horizon(gains: list[float]) -> float:
    """Steps after which a gradient that these gains multiply, the last first, has fallen to 1 %."""
    left = 1.0
    for steps, gain in enumerate(reversed(gains), 1):
        left *= gain
        if left <= _GONE:
            return float(steps)
    if not left < 1 or not gains:
        return math.inf if left >= 1 else math.nan
    return math.log(_GONE) / (math.log(left) / len(gains))


def _norm(values: Iterable[Scalar]) -> float:
    return math.hypot(*(float(v) for v in values))
