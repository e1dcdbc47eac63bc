"""One story from the first cause to its last consequence: which finding explains which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradiometer.records import Finding

_ROOTS = ("output_mismatch", "unscaled_inputs", "frozen_parameters", "symmetric_units", "underflow", "clipping_bound")
"""What comes from outside the network, or from how it was put together: explained by nothing that is looked for."""

_TOO_LONG = ("oscillating_loss", "diverging_loss", "loss_spike")
"""What long steps do to the loss; they throw units into their flat or dead part too, unless these were born there."""

_SHOWN_BY = (
    *("attention_collapse", "rank_collapse", "dead_units", "saturated_units"),
    *("vanishing_gradient", "exploding_gradient"),
)
"""What weights of a wrong scale do. It is named first, since that is what is seen and what its site tells, and the
scale it was born with stands right behind it; a scale that shows in none of these ways is a finding of its own."""

_EXPLAINS = {
    "attention_collapse": ("unscaled_inputs",),
    "rank_collapse": ("attention_collapse",),
    "dead_units": ("unscaled_inputs", "output_mismatch", "exploding_gradient", *_TOO_LONG),
    "saturated_units": ("unscaled_inputs", "output_mismatch", *_TOO_LONG),
    "vanishing_gradient": (*_ROOTS, "attention_collapse", "dead_units", "saturated_units"),
    "exploding_gradient": ("unscaled_inputs",),
    "bad_initialization": ("unscaled_inputs", *_SHOWN_BY),
    "loss_spike": ("unscaled_inputs", "bad_initialization", "exploding_gradient"),
    "oscillating_loss": (*_ROOTS, "bad_initialization", "exploding_gradient", "attention_collapse"),
    "diverging_loss": (*_ROOTS, "bad_initialization", "exploding_gradient", "attention_collapse"),
    "nonfinite": (
        *("output_mismatch", "unscaled_inputs", "bad_initialization"),
        *("exploding_gradient", "diverging_loss", "oscillating_loss"),
    ),
}
"""What is explained by what, when both are found: the second comes first. A loss that stalls is explained by all."""


def in_order(found: Sequence[Finding]) -> list[Finding]:
    """What explains others first, then by severity; each kind of a model once, its worst."""
    rank = {"critical": 0, "warning": 1, "info": 2}
    unique: dict[tuple[str, tuple[str, ...]], Finding] = {}
    for finding in found:
        key = (finding.kind, finding.sites)
        if key not in unique or rank[finding.severity] < rank[unique[key].severity]:
            unique[key] = finding
    serious = [f for f in unique.values() if f.severity != "info"]
    out: list[Finding] = []
    for finding in unique.values():
        reasons = [f.kind for f in serious if f is not finding and _explains(f, finding)]
        # The nearest of several causes, so that the story can be followed link by link.
        out.append(replace(finding, follows_from=max(reasons, key=_place)) if reasons else finding)
    out = [_with_origin(finding, out) for finding in out]
    return sorted(out, key=lambda f: (rank[f.severity] == 2, f.follows_from is not None, rank[f.severity]))


def _with_origin(finding: Finding, story: Sequence[Finding]) -> Finding:
    """The finding, with the layer that was born too large or too small among its first sites."""
    origin = next((f for f in story if f.kind == "bad_initialization" and f.follows_from == finding.kind), None)
    if origin is None or origin.severity == "info":
        return finding
    return replace(finding, sites=tuple(dict.fromkeys((*finding.sites[:1], origin.sites[0], *finding.sites[1:]))))


def _place(kind: str) -> int:
    """How far down the chain from cause to consequence a kind stands."""
    order = list(_EXPLAINS)
    return order.index(kind) if kind in order else -1


def _explains(a: Finding, b: Finding) -> bool:
    """Whether a explains b: by what is known of the two kinds, unless b was there first."""
    earlier, later = a.evidence.get("onset", 0), b.evidence.get("onset", 0)
    if a.evidence.get("made_by_the_optimizer"):  # weight decay, a schedule: what dies of that dies later
        return later > 0
    if b.kind == "stalled_training":
        return not b.evidence.get("made_by_the_optimizer") or earlier == 0
    if {a.kind, b.kind} == {"rank_collapse", "vanishing_gradient"}:
        # Where tokens or nodes are averaged into one no gradient comes back; else both come of the layers' weights.
        mixed = a.evidence.get("mixing") or b.evidence.get("mixing")
        return a.kind == ("rank_collapse" if mixed else "vanishing_gradient")
    if {a.kind, b.kind} == {"exploding_gradient", "vanishing_gradient"}:
        return earlier < later
    if a.kind in _TOO_LONG and b.kind in ("dead_units", "saturated_units", "vanishing_gradient"):
        return later > 0 and earlier <= later
    if b.kind == "bad_initialization":  # what came later is what these weights have done, and not how they show
        return a.kind in _EXPLAINS[b.kind] and earlier == 0
    if a.kind == "bad_initialization" and b.kind in _SHOWN_BY:
        return later > 0
    if a.kind in _EXPLAINS.get(b.kind, ()):
        return earlier <= later
    return b.kind in _EXPLAINS.get(a.kind, ()) and earlier < later
