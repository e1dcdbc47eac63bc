"""A ledger, and what else a reading has of nested records, as plain lists and back, for its text part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from gradiometer.records import Birth, Branch, Edge, Inputs, Ledger, LedgerRow, Reading, Recurrence, Task

_COLUMNS = tuple(field.name for field in fields(LedgerRow))


def to_plain(reading: Reading) -> dict[str, Any]:
    """Ledger, recurrences and birth of a reading, as far as there are any; numbers may be NaN or infinite."""
    out: dict[str, Any] = {}
    if reading.ledger:
        ledger = reading.ledger
        rows = {name: [_value(getattr(row, name)) for row in ledger] for name in _COLUMNS}
        out["ledger"] = {"end": ledger.end, "end_rms": ledger.end_rms, "rows": rows}
    if reading.recurrences:
        out["recurrences"] = [asdict(r) for r in reading.recurrences]
    if reading.birth is not None:
        out["birth"] = asdict(reading.birth)
    if reading.tasks:
        out["tasks"] = [asdict(task) for task in reading.tasks]
    if reading.inputs is not None:
        out["inputs"] = asdict(reading.inputs)
    return out


def from_plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_plain` was given, as fields of a reading."""
    out: dict[str, Any] = {}
    if "ledger" in data:
        columns = data["ledger"]["rows"]
        # A column that this version does not know is left out, one that is missing keeps its default.
        known = [name for name in _COLUMNS if name in columns]
        rows = (dict(zip(known, values, strict=True)) for values in zip(*(columns[n] for n in known), strict=True))
        out["ledger"] = Ledger(tuple(_row(dict(row)) for row in rows), data["ledger"]["end"], data["ledger"]["end_rms"])
    if "recurrences" in data:
        out["recurrences"] = tuple(_recurrence(r) for r in data["recurrences"])
    if "birth" in data:
        out["birth"] = Birth(**data["birth"])
    if "tasks" in data:
        out["tasks"] = tuple(_task(t) for t in data["tasks"])
    if "inputs" in data:
        out["inputs"] = Inputs(**data["inputs"])
    return out


def _task(data: dict[str, Any]) -> Task:
    pairs: dict[str, Any] = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
    return Task(**{**data, **pairs})


def _value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [[getattr(part, name) for name in part.__slots__] for part in value]
    return value


def _row(row: dict[str, Any]) -> LedgerRow:
    edges: Any = row.get("edges", ())
    branches: Any = row.get("branches", ())
    made: dict[str, Any] = row | {
        "edges": tuple(Edge(*values) for values in edges),
        "branches": tuple(Branch(*values) for values in branches),
    }
    return LedgerRow(**made)


def _recurrence(data: dict[str, Any]) -> Recurrence:
    made: dict[str, Any] = data | {"gradients": tuple(data["gradients"]), "gains": tuple(data["gains"])}
    return Recurrence(**made)
