"""Finds what is applied again and again in time, and reads the gradient through time off a measured flow.

A weight used in step after step, each use on what came of the one before, makes a recurrence, whether written as a
loop over cells or hidden in a recurrent layer. The *time* of a knot is the number of uses behind it. The state after a
step is what knots of the next step, on the way to later uses, take from it: the hidden state, and the cell of an LSTM.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gradiometer.measures import Scalar
from gradiometer.probe.ledger.accounts import Accounts
from gradiometer.probe.ledger.factors import PEAKS
from gradiometer.probe.ledger.flow import Flow
from gradiometer.probe.ledger.knots import Group, Key, Knot, Layout, parameters_below
from gradiometer.records import Recurrence

SHORTEST = 3
"""Uses of a weight, one on what came of the other, from which on they are steps of time."""

_BOUNDED = frozenset("sigmoid hardsigmoid tanh relu relu6 hardtanh softsign".split())
_GATES = {
    "lstm": ("input gate", "forget gate", "cell candidate", "output gate"),
    "gru": ("reset gate", "update gate", "candidate"),
}
_GONE = 0.01
_MOST = 8
"""Recurrences that are looked at in one graph."""


@dataclass
class Plan:
    """The states of one recurrence: the keys after each step, and which knots of the next step take them."""

    parameter: Tensor
    uses: list[Knot]
    states: list[dict[Key, set[Knot]]] = field(default_factory=list)
    counted: dict[Key, set[Knot]] = field(default_factory=dict)
    """Of a state in several parts, of which one is made of another within the step (the hidden state of an LSTM of its
    cell), the users that take the part itself and not on the way to the other: else it would be counted twice."""


def plan(layout: Layout) -> list[Plan]:
    """The recurrences of a graph."""
    found: list[Plan] = []
    walked: set[frozenset[Knot]] = set()
    for parameter, users in _users(layout):
        if frozenset(users) in walked:  # the bias of a matrix
            continue
        walked.add(frozenset(users))
        for chain in _chains(layout, users):
            if len(chain) < SHORTEST or len(found) >= _MOST:
                continue
            time = _times(layout, chain)
            steps = max(time[k] for k in chain)
            if steps < SHORTEST:
                continue
            uses = [next(k for k in chain if time[k] == t) for t in range(1, steps + 1)]
            states = _states(layout, chain, uses, time)
            made = Plan(parameter, uses, states, _counted(states, time))
            if made.states and not any(set(made.states[0]) & set(other.states[0]) for other in found):
                found.append(made)
    return found


def _users(layout: Layout) -> list[tuple[Tensor, list[Knot]]]:
    """The parameters that are used often, matrices before vectors, each with the knots that use it."""
    users: dict[int, tuple[Tensor, list[Knot]]] = {}
    for knot in layout.knots:
        if knot.signal:
            for p in {id(p): p for p in parameters_below(knot)}.values():
                users.setdefault(id(p), (p, []))[1].append(knot)
    often = [entry for entry in users.values() if len(entry[1]) >= SHORTEST]
    return sorted(often, key=lambda entry: (-entry[0].dim(), -len(entry[1])))


def _chains(layout: Layout, users: list[Knot]) -> list[list[Knot]]:
    """The users, those together that lie on what came of one another: a weight may run over several sequences."""
    using = set(users)
    leads: set[Knot] = set()  # to a use that comes later
    for knot in reversed(layout.knots):
        if any(c in using or c in leads for consumers in knot.consumers.values() for c in consumers):
            leads.add(knot)
    chain: dict[Knot, int] = {}
    joined: dict[int, int] = {}  # chain -> the one it was found to be a part of

    def root(number: int) -> int:
        while joined.get(number, number) != number:
            number = joined[number]
        return number

    behind: dict[Knot, frozenset[int]] = {}  # chains that a knot was computed from
    for knot in layout.knots:
        if knot not in using and knot not in leads:
            continue
        before = {root(n) for t, _ in knot.edges if t is not None for n in behind.get(t, ())}
        if knot in using:
            number = min(before, default=len(chain))
            joined.update((n, number) for n in before)
            joined.setdefault(number, number)
            chain[knot] = number
            before = {number}
        behind[knot] = frozenset(before)
    out: dict[int, list[Knot]] = {}
    for knot, number in chain.items():
        out.setdefault(root(number), []).append(knot)
    return list(out.values())


def _times(layout: Layout, chain: list[Knot]) -> dict[Knot, int]:
    users = set(chain)
    time: dict[Knot, int] = {}
    for knot in layout.knots:
        before = max((time[t] for t, _ in knot.edges if t is not None), default=0)
        time[knot] = before + (knot in users)
    return time


def _states(
    layout: Layout, chain: list[Knot], uses: list[Knot], time: Mapping[Knot, int]
) -> list[dict[Key, set[Knot]]]:
    """The states after steps 1, 2, ... to the last.

    Those of the last two steps, behind which no use comes any more, are found by their place in the step.
    """
    users = set(chain)
    feeds: dict[Knot, int] = {}
    for knot in reversed(layout.knots):
        users_of = [c for consumers in knot.consumers.values() for c in consumers]
        feeds[knot] = max((max(time[c] if c in users else 0, feeds[c]) for c in users_of), default=0)
    states: list[dict[Key, set[Knot]]] = [{} for _ in uses]
    places: dict[Knot, tuple[int, str, int]] = {}
    counts: Counter[tuple[int, str]] = Counter()
    for knot in sorted(layout.knots, key=lambda k: k.number):
        t, name = time[knot], knot.node.name()
        if not knot.signal or not t:
            continue
        places[knot] = (t, name, counts[t, name])
        counts[t, name] += 1
        if 2 <= t < len(uses) and (knot in users or feeds[knot] > t):
            for target, nr in knot.edges:
                if target is not None and target.signal and time[target] == t - 1:
                    key, taker = _behind_views((target, nr), knot)
                    states[t - 2].setdefault(key, set()).add(taker)
    known = len(uses) - 2  # states found so far
    if not all(states[:known]):
        return []
    knots = {place: knot for knot, place in places.items()}
    for later in (known, known + 1):
        alike = [_alike(states[at], places, knots, later + 1) for at in range(known - 1, max(known - 4, -1), -1)]
        # Of those before the one that fits best: where a sequence of the batch has ended, a step looks different.
        states[later] = max(alike, key=lambda found: (len(found), sum(map(len, found.values()))))
    return states if all(states) else []


def _counted(states: list[dict[Key, set[Knot]]], time: Mapping[Knot, int]) -> dict[Key, set[Knot]]:
    out: dict[Key, set[Knot]] = {}
    for t, state in enumerate(states, 1):
        parts = {knot for knot, _ in state}
        for (knot, nr), takers in state.items() if len(parts) > 1 else ():
            users = set(knot.consumers.get(nr, ()))
            inside = {c for c in users - takers if time[c] == t and _leads_to(c, parts - {knot}, time)}
            if inside:
                out[knot, nr] = users - inside
    return out


def _leads_to(knot: Knot, parts: set[Knot], time: Mapping[Knot, int]) -> bool:
    """Whether something is made of a knot within its step."""
    stack, seen = [knot], {knot}
    while stack:
        at = stack.pop()
        if at in parts:
            return True
        following = (c for users in at.consumers.values() for c in users if time[c] == time[knot] and c not in seen)
        for c in following:
            seen.add(c)
            stack.append(c)
    return False


def _behind_views(key: Key, taker: Knot) -> tuple[Key, Knot]:
    """The state itself, where a step takes a part or a view of it, and the view as the one that takes it."""
    knot, nr = key
    while knot.group is not None and knot.group.operation.cause == "reshaping":
        signals = [(t, n) for t, n in knot.edges if t is not None and t.signal]
        if len(signals) != 1:
            break
        taker = knot
        (knot, nr) = signals[0]
    return (knot, nr), taker


def _alike(
    state: dict[Key, set[Knot]],
    places: Mapping[Knot, tuple[int, str, int]],
    knots: Mapping[tuple[int, str, int], Knot],
    time: int,
) -> dict[Key, set[Knot]]:
    """The keys that lie in a later step where those of ``state`` lie in theirs: the n-th node of that name."""
    out: dict[Key, set[Knot]] = {}
    for (knot, nr), takers in state.items():
        twin = knots.get((time, *places[knot][1:]))
        if twin is not None:
            found = (knots.get((time + 1, *places[taker][1:])) for taker in takers)
            out[twin, nr] = {k for k in found if k is not None and any(t is twin for t, _ in k.edges)}
    return out


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
        horizon=_horizon(gains),
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


def _horizon(gains: list[float]) -> float:
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
