"""Remedies for an output and a loss that do not fit each other, by what the loss was seen to compare."""

from __future__ import annotations

from gradiometer.remedies.base import Proof, Remedy
from gradiometer.remedies.cases import output as cases
from gradiometer.remedies.compared import changed
from gradiometer.remedies.output_activation import (
    along_classes,
    out_of_range,
    ranged,
    taken_twice,
    widened,
    without,
)
from gradiometer.remedies.output_loss import (
    logits,
    of_classes,
    of_known_classes,
    of_log_probabilities,
    of_means,
    of_probabilities,
    of_raw_scores,
    of_targets_between,
    squeezing,
    turning,
)

_BRIDLE = "Bridle, Probabilistic interpretation of feedforward classification network outputs (1990)"
_SOLLA = "Solla, Levin and Fleisher, Accelerated learning in layered neural networks (1988): cross-entropy in place of "
_SOLLA += "squared errors"
_BISHOP = (
    "Bishop, Neural networks for pattern recognition (1995), chapter 6: error functions and the outputs they ask for"
)
_SQUARED = ("output_mismatch", "saturated_units", "stalled_training", "vanishing_gradient", "bad_initialization")
_STEEP = ("diverging_loss", "oscillating_loss", "exploding_gradient", "nonfinite", "clipping_bound")

REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="remove_softmax",
        title="raw scores for a loss that has a softmax (a sigmoid) of its own",
        group="loss",
        treats=("output_mismatch", "stalled_training", "vanishing_gradient"),
        changes_function=True,
        source=_BRIDLE,
        proofs=(
            Proof(cases.softmax_twice, 0.8),
            Proof(cases.softmax_as_a_function, 0.8),
            Proof(cases.sigmoid_twice, 0.8),
        ),
        **without(taken_twice),
    ),
    Remedy(
        name="undo_softmax",
        title="a loss that takes the logarithm of the network's probabilities",
        group="loss",
        treats=("output_mismatch", "stalled_training"),
        changes_function=False,
        source=_BRIDLE,
        proofs=(
            Proof(cases.softmax_twice, 0.8),
            Proof(cases.softmax_as_a_function, 0.8),
            Proof(cases.sigmoid_twice, 0.7),
        ),
        **changed(of_raw_scores),
    ),
    Remedy(
        name="log_softmax",
        title="log-probabilities for a loss that takes them",
        group="loss",
        treats=("output_mismatch", "diverging_loss", "nonfinite"),
        changes_function=False,
        source=_BRIDLE,
        proofs=(Proof(cases.likelihood_of_raw_scores, 0.8),),
        **changed(of_log_probabilities),
    ),
    Remedy(
        name="softmax_dimension",
        title="a softmax over the classes",
        group="loss",
        treats=("output_mismatch",),
        changes_function=True,
        source=_BRIDLE,
        proofs=(Proof(cases.softmax_over_the_batch, 0.8),),
        **along_classes(),
    ),
    Remedy(
        name="cross_entropy",
        title="cross-entropy in place of squared errors",
        group="loss",
        treats=_SQUARED,
        changes_function=False,
        source=_SOLLA,
        proofs=(Proof(cases.squared_errors_of_classes, 0.8),),
        **changed(of_classes),
    ),
    Remedy(
        name="bce_with_logits",
        title="binary cross-entropy of raw scores",
        group="loss",
        treats=(*_SQUARED, "nonfinite"),
        changes_function=True,
        source=f"{_SOLLA}; {_BISHOP}",
        proofs=(Proof(cases.squared_errors_of_yes_or_no, 0.7), Proof(cases.raw_scores_as_probabilities, 0.8)),
        **logits(),
    ),
    Remedy(
        name="bce",
        title="binary cross-entropy of the sigmoid",
        group="loss",
        treats=_SQUARED,
        changes_function=False,
        source=f"{_SOLLA}; {_BISHOP}",
        proofs=(Proof(cases.squared_errors_of_yes_or_no, 0.7),),
        **changed(of_probabilities),
    ),
    Remedy(
        name="unit_targets",
        title="targets from 0 to 1 for binary cross-entropy",
        group="loss",
        treats=("output_mismatch", "diverging_loss", "nonfinite"),
        changes_function=False,
        source=_BISHOP,
        proofs=(Proof(cases.signs_as_targets, 0.8),),
        **changed(of_targets_between),
    ),
    Remedy(
        name="linear_output",
        title="a linear output",
        group="loss",
        treats=("output_mismatch", "stalled_training", "dead_units", "saturated_units"),
        changes_function=True,
        source=_BISHOP,
        proofs=(Proof(cases.output_behind_relu, 0.8), Proof(cases.output_behind_a_tanh_call, 0.8)),
        **without(out_of_range),
    ),
    Remedy(
        name="range_of_targets",
        title="targets brought into the range of the outputs",
        group="loss",
        treats=("output_mismatch", "saturated_units", "stalled_training"),
        changes_function=True,
        source="LeCun, Bottou, Orr and Mueller, Efficient BackProp (1998), section 4.5",
        proofs=(Proof(cases.output_behind_a_tanh_call, 0.7),),
        **ranged(),
    ),
    Remedy(
        name="squeeze_outputs",
        title="outputs and targets of one shape",
        group="loss",
        treats=("output_mismatch", "stalled_training"),
        changes_function=False,
        source="none",
        proofs=(Proof(cases.shapes_that_broadcast, 0.8), Proof(cases.own_step_that_broadcasts, 0.8)),
        **squeezing(),
    ),
    Remedy(
        name="widen_output",
        title="an output for every class",
        group="loss",
        treats=("output_mismatch",),
        changes_function=True,
        source="none",
        proofs=(Proof(cases.labels_from_one, 0.8),),
        **widened(),
    ),
    Remedy(
        name="known_classes",
        title="a loss of the examples that have a class",
        group="loss",
        treats=("output_mismatch",),
        changes_function=False,
        source="none",
        proofs=(Proof(cases.labels_left_out, 0.8),),
        **changed(of_known_classes),
    ),
    Remedy(
        name="negate",
        title="the sign of the loss turned around",
        group="loss",
        treats=("diverging_loss", "nonfinite", "exploding_gradient"),
        changes_function=False,
        source="none",
        proofs=(Proof(cases.maximized, 0.8), Proof(cases.maximized_by_its_step, 0.8)),
        **turning(),
    ),
    Remedy(
        name="mean_loss",
        title="a mean over the targets in place of a sum",
        group="loss",
        treats=(*_STEEP, "stalled_training"),
        changes_function=False,
        source="Goyal et al., Accurate, large minibatch SGD (2017), section 2.1: rate and size of the batch",
        proofs=(Proof(cases.sum_over_the_batch, 0.8),),
        **changed(of_means),
    ),
)
