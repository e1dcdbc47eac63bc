"""Readings made by hand, run files of them, and what it means that two are the same."""

from array import array
from dataclasses import fields, replace
from pathlib import Path

from gradiometer.records import ModelInfo, Parameter, ParameterReading, Reading, Site, SiteReading
from gradiometer.store import RunWriter

SITE = SiteReading(
    site=Site("blocks.3.mlp:relu.1", "relu", "activation"), shape=(32, 10), passes=1, rms=0.5, mean=-1.0, nonfinite=0,
    masked=0, zeros=0.25, saturation=None, units=10, examples=32, dead=2, dead_mask=b"\x05\x02", grad_rms=1e-30,
    grad_nonfinite=0,
)  # fmt: skip
PARAMETER = ParameterReading(
    parameter=Parameter("blocks.3.weight", (10, 4), 0, True), weight_rms=1.0, weight_nonfinite=False, grad_rms=1e-9,
    grad_nonfinite=0, update_rms=1e-5, measured=40, unit_data=array("f", [0.1, 1e-30, 3e38]).tobytes(),
)  # fmt: skip
READING = Reading(
    step=7, optimizer=0, time=1.5, loss=2.302585092994046, loss_scale=1.0, level="full", passes=1, sites=(SITE,),
    parameters=(PARAMETER,), loss_operations=("nll_loss", "log_softmax"),
)  # fmt: skip
SITES = tuple(replace(SITE, site=Site(f"layer.{i}", "relu", "activation")) for i in range(20))


def reading(step: int) -> Reading:
    return replace(READING, step=step, loss=step / 7, sites=SITES)


def write(path: Path, steps: int, close: bool = True) -> RunWriter:
    sink = RunWriter(path, {"torch": "2.13.0"})
    sink.describe((ModelInfo("", "Net", 34),), ("SGD",))
    for step in range(steps):
        sink.add_reading(reading(step))
        sink.add_scalars("loss", [(0, step, step / 7)])
    if close:
        sink.close()
    return sink


def same(a: object, b: object) -> bool:
    """Equal in value and type at every place, where NaN equals NaN."""
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))
