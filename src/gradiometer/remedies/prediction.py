"""What a remedy will do to the gradient of the first layer: the ledger's counterfactual."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gradiometer.records import Cause, LedgerRow, Reading
from gradiometer.remedies.anatomy import ACTIVATIONS
from gradiometer.remedies.base import Group, Remedy
from gradiometer.remedies.gains import average, moments

REMOVES: dict[Group, tuple[Cause, ...]] = {
    "activation": ("activation",),
    "initialization": ("weights", "activation"),
    "normalization": ("weights", "activation", "normalization"),
}
"""Causes whose operations a remedy of this group brings to a gain of one, as far as theory goes: He et al. (2015)
weights together with the activation behind them, Ioffe and Szegedy (2015, section 3.3) the scale of the weights. The
groups that are missing leave the gradients of the first step as they are."""

EXCEPT: dict[str, tuple[Cause, ...]] = {
    "weight_standardization": ("weights", "activation"), "input_norm": (), "qk_norm": ("attention",),
    "bias": (), "centred_bias": (), "forget_bias": (), "small_output": (),
}  # fmt: skip
"""Those that do less than others of their group."""

UNIT = frozenset(("xavier", "lecun"))
"""Initializations with a gain of one, whatever the activation."""

UNTOLD = frozenset(("residual_rezero", "residual_fixup", "asymmetric", "break_symmetry", "rnn_to_lstm", "rnn_to_gru"))
"""What the ledger cannot predict: branches that begin at zero, weights of which nobody knows how they lie."""

FORWARD = frozenset(("he", "lsuv", "orthogonal", "delta_orthogonal", "weight_standardization"))
"""Initializations that keep the mean square of the signal on its way forward; what that does to the gradient on its way
back depends on the activation."""

BY_EXAMPLE = frozenset(("layer_norm", "rms_norm", "group_norm"))
"""Normalizations over the units of one example, which leave the mean over the examples in."""


def gradient(reading: Reading | None) -> float | None:
    """The gradient norm at the first weight layer over that at the last, in decades; ``None`` where it is not known."""
    norms = [r.grad_norm for r in reading.sites if r.site.cause == "weights"] if reading is not None else []
    if len(norms) < 2 or norms[0] is None or not norms[-1] or not math.isfinite(norms[0]):
        return None
    return math.log10(norms[0] / norms[-1]) if norms[0] > 0 else -math.inf


def predicted(birth: Reading | None, remedies: Iterable[Remedy]) -> float | None:
    """What `gradient` will be with these remedies: without what the operations that they treat do to it.

    Formula: ``gradient - sum(log10 gain)`` over the rows of the main path between the last weight layer and the first
    whose cause one of the remedies brings to a gain of one. Another activation brings its own gains instead,
    ``sqrt(E f'(sqrt(q) z)^2)``, with ``q`` the mean square of the preactivation, carried from layer to layer, and
    a normalization ``sqrt(E f'(z)^2 / Var f(z))``; where the mean square is kept, over the units of one example or by
    the initialization, it is ``sqrt(E f'(z)^2 / E f(z)^2)``.

    Args:
        birth: a measured pass of the untreated network, with its ledger.
        remedies: one, or the parts of a combination.

    Returns:
        Decades, or ``None`` where there is no ledger, and of recurrent networks.

    Raises:
        nothing.

    Example:
        >>> predicted(None, ()) is None
        True

    Source:
        The counterfactual is the sum of `Ledger` with some of its terms left out; Schoenholz et al., Deep information
        propagation (2017), equations 3 and 5, for the gains of another activation; Yang et al., A mean field theory of
        batch normalization (2019), for those between normalizations.
    """
    now = gradient(birth)
    if now is None or birth is None or birth.recurrences:  # through time there is no first layer
        return None
    remedies = tuple(remedies)
    if UNTOLD.intersection(remedy.name for remedy in remedies):
        return None
    if any(remedy.group == "connection" or remedy.name == "pre_norm" for remedy in remedies):
        return 0.0  # He et al. (2016), equation 5: the skips lead past everything
    gone = {cause for remedy in remedies for cause in _removes(remedy)}
    if not gone:
        return now
    main = birth.ledger.main  # from the loss to the input
    layers = [i for i, row in enumerate(main) if row.cause == "weights"]
    if not layers:
        return None
    between = main[layers[0] : layers[-1]]  # what happens in the first layer does not reach its own weight
    change = sum(r.log10_norm_gain for r in between if r.cause in gone and not math.isnan(r.log10_norm_gain))
    if now == -math.inf:
        return 0.0 if change == -math.inf else None
    if not math.isfinite(change):
        return 0.0
    return now - change + _brought(birth, between, remedies)


def _removes(remedy: Remedy) -> tuple[Cause, ...]:
    return EXCEPT.get(remedy.name, REMOVES.get(remedy.group, ()))


def _brought(birth: Reading, between: Sequence[LedgerRow], remedies: Sequence[Remedy]) -> float:
    """Decades that the remedies bring in the place of what they take away."""
    names, groups = {remedy.name for remedy in remedies}, {remedy.group for remedy in remedies}
    other = next((remedy.name for remedy in remedies if remedy.name in ACTIVATIONS), None)
    activations = [other or row.operation for row in between if row.cause == "activation"]
    if "batch_norm" in names:
        return sum(_normalized(name, by_example=False) for name in activations)
    if names & (BY_EXAMPLE | FORWARD):
        return sum(_normalized(name, by_example=True) for name in activations)
    if names & UNIT:
        return _carried(between, other, 1.0, unit=True)
    if other is None or "initialization" in groups:
        return 0.0
    first = next((row.rms for row in birth.sites if row.site.cause == "weights"), 1.0)
    return _carried(between, other, first)


def _normalized(activation: str, *, by_example: bool) -> float:
    """Decades of an activation and of the weights, scaled so that their outputs have variance or mean square one."""
    if activation not in ACTIVATIONS:
        return 0.0
    mean = average(activation)
    square, slope = moments(activation)
    return math.log10(slope / (square if by_example else square - mean**2)) / 2


def _carried(between: Sequence[LedgerRow], other: str | None, rms: float, *, unit: bool = False) -> float:
    """Decades that activations take from the last layer to the first, whose outputs have this rms.

    ``other`` takes the place of all of them; with ``unit`` the weights have a gain of one.
    """
    total, q = 0.0, rms**2
    for row in reversed(between):
        if row.cause == "activation" and (other or row.operation) in ACTIVATIONS:
            square, slope = moments(other or row.operation, min(max(q, 1e-12), 1e6))
            total += math.log10(slope) / 2 if slope > 0 else 0.0
            q = square
        elif row.cause == "weights" and row.scale is not None and not unit:
            q *= row.scale**2
    return total
