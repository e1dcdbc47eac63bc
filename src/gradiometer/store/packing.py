"""A reading as bytes and back: columns of doubles and of text, compressed; sites and parameters by number.

A reading of a thousand sites is a few kilobytes and takes a millisecond; the same as JSON takes twenty.
"""

from __future__ import annotations

import json
import math
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gradiometer.records import Parameter, ParameterReading, Reading, Site, SiteReading
from gradiometer.store.ledgers import from_plain, to_plain

_ABSENT = -1.0  # stands for None in a column whose values are never negative
_SITE_NUMBERS = ("passes", "rms", "mean", "nonfinite", "masked", "zeros", "saturation", "units", "examples", "dead",
                 "grad_rms", "grad_nonfinite", "gates")  # fmt: skip
_PARAMETER_NUMBERS = ("weight_rms", "weight_nonfinite", "grad_rms", "grad_nonfinite", "update_rms", "measured",
                      "unit_quantiles")  # fmt: skip
# What most rows do not have.
_SITE_EXTRA = ("offset", "correlation", "positions", "entropy", "sharpness", "lost")
_PARAMETER_EXTRA = ("copies", "moved")
_COUNTS = frozenset(("passes", "nonfinite", "masked", "units", "examples", "dead", "grad_nonfinite", "measured"))
_FLAGS = frozenset(("weight_nonfinite", "unit_quantiles", "gates"))

Identity = Site | Parameter


def pack(reading: Reading, number: Callable[[Identity], int]) -> bytes:
    """Packs a reading; ``number`` gives each site and parameter the number it is stored under."""
    head = {
        "step": reading.step,
        "optimizer": reading.optimizer,
        "time": reading.time,
        "loss": reading.loss,
        "loss_scale": reading.loss_scale,
        "level": reading.level,
        "passes": reading.passes,
        "loss_operations": reading.loss_operations,
        "sites": [number(row.site) for row in reading.sites],
        "shapes": [row.shape for row in reading.sites],
        "masks": {i: row.dead_mask.hex() for i, row in enumerate(reading.sites) if row.dead_mask},
        "parameters": [number(row.parameter) for row in reading.parameters],
        "units": [len(row.unit_data) for row in reading.parameters],
        "sites_also": _extra(reading.sites, _SITE_EXTRA),
        "parameters_also": _extra(reading.parameters, _PARAMETER_EXTRA),
        "clipped": reading.clipped,
        "carried": reading.carried,
        "learning_rate": reading.learning_rate,
        **to_plain(reading),
    }
    text = json.dumps(head).encode()
    body = [
        len(text).to_bytes(4, "little"),
        text,
        *(_column(reading.sites, name) for name in _SITE_NUMBERS),
        *(_column(reading.parameters, name) for name in _PARAMETER_NUMBERS),
    ]
    compressed = zlib.compress(b"".join(body), 1)
    # The norms of the units stay as they are: a compressor finds nothing in them, and takes longest to say so.
    units = b"".join(row.unit_data for row in reading.parameters)
    packed = len(compressed).to_bytes(4, "little") + compressed + units
    return zlib.crc32(packed).to_bytes(4, "little") + packed


def sound(data: bytes) -> bool:
    """Whether the bytes are those that were packed; a thousand times as fast as unpacking them."""
    return isinstance(data, bytes) and zlib.crc32(memoryview(data)[4:]).to_bytes(4, "little") == data[:4]


def unpack(data: bytes, identities: Mapping[int, Identity]) -> Reading:
    """The reading that was packed in these bytes; ``ValueError`` if they are not `sound`.

    A site or parameter that is missing from ``identities`` was damaged, and is called by its number.
    """
    if not sound(data):
        raise ValueError("its checksum is wrong")
    data = data[4:]
    end = 4 + int.from_bytes(data[:4], "little")
    units, data = data[end:], zlib.decompress(data[4:end])
    start = 4 + int.from_bytes(data[:4], "little")
    head: dict[str, Any] = json.loads(data[4:start])
    site_columns, start = _columns(data, start, _SITE_NUMBERS, len(head["sites"]))
    parameter_columns, _ = _columns(data, start, _PARAMETER_NUMBERS, len(head["parameters"]))
    sites = []
    for i, number in enumerate(head["sites"]):
        site = identities.get(number)
        if not isinstance(site, Site):
            site = Site(f"site {number} (its name is lost)", "unknown", "unknown")
        row = {name: column[i] for name, column in site_columns.items()}
        mask = bytes.fromhex(head["masks"].get(str(i), ""))
        row |= head["sites_also"].get(str(i), {})
        sites.append(SiteReading(site=site, shape=tuple(head["shapes"][i]), dead_mask=mask, **row))
    parameters, start = [], 0
    for i, number in enumerate(head["parameters"]):
        parameter = identities.get(number)
        if not isinstance(parameter, Parameter):
            parameter = Parameter(f"parameter {number} (its name is lost)", (), -1, True)
        row = {name: column[i] for name, column in parameter_columns.items()}
        row |= head["parameters_also"].get(str(i), {})
        end = start + head["units"][i]
        parameters.append(ParameterReading(parameter=parameter, unit_data=units[start:end], **row))
        start = end
    return Reading(
        step=head["step"],
        optimizer=head["optimizer"],
        time=head["time"],
        loss=head["loss"],
        loss_scale=head["loss_scale"],
        level=head["level"],
        passes=head["passes"],
        sites=tuple(sites),
        parameters=tuple(parameters),
        loss_operations=tuple(head["loss_operations"]),
        clipped=head["clipped"],
        carried=head["carried"],
        learning_rate=head["learning_rate"],
        **from_plain(head),
    )


def _extra(rows: Sequence[Any], names: Sequence[str]) -> dict[int, dict[str, float]]:
    """By the row's place, those of these fields that it has."""
    found = ({name: value for name in names if (value := getattr(row, name)) is not None} for row in rows)
    return {i: fields for i, fields in enumerate(found) if fields}


def pack_rows(rows: Sequence[tuple[int, int, float]]) -> bytes:
    """Rows ``(optimizer, step, value)`` of one scalar as bytes."""
    data = array("d", [number for row in rows for number in row]).tobytes()
    return zlib.crc32(data).to_bytes(4, "little") + data


def unpack_rows(data: bytes) -> list[tuple[int, int, float]]:
    """The rows that were packed in these bytes; ``ValueError`` if they are not `sound`."""
    if not sound(data):
        raise ValueError("its checksum is wrong")
    numbers = iter(array("d", data[4:]))
    return [
        (int(optimizer), int(step), value) for optimizer, step, value in zip(numbers, numbers, numbers, strict=True)
    ]


def checksum(*texts: str) -> int:
    """What is kept beside texts, to notice that they were damaged."""
    return zlib.crc32("\0".join(texts).encode())


def identity_to_json(identity: Identity) -> str:
    """A site or parameter as it is stored."""
    return json.dumps({"type": type(identity).__name__, **asdict(identity)})


def identity_from_json(text: str) -> Identity:
    """The site or parameter that was stored."""
    data = json.loads(text)
    if data.pop("type") == "Site":
        return Site(**data)
    return Parameter(**data | {"shape": tuple(data["shape"])})


def _column(rows: Sequence[Any], name: str) -> bytes:
    values = (getattr(row, name) for row in rows)
    return array("d", [_ABSENT if v is None else float(v) for v in values]).tobytes()


def _columns(data: bytes, start: int, names: Sequence[str], count: int) -> tuple[dict[str, list[Any]], int]:
    out = {}
    for name in names:
        end = start + 8 * count
        column = array("d", data[start:end])
        if len(column) != count:
            raise ValueError(f"column {name} is cut short")
        out[name] = [_value(name, v) for v in column]
        start = end
    return out, start


def _value(name: str, value: float) -> Any:
    if name == "mean":
        return value
    if value == _ABSENT:
        return None
    if name in _FLAGS:
        return bool(value)
    return int(value) if name in _COUNTS and math.isfinite(value) else value
