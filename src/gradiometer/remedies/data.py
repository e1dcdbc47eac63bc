"""Remedies for what goes in: inputs and targets of odd scales, values that are none, batches in an odd order."""

from __future__ import annotations

from gradiometer.remedies.base import Code, Proof, Remedy
from gradiometer.remedies.cases import data as cases
from gradiometer.remedies.cleaning import clean, clean_code, clean_targets, dirt
from gradiometer.remedies.known import objection
from gradiometer.remedies.mixing import is_sorted, shuffle
from gradiometer.remedies.scaling import (
    input_scale,
    rescale,
    rescale_code,
    rescaled,
    standardize,
    standardize_code,
    target_scale,
)

_LECUN = "LeCun, Bottou, Orr and Mueller, Efficient BackProp (1998), section 4"
_SCALES = ("saturated_units", "dead_units", "stalled_training", "oscillating_loss", "diverging_loss", "nonfinite")

REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="standardize_inputs",
        title="standardized inputs",
        group="data",
        treats=("unscaled_inputs", *_SCALES, "vanishing_gradient", "exploding_gradient", "rank_collapse"),
        changes_function=True,
        source=f"{_LECUN}.3",
        code=standardize_code,
        model=standardize,
        unusable=objection(lambda situation: input_scale(situation.model, situation)),
        proofs=(Proof(cases.bytes_as_inputs, 0.8), Proof(cases.years_as_inputs, 0.8), Proof(cases.other_units, 0.8)),
    ),
    Remedy(
        name="standardize_targets",
        title="standardized targets",
        group="data",
        treats=(*_SCALES, "exploding_gradient", "output_mismatch", "clipping_bound"),
        changes_function=True,
        source=f"Bishop, Neural networks for pattern recognition (1995), section 8.2; {_LECUN}.5",
        code=rescale_code,
        model=rescale,
        recipe=rescaled,
        unusable=objection(target_scale),
        proofs=(Proof(cases.prices_as_targets, 0.8), Proof(cases.targets_beyond_tanh, 0.5)),
    ),
    Remedy(
        name="clean_batches",
        title="inputs and targets without NaN and without outliers",
        group="data",
        treats=(
            *("nonfinite", "loss_spike", "diverging_loss", "oscillating_loss", "stalled_training", "unscaled_inputs"),
            *("exploding_gradient", "vanishing_gradient", "saturated_units", "dead_units"),
        ),
        changes_function=True,
        source="none",
        code=clean_code,
        model=clean,
        recipe=clean_targets,
        unusable=objection(dirt),
        proofs=(Proof(cases.missing_values, 0.8), Proof(cases.stray_targets, 0.8)),
    ),
    Remedy(
        name="shuffle",
        title="shuffled batches",
        group="data",
        treats=("oscillating_loss", "loss_spike", "diverging_loss", "stalled_training", "dead_units"),
        changes_function=False,
        source=f"{_LECUN}.2",
        code=lambda _: Code(step="# DataLoader(..., shuffle=True): the batches come sorted by their targets"),
        recipe=shuffle,
        unusable=objection(is_sorted),
        proofs=(Proof(cases.sorted_by_class, 0.8),),
    ),
)
