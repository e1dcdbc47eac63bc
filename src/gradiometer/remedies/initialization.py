"""Initializations of a whole network, and of those of its parameters that are to blame."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from gradiometer.remedies import asymmetric, biases, centred, critical, delta_orthogonal, lsuv, small_output, symmetry
from gradiometer.remedies import recurrent as cells
from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import initialization as cases
from gradiometer.remedies.draws import Draw, carry_out, own_functions, written
from gradiometer.remedies.flow import Flow, flow, flow_of
from gradiometer.remedies.gains import gain
from gradiometer.remedies.weights import Weight, draw, lecun, normal, number, zero_bias
from gradiometer.remedies.whole import whole

init = nn.init

Plan = Callable[[nn.Module, Flow], list[Draw]]


def xavier(weight: Weight) -> tuple[Draw, ...]:
    """Uniform with variance ``2 / (fan_in + fan_out)``, biases zero."""
    if weight.regular:
        return (draw(weight, init.xavier_uniform_), *zero_bias(weight))
    bound = number(math.sqrt(6 / (weight.fan_in + weight.fan_out)))
    return (draw(weight, init.uniform_, a=-bound, b=bound), *zero_bias(weight))


def he(weight: Weight) -> tuple[Draw, ...]:
    """Normal with variance ``gain^2 / fan_in``, the gain that of the activation behind the layer; biases zero."""
    if weight.regular and weight.operation == "relu":
        return (draw(weight, init.kaiming_normal_, nonlinearity="relu"), *zero_bias(weight))
    if weight.regular and isinstance(weight.activation, nn.LeakyReLU):
        slope = weight.activation.negative_slope
        return (draw(weight, init.kaiming_normal_, a=slope, nonlinearity="leaky_relu"), *zero_bias(weight))
    return (normal(weight, gain(weight.activation)), *zero_bias(weight))


def orthogonal(weight: Weight) -> tuple[Draw, ...]:
    """Orthogonal times the gain of the activation, kernels flattened; biases zero."""
    times = round(gain(weight.activation), 4)
    arguments = {} if times == 1 else {"gain": times}
    return (draw(weight, init.orthogonal_, **arguments), *zero_bias(weight))


def checked(plan: Plan, model: nn.Module, seen: Flow) -> list[Draw]:
    """What a plan draws.

    Raises:
        UnusableError: if that is nothing.
    """
    draws = plan(model, seen)
    if not draws:
        raise UnusableError("This network has no trainable weights that can be drawn anew.")
    return draws


def change(model: nn.Module, situation: Situation, *, plan: Plan) -> nn.Module:
    """Draws as planned."""
    carry_out(model, checked(plan, model, flow(model, situation.batch)))
    return model


def code(situation: Situation, *, plan: Plan) -> Code:
    """The draws as a user would write them."""
    draws = checked(plan, situation.model, flow_of(situation))
    functions = own_functions(draws)
    imports = tuple(line for function in functions for line in getattr(function, "imports", ()))
    return Code(imports=imports, classes=functions, model=written(draws))


def unusable(situation: Situation, *, plan: Plan) -> str | None:
    """Why nothing can be drawn."""
    try:
        checked(plan, situation.model, flow_of(situation))
    except UnusableError as error:
        return str(error)
    return None


def _by(scheme: Callable[[Weight], tuple[Draw, ...]]) -> Plan:
    return lambda model, seen: whole(model, seen, scheme)


_SCALE = (
    "bad_initialization",
    "vanishing_gradient",
    "exploding_gradient",
    "saturated_units",
    "dead_units",
    "rank_collapse",
    "attention_collapse",
    "symmetric_units",
    "nonfinite",
    "diverging_loss",
    "stalled_training",
)
"""What weights of a wrong scale, or all alike, bring about."""


def _row(
    name: str,
    title: str,
    plan: Plan | None,
    source: str,
    *proofs: tuple[Callable[[], Any], float],
    treats: tuple[str, ...] = _SCALE,
    changes_function: bool = False,
    own: Any = None,
) -> Remedy:
    """A row whose treatment is a plan of draws, or ``own``: a file with ``change``, ``code`` and ``unusable``."""
    return Remedy(
        name=name,
        title=title,
        group="initialization",
        treats=treats,
        changes_function=changes_function,
        source=source,
        code=own.code if plan is None else partial(code, plan=plan),
        model=own.change if plan is None else partial(change, plan=plan),
        unusable=own.unusable if plan is None else partial(unusable, plan=plan),
        proofs=tuple(Proof(recipe, good) for recipe, good in proofs),
    )


REMEDIES: tuple[Remedy, ...] = (
    _row(
        "he",
        "He initialization",
        _by(he),
        "He et al., Delving deep into rectifiers (2015), equation 10",
        (cases.small_relu, 0.7),
        (cases.large_relu, 0.7),
    ),
    _row(
        "xavier",
        "Xavier initialization",
        _by(xavier),
        "Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010), "
        "equation 16",
        (cases.saturated_tanh, 0.7),
        (cases.loud_attention, 0.7),
    ),
    _row(
        "lecun",
        "LeCun initialization",
        _by(lecun),
        "LeCun et al., Efficient BackProp (1998), equation 16; Klambauer et al. (2017) for SELU",
        (cases.loud_selu, 0.7),
    ),
    _row(
        "orthogonal",
        "orthogonal initialization",
        _by(orthogonal),
        "Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear neural "
        "networks (2014), section 3",
        (cases.saturated_tanh, 0.7),
        (cases.small_relu, 0.7),
    ),
    _row(
        "delta_orthogonal",
        "delta-orthogonal convolutions",
        delta_orthogonal.plan,
        "Xiao et al., Dynamical isometry and a mean field theory of CNNs (2018), section 2.4, algorithm 1",
        (cases.faint_convolutions, 0.7),
    ),
    _row(
        "lsuv",
        "layer-sequential unit variance (LSUV)",
        None,
        "Mishkin and Matas, All you need is a good init (2016), algorithm 1",
        (cases.uneven_scales, 0.7),
        own=lsuv,
    ),
    _row(
        "critical",
        "initialization at the edge of chaos",
        critical.plan,
        "Schoenholz et al., Deep information propagation (2017), equations 3 and 5; Poole et al. (2016)",
        (cases.ordered_tanh, 0.7),
    ),
    _row(
        "bias",
        "zero biases",
        biases.plan,
        "He et al., Delving deep into rectifiers (2015), section 2.2",
        (cases.low_biases, 0.7),
        treats=("dead_units", "saturated_units", "vanishing_gradient", "rank_collapse", "bad_initialization"),
    ),
    _row(
        "centred_bias",
        "biases that centre each unit",
        None,
        "Salimans and Kingma, Weight normalization (2016), equation 5, the biases alone; Krähenbühl et al., "
        "Data-dependent initializations of convolutional neural networks (2016), section 3",
        (cases.low_biases, 0.7),
        treats=("dead_units", "saturated_units", "vanishing_gradient", "rank_collapse", "unscaled_inputs"),
        own=centred,
    ),
    _row(
        "forget_bias",
        "forget-gate biases of one",
        cells.forget_plan,
        "Gers, Schmidhuber and Cummins, Learning to forget (2000); Jozefowicz, Zaremba and Sutskever, An empirical "
        "exploration of recurrent network architectures (2015), section 2",
        (cases.shut_gates, 0.7),
        treats=("vanishing_gradient", "stalled_training", "saturated_units", "bad_initialization"),
    ),
    _row(
        "irnn",
        "identity recurrence with ReLU (IRNN)",
        None,
        "Le, Jaitly and Hinton, A simple way to initialize recurrent networks of rectified linear units (2015), "
        "section 2",
        (cases.forgetful_recurrence, 0.7),
        treats=("vanishing_gradient", "exploding_gradient", "saturated_units", "stalled_training"),
        changes_function=True,
        own=cells,
    ),
    _row(
        "asymmetric",
        "randomized asymmetric initialization",
        asymmetric.plan,
        "Lu et al., Dying ReLU and initialization: theory and numerical examples (2019), section 4",
        (cases.born_dead, 0.7),
        treats=("dead_units", "vanishing_gradient", "rank_collapse", "bad_initialization", "stalled_training"),
    ),
    _row(
        "break_symmetry",
        "random weights for units that are copies",
        symmetry.plan,
        "Goodfellow, Bengio and Courville, Deep learning (2016), section 8.4",
        (cases.constant_weights, 0.7),
        (cases.zero_weights, 0.7),
        treats=("symmetric_units", "bad_initialization", "vanishing_gradient", "rank_collapse", "stalled_training"),
    ),
    _row(
        "small_output",
        "an output layer that begins near zero",
        None,
        "Karpathy, A recipe for training neural networks (2019), 'init well'; Zhang et al., Fixup initialization "
        "(2019), section 4, for output layers near zero",
        (cases.loud_output, 0.7),
        treats=("bad_initialization", "saturated_units", "diverging_loss", "exploding_gradient", "loss_spike"),
        own=small_output,
    ),
)
