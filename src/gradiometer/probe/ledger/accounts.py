"""From measured gradients to the rows of the ledger: gains, forks, the main path, and what each row costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from gradiometer.measures import resolve
from gradiometer.probe.ledger.calls import Cut
from gradiometer.probe.ledger.flow import Arrival, Flow
from gradiometer.probe.ledger.knots import Group, Key
from gradiometer.probe.observation import Observation
from gradiometer.records import Branch, Edge, Ledger, LedgerRow

_SAME = 1e-9
"""Relative difference from which on what arrives at a tensor is not what was sent: a hook of the user's changed it."""


class Accounts:
    """Reads a settled flow, group by group."""

    def __init__(self, flow: Flow, names: Mapping[Observation, str], parameters: Mapping[int, str]) -> None:
        """``names`` are those of the sites, ``parameters`` maps ``id`` to the name of a parameter."""
        self._flow = flow
        self._parameters = parameters
        self._entry: dict[Group, dict[Key, dict[Group | None, Arrival]]] = {}
        self._exit: dict[Group, dict[Key, Arrival]] = {}
        for key, users in flow.arrivals.items():
            group = key[0].group
            if group is None or not users:
                continue
            self._entry.setdefault(group, {})[key] = users
            for user, arrival in users.items():
                if user is not None:
                    self._exit.setdefault(user, {})[key] = arrival
        self.groups = sorted(self._entry, key=lambda g: -max(k.number for k in g.knots))
        self.names = _names(self.groups, names)
        self.path = self._main_path()
        self._dead = _dead_shares(self.groups)

    # -- sizes ----------------------------------------------------------------------------------------------------

    def entry(self, group: Group) -> dict[Key, dict[Group | None, Arrival]]:
        """The keys of a group at which gradients arrive, with where from."""
        return self._entry[group]

    def norm(self, group: Group) -> float:
        """Of the gradient that enters a group, over all its outputs."""
        return math.hypot(*(float(self._flow.entering[key][0]) for key in self._entry[group]))

    def elements(self, group: Group) -> int:
        """Of that gradient."""
        return max(sum(self._flow.entering[key][1] for key in self._entry[group]), 1)

    def rms(self, group: Group) -> float:
        """Of that gradient."""
        return self.norm(group) / math.sqrt(self.elements(group))

    # -- the main path --------------------------------------------------------------------------------------------

    def _main_path(self) -> dict[Group, tuple[Key, Group | None]]:
        """From its end to the loss: each group, with the key at which most arrives and the group it comes from.

        It ends where the longest way from the loss ends.
        """
        distance: dict[Group, int] = {}
        for group in self.groups:
            for key in self._exit.get(group, ()):
                target = key[0].group
                if target is not None:
                    distance[target] = max(distance.get(target, 0), distance.get(group, 0) + 1)
        ends = [g for g in self.groups if g not in self._exit]
        path: dict[Group, tuple[Key, Group | None]] = {}
        at: Group | None = max(ends, key=lambda g: (distance.get(g, 0), self.norm(g)), default=None)
        while at is not None and at not in path:
            ways = [(float(a.norm), key, user) for key, users in self._entry[at].items() for user, a in users.items()]
            _, key, user = max(ways, key=lambda way: -1.0 if math.isnan(way[0]) else way[0])
            path[at] = (key, user)
            at = user
        return path

    # -- rows -----------------------------------------------------------------------------------------------------

    def ledger(self, cuts: list[tuple[Cut, Tensor]]) -> Ledger:
        """The rows, from the loss to the input; ``cuts`` are those that leave a parameter without a gradient."""
        if not self.groups:
            return Ledger()
        end = next(iter(self.path))
        onward = {user: key for key, user in self.path.values() if user is not None}
        rows: list[tuple[LedgerRow, Group]] = []
        for group in self.groups:
            fork = self._fork(group)
            if fork is not None:
                rows.append((fork, group))
            row = self._row(group, onward.get(group), main=group in self.path)
            if row is not None:
                rows.append((row, group))
        made = [row for row, _ in rows]
        last = next((r for r, g in rows if g is end and r.operation not in ("fork", "hook")), None)
        name, rms = self.names[end], self.rms(end)
        if last is not None:  # a lookup: the gradient ends in the table
            name, rms = last.parameter or name, last.grad_rms * last.gain
        behind = {
            cut for knot in end.knots if (call := self._flow.layout.log.call_of(knot.number)) for cut in call.cuts
        }
        reached = max(k.number for k in end.knots)
        for cut, missing in cuts:
            whole = cut in behind or (cut.to_numbers and cut.number <= reached)
            made.append(_cut_row(cut, self._parameters.get(id(missing)), main=whole))
            if whole:
                name, rms = cut.site, 0.0
        total = sum(row.log10_gain for row in made if row.main)
        made[: len(rows)] = [replace(row, total_without=self._without(row, group, total)) for row, group in rows]
        return Ledger(tuple(made), name, rms)

    def _row(self, group: Group, key: Key | None, *, main: bool) -> LedgerRow | None:
        """The row of one operation; none where nothing is known of what leaves it: at the input."""
        leaving = self._exit.get(group, {})
        norm, elements = self.norm(group), self.elements(group)
        table = self._flow.tables.get(group)
        if table is not None and not leaving:
            used = Arrival(*table)
            edges = (Edge("", _gain(used, norm, elements), float(used.norm) / math.sqrt(max(used.elements, 1))),)
        elif leaving:
            key = key or max(leaving, key=lambda k: float(leaving[k].norm))
            used = leaving[key]
            edges = tuple(
                Edge(self.names[k[0].group], _gain(a, norm, elements), float(a.norm) / math.sqrt(max(a.elements, 1)))
                for k, a in leaving.items()
                if k[0].group is not None
            )
        else:
            return None
        gain = _gain(used, norm, elements)
        named = (self._parameters.get(id(p)) for p in group.of_parameters())
        parameter = next((name for name in named if name is not None), None)
        factors = self._factors(group, gain)
        if table is not None and not leaving:
            edges = (Edge(parameter or "", edges[0].gain, edges[0].grad_rms),)
        return LedgerRow(
            site=self.names[group],
            operation=group.operation.name,
            cause=group.operation.cause,
            gain=gain,
            log10_gain=_log10(gain),
            grad_rms=norm / math.sqrt(elements),
            main=main,
            elements=elements,
            elements_out=max(used.elements, 1),
            edges=edges,
            parameter=parameter,
            model=group.model,
            **factors,
        )

    def _factors(self, group: Group, gain: float) -> dict[str, Any]:
        scale = self._flow.scales.get(group)
        if scale is not None:
            return {"scale": float(scale), "alignment": gain / float(scale) if scale else None}
        found = self._flow.derivatives.found.get(group)
        if found is None:
            return {}
        seen = group.call.seen if group.call is not None else None
        flat = self._dead.get(seen) if found[1] is None and seen is not None else found[1]
        return {"derivative": float(found[0]), "flat": None if flat is None else float(flat)}

    def _fork(self, group: Group) -> LedgerRow | None:
        """A row where several gradients are summed up, or where a hook of the user's has changed the gradient."""
        ways = [(key, user, a) for key, users in self._entry[group].items() for user, a in users.items()]
        norm, elements = self.norm(group), self.elements(group)
        chosen = self.path.get(group)
        _, _, used = max(ways, key=lambda way: ((way[0], way[1]) == chosen, float(way[2].norm)))
        if len(ways) == 1 and not abs(norm - float(used.norm)) > _SAME * norm:  # NaN is no hook's doing
            return None
        sent = float(used.norm) / math.sqrt(max(used.elements, 1))
        gain = norm / math.sqrt(elements) / sent if sent else math.nan
        branches = [self._branch(user, a, float(self._flow.entering[k][0]), norm, len(ways) > 1) for k, user, a in ways]
        return LedgerRow(
            site=self.names[group],
            operation="fork" if len(ways) > 1 else "hook",
            cause="connection",
            gain=gain,
            log10_gain=_log10(gain),
            grad_rms=sent,
            main=group in self.path,
            elements=max(used.elements, 1),
            elements_out=elements,
            edges=(Edge(self.names[group], gain, norm / math.sqrt(elements)),),
            branches=tuple(sorted(branches, key=lambda b: -b.grad_norm)) if len(ways) > 1 else (),
            model=group.model,
        )

    def _branch(self, user: Group | None, a: Arrival, here: float, norm: float, several: bool) -> Branch:
        """``here`` is the norm of all that arrives at the same key, ``norm`` of all that arrives at the operation."""
        part = (here / norm) ** 2 if norm else math.nan
        share = float(a.product) * part
        size = float(a.norm)
        ratio = size / norm if norm else math.nan
        rest = math.sqrt(max(1 - 2 * share + ratio**2, 0.0))
        cosine = (share - ratio**2) / (ratio * rest) if several and ratio * rest > 0 else math.nan
        site, operation = (self.names[user], user.operation.name) if user is not None else ("loss", "loss")
        return Branch(site, operation, size, share, max(-1.0, min(1.0, cosine)) if cosine == cosine else cosine)

    def _without(self, row: LedgerRow, group: Group, total: float) -> float:
        """The total with this row at gain one, when the branches it is in are summed as they are otherwise."""
        if row.main:
            return total - row.log10_gain if math.isfinite(row.log10_gain) else math.nan
        if not row.gain or not math.isfinite(row.gain):
            return math.nan
        factor = 1 / row.gain
        while group not in self.path:
            leaving = self._exit.get(group, {})
            if not leaving:
                return total
            key = max(leaving, key=lambda k: float(leaving[k].norm))
            target, a = key[0].group, leaving[key]
            if target is None or not (norm := self.norm(target)):
                return math.nan
            share = float(a.product) * (float(self._flow.entering[key][0]) / norm) ** 2
            change = factor - 1
            factor = math.sqrt(max(1 + 2 * change * share + (change * float(a.norm) / norm) ** 2, 0.0))
            group = target
        return total + _log10(factor)


def _dead_shares(groups: list[Group]) -> dict[Observation, float]:
    """The share of dead units of every activation that has a flat half, read with one transfer."""
    seen = [group.call.seen for group in groups if group.call is not None and group.call.seen is not None]
    shares = {one: share for one in seen if (share := one.dead_share()) is not None}
    return dict(zip(shares, resolve(shares.values()), strict=True))


def _names(groups: list[Group], names: Mapping[Observation, str]) -> dict[Group, str]:
    """The names of the sites, numbered in the order of the forward pass."""
    out: dict[Group, str] = {}
    calls: Counter[tuple[str, str]] = Counter()
    for group in reversed(groups):
        call = group.call
        known = names.get(call.seen) if call is not None and call.seen is not None else None
        if known is not None and call is not None and not call.composite:
            out[group] = known
            continue
        base = f"{known}:{group.operation.name}" if known is not None else group.base
        number = calls[group.model, base]
        calls[group.model, base] += 1
        out[group] = f"{base}.{number}" if number else base
    return out


def _gain(arrival: Arrival, norm: float, elements: int) -> float:
    if not norm or not math.isfinite(norm):
        return math.nan
    return float(arrival.norm) / math.sqrt(max(arrival.elements, 1)) / (norm / math.sqrt(elements))


def _log10(gain: float) -> float:
    return math.log10(gain) if gain > 0 and math.isfinite(gain) else -math.inf if gain == 0 else gain


def _cut_row(cut: Cut, parameter: str | None, *, main: bool) -> LedgerRow:
    return LedgerRow(
        site=cut.site,
        operation=cut.operation.name,
        cause="connection",
        gain=0.0,
        log10_gain=-math.inf,
        grad_rms=math.nan,
        main=main,
        parameter=parameter,
        model=cut.model,
    )
