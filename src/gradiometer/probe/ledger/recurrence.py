"""Finds what is applied again and again in time.

A weight used in step after step, each use on what came of the one before, makes a recurrence, whether written as a
loop over cells or hidden in a recurrent layer. The *time* of a knot is the number of uses behind it. The state after a
step is what knots of the next step, on the way to later uses, take from it: the hidden state, and the cell of an LSTM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gradiometer.probe.ledger.knots import Key, Knot, Layout, parameters_below

SHORTEST = 3
"""Uses of a weight, one on what came of the other, from which on they are steps of time."""

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
