"""What came of paired trainings: of the untreated arm, and of each treated one beside it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from gradiometer.records.diagnosis import Diagnosis


@dataclass(frozen=True, slots=True)
class Arm:
    """The trainings of one recipe, one a seed.

    ``steps`` is how far they came, the same for all seeds that are told here; ``losses`` and ``scores`` are those at
    their ends (a loss is the mean of the last tenth of the steps), ``seconds`` the time of all their steps together,
    and ``failure`` why one of them ended early. ``diagnosis`` is that of a training from one more seed, under watch,
    and ``stands`` says that its loss does not fall. ``gradient`` is the gradient of the first weight layer over that of
    the last one in its first step, in decades; ``None`` where there was none.
    """

    steps: int
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    seconds: float
    failure: str = ""
    diagnosis: Diagnosis | None = None
    stands: bool = False
    gradient: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The arm as plain data."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return data | {"diagnosis": self.diagnosis.to_dict() if self.diagnosis is not None else None}

    @property
    def loss(self) -> float:
        """The mean over the seeds."""
        return fmean(self.losses) if self.losses else math.nan

    @property
    def score(self) -> float:
        """The mean over the seeds."""
        return fmean(self.scores) if self.scores else math.nan


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference over paired seeds, treated minus untreated, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A remedy, or a combination, against the untreated twin: same seeds, same batches, same number of steps.

    ``name`` joins the names of the remedies, ``title`` tells them, ``changes`` says what they change, and ``predicted``
    is what the ledger says the ``gradient`` of the first layer will be. ``gain`` is the difference of the scores, which
    only a trial over all seeds has. ``verified`` is true if the finding is gone and the score is
    better beyond the noise over the seeds; ``reason`` says why not, or how far the trial came.
    """

    name: str
    title: str
    remedies: tuple[str, ...]
    changes: str
    treated: Arm
    predicted: float | None = None
    gain: Interval | None = None
    verified: bool = False
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The trial as plain data."""
        return {
            "name": self.name,
            "title": self.title,
            "remedies": list(self.remedies),
            "changes": self.changes,
            "predicted": self.predicted,
            "gain": asdict(self.gain) if self.gain else None,
            "verified": self.verified,
            "reason": self.reason,
            "treated": self.treated.to_dict(),
        }
