"""What is wrong between an output and a loss, and what of both the checks ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradiometer.records import Severity, Task

LARGE = 1 / 3
"""Share of a constant guess's loss that no training can take away, from which on it surely hinders.

A floor that people choose on purpose, label smoothing of 0.1 over ten classes, leaves 0.22 of it (the entropy of the
smoothed targets over ``ln 10``; Szegedy et al., 2016); a softmax too many leaves 0.63.
"""

SMALL = 0.1
"""Share from which on it is worth a word: half of what a loss must lose for a training to count as learning."""

DIFFERENCES = ("mse_loss", "huber_loss", "smooth_l1_loss")
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")

ENTROPIES = ("nll_loss", "cross_entropy")
"""Cross-entropy with classes as targets, and with probabilities."""

SCORES = frozenset(
    """linear addmm mm bmm matmul bilinear conv1d conv2d conv3d convolution softmax sigmoid tanh relu leaky_relu gelu
    layer_norm batch_norm native_layer_norm native_batch_norm""".split()
)
"""What gives no log-probability for sure; a sum, a difference, a gather may well give one."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One mistake: where it stands (``operation``), what to say of it, and how bad it is by how the loss goes.

    ``poor`` is for a training that learns and leaves most of the loss, where that differs.
    """

    cause: str
    operation: str
    explanation: str
    remedies: tuple[str, ...]
    wrong_if: str
    stalled: Severity = "critical"
    unknown: Severity = "warning"
    learning: Severity = "warning"
    poor: Severity | None = None
    evidence: Mapping[str, object] = field(default_factory=dict)


def first(task: Task) -> str:
    """The operation whose output the loss gets, dropout aside."""
    return next((name for name in task.before if "dropout" not in name), "")


def nearest(task: Task) -> str:
    """The same, of cross-entropy the one before its log_softmax."""
    names = [name for name in task.before if "dropout" not in name]
    if task.loss in ENTROPIES and names[:1] == ["log_softmax"]:
        names = names[1:]
    return names[0] if names else ""
