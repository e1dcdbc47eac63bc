"""Inputs whose scale or offset makes the first layer ill-conditioned."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gradiometer.records import Finding, Inputs, Reading, Severity, SiteReading
from gradiometer.rules.base import Case, Patient, Rule, percent
from gradiometer.rules.cases import tasks as cases
from gradiometer.rules.patience import in_time, lasting, newest, severity, unwell

CONDITION = (1e4, 1e6)
"""Condition numbers of the first layer from which on it is a warning and critical.

With the longest stable step, gradient descent needs about as many steps as the condition number for its slowest
direction. Pixels from 0 to 1, which everybody feeds and which are learned, come to some hundreds: 140 for the 64 of the
digits, 400 for the 784 of MNIST (squared mean over variance 2.1 and 0.5, times the number of pixels). A million
steps are more than most trainings have.
"""

SQUARE = (1e2, 1e3)
"""Factors by which the mean square of the inputs is off, for the same two.

The curvature of the first layer is the mean square of what enters it, and so is what limits the step: three decades
off, and a rate that suits the other layers is a thousand times too long, or too short. The two and three decades are
those of a vanishing gradient, which is the same disproportion between layers.
"""

NOTHING = 1e-3
"""Spread of the outputs over that of the targets below which a network does not see its inputs."""

FLAT = 0.9
"""Share of the first activation in its flat part, or of its units dead, from which on the inputs do not get through."""

_PASSING = ("dropout", "dropout1d", "dropout2d", "feature_alpha_dropout")


_TABLES = ("embedding", "embedding_bag")


@dataclass(frozen=True, slots=True)
class _Judged:
    """The inputs of one reading: how bad they are (0 to 2), what it is, and the first layer with its inputs a unit."""

    level: int
    what: str
    inputs: Inputs
    first: SiteReading
    fan: int
    condition: float

    def __str__(self) -> str:
        """What is wrong, in words, with its number."""
        x, rms = self.inputs, self.inputs.rms
        return {
            "large": f"Their root mean square is {rms:.3g}, where 1 is usual: the first layer's curvature, which "
            f"limits the step, is {rms**2:.1e} times larger.",
            "small": f"Their root mean square is {rms:.1e}: the squares of all {self.fan} that a unit gets add up to "
            f"{rms**2 * self.fan:.1e}, where 1 and more is usual, and its weights learn as much more slowly.",
            "offset": f"Their mean is {math.sqrt(x.offset):.3g} times their standard deviation: to the first layer, "
            f"with {self.fan} inputs a unit, all examples look alike (condition number {self.condition:.0e}).",
            "spread": f"Feature {x.feature} varies {x.spread:.3g} times as much as the others do, and what they say is "
            f"lost beside it (condition number {self.condition:.0e}).",
        }[self.what]


def check(patient: Patient) -> list[Finding]:
    """One finding where what enters a weight layer directly is far from standardized, and hurts."""
    judged = newest(patient, _judge)
    if not lasting([j.level for j in judged], 1):
        return []
    worst = next(j for j in reversed(judged) if j.level)
    harm, certain = _harm(patient.early[0] if patient.early else patient.last, worst)
    # Nothing is known of the loss yet: many a training digests such inputs, with Adam above all.
    unknown: Severity = "info" if not harm or worst.level < 2 else "critical" if certain else "warning"
    stalled: Severity = "critical" if worst.level == 2 else "warning"
    learns: Severity = "warning" if certain and unwell(patient) else "info"
    severe = severity(patient, stalled=stalled, unknown=unknown, learns=learns)
    if severe == "info" and worst.level < 2:
        return []
    return [_finding(patient, worst, severe, harm)]


def _judge(reading: Reading) -> _Judged | None:
    """``None`` where the inputs are unknown, or where something is done to them before the first layer."""
    inputs = reading.inputs
    used = [row for row in reading.sites if row.site.cause != "reshaping" and row.site.operation not in _PASSING]
    numbers = next((i for i, row in enumerate(used) if row.site.operation not in _TABLES), len(used))
    if inputs is None or numbers == len(used) or used[numbers].site.cause != "weights":
        return None
    # What looks up classes beside it has nothing to do with the numbers, if the layer takes just these.
    if numbers and _fan_in(reading, used[numbers]) != inputs.features:
        return None
    used = used[numbers:]
    if not (math.isfinite(inputs.rms) and math.isfinite(inputs.offset) and math.isfinite(inputs.spread)):
        return None
    first, behind = used[0], used[1].site if len(used) > 1 else None
    fan = _fan_in(reading, first) or inputs.features
    # Where the first layer gets something else than these features (channels, one time step) single ones say nothing.
    spread = inputs.spread if fan % inputs.features == 0 else 1.0
    # A normalization right behind takes the scale away, and a batch norm, which is by feature, the offset as well.
    normalized = behind is not None and behind.cause == "normalization"
    centred = normalized and behind is not None and behind.operation in ("batch_norm", "sync_batch_norm")
    offset = 0.0 if centred else inputs.offset * fan
    large = 1.0 if normalized else inputs.rms**2
    # Small inputs are judged by all that a unit gets: of one-hot inputs one is 1, and all the others are 0.
    small = 1.0 if normalized else 1 / max(inputs.rms**2 * fan, 1e-300)
    condition = (1 + offset) * spread**2
    # Of two that are as bad the first one is told: a mean, or one feature, explains the size of all.
    level, what = max(
        (_level(condition, CONDITION), "offset" if spread**2 <= 1 + offset else "spread"),
        (_level(large, SQUARE), "large"),
        (_level(small, SQUARE), "small"),
        key=lambda candidate: candidate[0],
    )
    return _Judged(level, what, inputs, first, fan, condition)


def _level(amount: float, limits: tuple[float, float]) -> int:
    return sum(amount >= limit for limit in limits)


def _fan_in(reading: Reading, row: SiteReading) -> int:
    names = (f"{row.name}.weight", f"{row.name}.weight_ih_l0", f"{row.name}.weight_ih")
    return next((p.parameter.fan_in for p in reading.parameters if p.name in names), 0)


def _harm(reading: Reading, judged: _Judged) -> tuple[str, bool]:
    """What the inputs do to the network in its first step, in words, and whether it surely does not survive it."""
    names = {row.name: i for i, row in enumerate(reading.sites)}
    behind = reading.sites[names.get(judged.first.name, 0) + 1 :]
    activation = next((row for row in behind if row.site.cause in ("activation", "weights")), None)
    if judged.what != "small" and activation is not None and activation.site.cause == "activation":
        dead = (activation.dead or 0) / max(activation.units, 1)
        flat = max(activation.saturation or 0.0, dead)
        if flat >= FLAT:
            return f"{percent(flat)} of {activation.name} is in its flat part.", True
    weight = next((p for p in reading.parameters if p.name == f"{judged.first.name}.weight"), None)
    if weight is not None and weight.ratio is not None and weight.ratio >= 1:
        return f"The first step changes {weight.name} by {weight.ratio:.1f} times its size.", True
    spreads = reading.tasks[0].spread if reading.tasks else None
    if judged.what == "small" and spreads is not None and 0 < spreads[0] <= NOTHING * spreads[1]:
        return f"The outputs differ by {spreads[0]:.0e}, the targets by {spreads[1]:.2g}.", False
    return "", False


_REMEDIES = {
    "large": ("inputs divided by their standard deviation (bytes by 255)",),
    "small": ("inputs divided by their standard deviation",),
    "offset": ("the mean subtracted from every feature, and divided by its standard deviation",),
    "spread": ("every feature divided by its own standard deviation (or its logarithm taken)",),
}


def _finding(patient: Patient, judged: _Judged, severe: Severity, harm: str) -> Finding:
    name = judged.first.name
    seen = (r.step for r in in_time(patient) if (j := _judge(r)) is not None and j.level)
    return Finding(
        kind="unscaled_inputs",
        severity=severe,
        sites=("input", name),
        evidence={
            "onset": min(seen, default=patient.last.step),
            "rms": judged.inputs.rms,
            "squared_mean_over_variance": judged.inputs.offset,
            "largest_deviation_over_median": judged.inputs.spread,
            "feature": judged.inputs.feature,
            "condition_number": judged.condition,
        },
        cause={
            "large": "inputs of too large a scale",
            "small": "inputs of too small a scale",
            "offset": "inputs far from zero, beside what they vary by",
            "spread": "features of very different scales",
        }[judged.what],
        explanation=f"The inputs go into {name} as they are. {judged}{f' {harm}' if harm else ''}",
        remedies=(*_REMEDIES[judged.what], "batch normalization before the first layer"),
        wrong_if="the training goes no better with standardized inputs",
    )


_USUAL = Inputs(rms=1.0, offset=0.9, spread=1.4, feature=0, features=64)
_BYTES = Inputs(rms=123.0, offset=2.1, spread=1.4, feature=0, features=64)
_YEARS = Inputs(rms=1000.0, offset=1e6, spread=1.1, feature=0, features=64)
_UNITS = Inputs(rms=8.0, offset=0.1, spread=1e4, feature=3, features=64)
_TINY = Inputs(rms=1e-6, offset=0.1, spread=1.1, feature=0, features=64)

RULE = Rule(
    kind="unscaled_inputs",
    check=check,
    sick=(
        Case("pixels from 0 to 255", cases.fed(_BYTES, loss="stalled")),
        Case("the same at birth, and tanh units that are flat", cases.fed(_BYTES, loss="unknown", saturation=0.97)),
        Case("the same at birth, and a step as long as the weights", cases.fed(_BYTES, loss="unknown", ratio=2.0)),
        Case("years", cases.fed(_YEARS, loss="stalled")),
        Case("one feature in other units", cases.fed(_UNITS, loss="stalled", first=("linear", "relu"))),
        Case("a millionth", cases.fed(_TINY, loss="stalled")),
        Case("a millionth, and outputs that are all the same", cases.fed(_TINY, loss="unknown", outputs=1e-6)),
        Case("flat tanh units, and a third learned", cases.fed(_BYTES, loss="little", saturation=0.97)),
        Case(
            "pixels beside an embedding of something else",
            cases.fed(_BYTES, loss="stalled", first=("embedding", "linear", "tanh")),
        ),
        Case(
            "features of other units before a batch norm",
            cases.fed(_UNITS, loss="stalled", first=("linear", "batch_norm")),
        ),
    ),
    healthy=(
        Case("standardized, and not learning", cases.fed(_USUAL, loss="stalled")),
        Case("pixels from 0 to 255, and it learns", cases.fed(_BYTES, loss="learning")),
        Case("the same at birth", cases.fed(_BYTES, loss="unknown")),
        Case("the same into a batch norm", cases.fed(_BYTES, loss="stalled", first=("batch_norm", "linear"))),
        Case("years before a batch norm", cases.fed(_YEARS, loss="stalled", first=("linear", "batch_norm"))),
        Case("divided in the network", cases.fed(_BYTES, loss="stalled", first=("div", "linear"))),
        Case("a third learned, and no unit is flat", cases.fed(_BYTES, loss="little")),
        Case("flat tanh units, and most learned", cases.fed(_BYTES, loss="most", saturation=0.97)),
        Case(
            "numbers that go into one layer with an embedding",
            cases.fed(replace(_BYTES, features=16), loss="stalled", first=("embedding", "linear", "tanh")),
        ),
        Case(
            "pixels from 0 to 1",
            cases.fed(Inputs(rms=0.48, offset=2.1, spread=1.4, feature=0, features=64), loss="stalled"),
        ),
        Case(
            "one-hot",
            cases.fed(Inputs(rms=0.125, offset=1e-2, spread=9.0, feature=0, features=64), loss="stalled"),
        ),
    ),
)
