"""Outputs so large at birth that the loss begins many times above that of a constant guess."""

from __future__ import annotations

from gradiometer.records import Finding, Reading, Severity, SiteReading
from gradiometer.rules.base import Patient
from gradiometer.rules.mismatch import BINARY
from gradiometer.rules.patience import severity

TIMES = 5.0
"""First loss over that of a constant guess.

Of logits that are normal with standard deviation s the mean of the cross-entropy is about ``ln C + s^2 / 2`` as long as
s is small, and ``s sqrt(2 ln C)`` when it is large: five times ``ln 10`` takes logits of 5. He's initialization gives
1.4, torch's own 0.6; at 5 nine answers in ten are sure already, and wrong.
"""

RMS = 3.0
"""Root mean square of the last layer's output that goes with it; else the loss is large for another reason."""


def loud_outputs(patient: Patient) -> Finding | None:
    """A finding for a classifier that is sure of itself before it has learned anything, and does not recover."""
    birth = patient.early[0] if patient.early else patient.last
    last = next((row for row in reversed(birth.sites) if row.site.cause == "weights"), None)
    times = _times(birth)
    entering = birth.inputs.rms if birth.inputs is not None else 1.0
    if birth.step != 0 or last is None or times is None or times < TIMES or last.rms < RMS * max(entering, 1.0):
        return None  # large inputs are told as such
    severe = severity(patient, stalled="critical", unknown="info")
    return _finding(birth, last, times, severe) if severe != "info" else None


def _times(reading: Reading) -> float | None:
    """The first loss in constant guesses, of a loss over classes to which nothing is added."""
    task = reading.tasks[0] if len(reading.tasks) == 1 else None
    if task is None or not task.direct or task.guess is None or reading.loss is None or task.guess <= 0:
        return None
    if task.loss not in ("nll_loss", *BINARY):
        return None
    return reading.loss / (task.guess * max(reading.passes, 1))


def _finding(reading: Reading, last: SiteReading, times: float, severe: Severity) -> Finding:
    return Finding(
        kind="bad_initialization",
        severity=severe,
        sites=(last.name,),
        evidence={"onset": 0, "loss": reading.loss, "loss_over_guess": times, "output_rms": last.rms},
        cause="outputs of too large a scale at birth",
        explanation=(
            f"The first loss is {reading.loss:.3g}, {times:.2g} times that of a constant guess: the outputs of "
            f"{last.name} begin with rms {last.rms:.2g}, so that the network is sure of answers it has not learned."
        ),
        remedies=(
            "an output layer that begins near zero (a tenth of Xavier's scale)",
            "embeddings tied to the output layer drawn at 1/sqrt(width)",
            "layer normalization before the output layer",
        ),
        wrong_if="with smaller outputs at birth it goes no better",
    )
