"""What a prescription says, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradiometer.records.diagnosis import Diagnosis
from gradiometer.records.trial import Arm, Trial


@dataclass(frozen=True, slots=True, repr=False)
class PrescriptionRecord:
    """What ails a recipe, what was tried, and what cured it.

    ``diagnosis`` is that of the untreated recipe, ``untreated`` what came of its trainings; ``trials`` are all that
    were made, what is verified first. ``best`` is the name of the cure, ``None`` when nothing beat the untreated arm;
    ``code`` is what to write, ``diff`` the same as a change of the recipe's own source where it could be read, and
    ``by_hand`` what the diff leaves out. ``refused`` says of remedies why they could not be used, ``reason`` why
    there is no cure; ``cut_short`` says that it is the time, or an interruption. ``steps`` and ``seeds`` are
    those of every full training.
    ``seconds`` is the time of all of it, ``work`` the time spent in training steps, over all processes.
    """

    diagnosis: Diagnosis
    untreated: Arm
    trials: tuple[Trial, ...] = ()
    best: str | None = None
    code: str = ""
    diff: str = ""
    by_hand: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    cut_short: bool = False
    steps: int = 0
    seeds: int = 0
    seconds: float = 0.0
    work: float = 0.0

    @property
    def cure(self) -> Trial | None:
        """The trial that verified the best remedy."""
        return next((trial for trial in self.trials if trial.name == self.best), None)

    @property
    def verdict(self) -> str:
        """In one line what came of it."""
        cure = self.cure
        if cure is None:
            return self.reason or "nothing that was tried beat the untreated training"
        gain = f": score {cure.treated.score:.3g} where the untreated twin has {self.untreated.score:.3g}"
        return f"{cure.title}{gain}, over {self.seeds} seeds"

    def to_dict(self) -> dict[str, Any]:
        """The prescription as plain data."""
        return {
            "diagnosis": self.diagnosis.to_dict(),
            "untreated": self.untreated.to_dict(),
            "trials": [trial.to_dict() for trial in self.trials],
            "refused": dict(self.refused),
            **{name: getattr(self, name) for name in ("best", "code", "diff", "reason", "cut_short", "steps", "seeds")},
            "by_hand": list(self.by_hand),
            "seconds": self.seconds,
            "work": self.work,
        }

    def __repr__(self) -> str:
        """In short."""
        return f"<Prescription: {self.verdict}>"

    def __str__(self) -> str:
        """The verdict, the trials and the code, as plain text."""
        lines = [f"{'cure' if self.cure else 'no cure'}: {self.verdict}", ""]
        lines.append(f"  {'untreated':<32} score {self.untreated.score:.3g}")
        for trial in self.trials:
            lines.append(f"  {trial.name:<32} score {trial.treated.score:.3g}  {trial.reason or 'verified'}")
        return "\n".join([*lines, "", self.code]).rstrip()
