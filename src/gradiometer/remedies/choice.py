"""Which remedies are worth a trial, the most promising first: by the cause, and by what the ledger predicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradiometer.remedies.base import Remedy, Situation, UnusableError, in_order
from gradiometer.remedies.prediction import predicted

Names = tuple[str, ...]

PLANS: Mapping[str, str] = {
    "vanishing_gradient": """elu, relu+he, batch_norm, selu+lecun, residual, rnn_to_lstm, rnn_to_gru, irnn,
        pre_norm, orthogonal, critical, forget_bias, lsuv, residual_rezero, he, gelu+he, layer_norm,
        deepnorm, qk_norm, relu+he+batch_norm, adam""",
    "exploding_gradient": """he, orthogonal, clip_norm, batch_norm, xavier, layer_norm, rnn_to_lstm,
        rnn_to_gru, lower_rate, lsuv, residual_rezero, he+clip_norm, he+batch_norm, critical, pre_norm,
        irnn""",
    "saturated_units": """he, standardize_inputs, xavier, batch_norm, relu+he, lower_rate, lsuv,
        layer_norm, small_output, standardize_inputs+he, rnn_to_lstm, forget_bias, cross_entropy,
        bce_with_logits, critical, qk_norm""",
    "dead_units": """he, bias, lower_rate, leaky_relu+he, batch_norm, centred_bias, standardize_inputs,
        asymmetric, he+lower_rate, elu+he, leaky_relu, adam, standardize_targets, linear_output""",
    "bad_initialization": """he, xavier, lsuv, small_output, orthogonal, batch_norm, critical, layer_norm,
        he+adam, he+batch_norm, lower_rate, forget_bias, break_symmetry, bias""",
    "symmetric_units": "break_symmetry, he, xavier, orthogonal, lsuv, break_symmetry+adam, he+adam",
    "rank_collapse": """batch_norm, residual, he, relu+he, orthogonal, critical, pre_norm, layer_norm,
        lsuv, elu, residual_rezero, xavier, he+batch_norm, deepnorm, lower_rate, standardize_inputs,
        small_output""",
    "attention_collapse": """xavier, qk_norm, he, lower_rate, warm_up, clip_norm, pre_norm, lsuv,
        layer_norm, adam, standardize_inputs""",
    "nonfinite": """lower_rate, clip_norm, standardize_inputs, clean_batches, he, loss_scaling, bfloat16,
        float32, cross_entropy, bce_with_logits, log_softmax, adam_epsilon, batch_norm, xavier, adam,
        warm_up, standardize_targets, he+clip_norm, lower_rate+clip_norm, reset_optimizer""",
    "loss_spike": """clip_norm, zclip, lower_rate, autoclip, clean_batches, adam_epsilon, warm_up, adam,
        agc, clip_value, decay, reset_optimizer""",
    "oscillating_loss": """lower_rate, adam, clip_norm, lower_rate+decay, reset_optimizer, warm_up,
        batch_norm, decay, sgd_momentum, agc, standardize_targets, standardize_inputs""",
    "diverging_loss": """lower_rate, standardize_inputs+standardize_targets, minimize, negate, clip_norm,
        adam, zero_grad, less_weight_decay, warm_up, reset_optimizer, lower_rate+clip_norm, constant_rate,
        batch_norm, he, standardize_inputs, standardize_targets, known_classes""",
    "stalled_training": """raise_rate, pre_norm, adam, raise_clip, reset_optimizer, constant_rate,
        less_weight_decay, unfreeze, zero_grad, momentum, standardize_targets, standardize_inputs, he,
        batch_norm, mean_loss, raise_rate+momentum, cross_entropy, residual, break_symmetry""",
    "frozen_parameters": """unfreeze, train_mode, hold_all, register_modules, reset_optimizer, zero_grad,
        he, leaky_relu, adam, batch_norm""",
    "unscaled_inputs": """standardize_inputs, standardize_inputs+standardize_targets,
        standardize_inputs+adam, clean_batches, input_norm, batch_norm, adam, lower_rate""",
    "output_mismatch": """remove_softmax, cross_entropy, linear_output, log_softmax, squeeze_outputs,
        bce_with_logits, softmax_dimension, bce, unit_targets, range_of_targets, widen_output,
        known_classes, undo_softmax, standardize_targets, negate, mean_loss, remove_softmax+adam""",
    "underflow": "loss_scaling, bfloat16, float32, he, adam_epsilon, raise_rate, mean_loss",
    "clipping_bound": "raise_clip, raise_rate, adam, autoclip, zclip, clip_norm, standardize_targets",
}
"""For each kind of finding the remedies and combinations of the literature, the most specific first."""

ATTENTION = "pre_norm, warm_up, adam, adam+warm_up, deepnorm, qk_norm"
"""What a network with attention is treated with first where its gradient or its steps are at fault: Xiong et al. (2020)
on the place of the normalization and warm-up, Zhang et al. (2020) on SGD."""

STEPS = frozenset(("stalled_training", "oscillating_loss", "diverging_loss"))
"""Kinds whose cause shows in the steps."""

GRADIENT = frozenset(("vanishing_gradient", "exploding_gradient", "rank_collapse", "bad_initialization"))
"""Kinds whose cause shows in the gradient of the first layer."""

SPECIFIC = """minimize, negate, zero_grad, unfreeze, train_mode, hold_all, register_modules, reset_optimizer,
    constant_rate, raise_clip, remove_softmax, log_softmax, softmax_dimension, undo_softmax, squeeze_outputs,
    known_classes, widen_output, unit_targets, loss_scaling, clean_batches, adam_epsilon, break_symmetry,
    shuffle"""
"""What can be used where one thing is as it hardly ever should be,
    and nowhere else: that it can be used is evidence."""

ANYWAY = (
    "adam, he+adam, batch_norm+adam, standardize_inputs+adam, standardize_inputs+he+batch_norm+adam, layer_norm+adam"
)
"""What helps so often that it is tried whatever the cause."""


@dataclass(frozen=True)
class Candidate:
    """A remedy or a combination that can be used here, and the gradient that it is predicted to give."""

    names: Names
    predicted: float | None


def parsed(plan: str) -> list[Names]:
    """A line of plans as tuples of names.

    Example:
        >>> parsed("relu+he, residual")
        [('relu', 'he'), ('residual',)]
    """
    return [tuple(one.strip().split("+")) for one in plan.split(",")]


def kinds(situation: Situation) -> list[str]:
    """The kinds of the findings above ``info``, the first cause first.

    Where there is none and the loss stands all the same, what is only worth knowing may be the cause.
    """
    told = [f.kind for f in situation.diagnosis if f.severity != "info"]
    if not told and situation.stands:
        told = [*(f.kind for f in situation.diagnosis), "stalled_training"]
    return list(dict.fromkeys(told))


def plans(situation: Situation) -> list[Names]:
    """What is specific, then the plans of all findings, those of the first cause first, and what helps anyway."""
    found = parsed(SPECIFIC)
    for kind in kinds(situation):
        if kind in STEPS | GRADIENT and situation.anatomy.has("attention"):
            found += parsed(ATTENTION)
        found += parsed(PLANS[kind])
    return list(dict.fromkeys([*found, *parsed(ANYWAY)]))


def named(situation: Situation, remedies: Mapping[str, Remedy]) -> list[Names]:
    """All single remedies that say of themselves that they treat one of the findings."""
    return [(name,) for kind in kinds(situation) for name, remedy in remedies.items() if kind in remedy.treats]


def candidates(
    situation: Situation, remedies: Mapping[str, Remedy], wanted: Iterable[Names], objections: dict[str, str | None]
) -> tuple[list[Candidate], dict[Names, str]]:
    """Those of the wanted that can be used, and why the others cannot; ``objections`` keeps what was asked already.

    Where the gradient's way is what ails the network, those come first that the ledger predicts to bring it nearest to
    the same size in all layers; of those within a decade, and else, the order stays.
    """
    found: dict[Names, Candidate] = {}
    refused: dict[Names, str] = {}
    for wish in wanted:
        if not all(name in remedies for name in wish):
            continue
        parts = in_order(remedies[name] for name in wish)
        names = tuple(part.name for part in parts)  # the same combination in whatever order it was asked for
        for part in parts:
            if part.name not in objections:
                objections[part.name] = objection(part, situation)
        reason = next((text for name in names if (text := objections[name])), None)
        if reason:
            refused[names] = reason
        else:
            found.setdefault(names, Candidate(names, predicted(situation.birth, parts)))
    usable = list(found.values())
    if GRADIENT & {*kinds(situation)[:1]}:
        usable.sort(key=lambda candidate: -1.0 if specific(candidate.names) else _distance(candidate))
    return usable, refused


def specific(names: Names) -> bool:
    """Whether it is a remedy whose use here is evidence of itself."""
    return names in parsed(SPECIFIC)


ALIKE = 2
"""Candidates of the same groups that are tried in one round: more of one sort tell less than another sort does."""


def varied(found: Iterable[Candidate], remedies: Mapping[str, Remedy], limit: int) -> list[Candidate]:
    """The first few candidates, of which no more than `ALIKE` are of the same groups."""
    kept: list[Candidate] = []
    groups: Counter[frozenset[str]] = Counter()
    for candidate in found:
        sort = frozenset(remedies[name].group for name in candidate.names)
        # Steps can be wrong in many ways.
        if sort == {"optimization"} or groups[sort] < ALIKE or specific(candidate.names):
            groups[sort] += 1
            kept.append(candidate)
    return kept[:limit]


def _distance(candidate: Candidate) -> float:
    decades = candidate.predicted
    return 1.0 if decades is None else round(abs(decades)) if math.isfinite(decades) else math.inf


def objection(remedy: Remedy, situation: Situation) -> str | None:
    """Why a remedy cannot be used here, ``None`` if it can; one that fails while it looks is not used."""
    try:
        return remedy.unusable(situation)
    except UnusableError as error:
        return str(error)
    except Exception as error:
        return f"it failed with {type(error).__name__}: {error}"


FURTHER = "rate_x3, standardize_inputs, adam, batch_norm, layer_norm, rate_d3, warm_up, decay, clip_norm, he"
"""What is added to the best of the first round, if it is not of the same group already."""

RATES = frozenset(("lower_rate", "raise_rate", "rate_x3", "rate_x10", "rate_d3", "rate_d10"))
"""Of these, too, one is enough."""

ALONE = frozenset(("activation", "connection", "normalization", "initialization"))
"""Groups of which one remedy excludes another."""


def further(ranked: Iterable[Names], remedies: Mapping[str, Remedy]) -> list[Names]:
    """Combinations to try in a second round: the best with the next, and with what often helps besides."""
    order = list(ranked)
    best = order[0]
    added = [*order[1:3], *parsed(FURTHER)]
    return [(*best, *more) for more in added if _together(best, more, remedies)]


def _together(one: Names, other: Names, remedies: Mapping[str, Remedy]) -> bool:
    groups = [{remedies[name].group for name in names if name in remedies} for names in (one, other)]
    rates = all(RATES.intersection(names) for names in (one, other))
    return not set(one) & set(other) and not groups[0] & groups[1] & ALONE and not rates
