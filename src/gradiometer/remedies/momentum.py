"""Momentum, and the decay of weights."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import optimization as cases
from gradiometer.remedies.known import made_optimizer, objection, rounded
from gradiometer.remedies.recipe import Recipe

MOMENTUM = 0.9

FORGETTING = 3.0
"""Time constants of decay in a training: what the gradient does not hold up falls to ``exp(-3)``, a twentieth."""

LIGHT = 0.1
"""The same of a decay that is only a nudge: a tenth of the weights in the whole training."""


class RisingMomentum:
    """Nesterov's momentum, rising as ``min(1 - 2^(-1 - log2(floor(t / every) + 1)), largest)``."""

    def __init__(self, every=250, largest=0.99):
        """It changes every so many steps."""
        self.every, self.largest, self.steps = every, largest, 0

    def attach(self, optimizer):
        """From its next step on."""
        optimizer.register_step_pre_hook(self.before_step)

    def before_step(self, optimizer, args, kwargs):  # noqa: ARG002 - torch calls it so
        """The momentum of this step."""
        momentum = min(1 - 0.5 / (self.steps // self.every + 1), self.largest)
        for group in optimizer.param_groups:
            group.update(momentum=momentum, nesterov=True, dampening=0.0)
        self.steps += 1


class DecoupledDecay:
    """Shrinks weight matrices by ``lr * decay`` before every step, apart from the gradient."""

    def __init__(self, decay):
        """As in AdamW, a decay that the learning rate multiplies."""
        self.decay = decay

    def attach(self, optimizer):
        """From its next step on."""
        optimizer.register_step_pre_hook(self.before_step)

    def before_step(self, optimizer, args, kwargs):  # noqa: ARG002 - torch calls it so
        """Of vectors (biases, gains of normalizations) nothing is taken."""
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.dim() > 1:
                    p.data.mul_(1 - group["lr"] * self.decay)


# -- momentum ---------------------------------------------------------------------------------------------------------


def _without_momentum(situation: Situation) -> None:
    groups = made_optimizer(situation).param_groups
    if not all("momentum" in group for group in groups):
        raise UnusableError("the optimizer has no option momentum: adaptive ones have one of their own (betas)")
    if all(0 < group["momentum"] <= MOMENTUM + 0.05 for group in groups):
        raise UnusableError(f"it has a momentum of {groups[0]['momentum']:g} already")


def _momentum(recipe: Recipe, _: Situation) -> Recipe:
    def change(optimizer: Optimizer) -> Optimizer:
        for group in optimizer.param_groups:
            group["momentum"] = MOMENTUM
        return optimizer

    return recipe.with_optimizer(change)


def _nesterov(situation: Situation) -> int:
    """Steps between two values of the momentum: 250, and of a short training a twentieth, so that it gets as far.

    Raises:
        UnusableError: for another optimizer than SGD.
    """
    if not isinstance(made_optimizer(situation), torch.optim.SGD):
        raise UnusableError("Nesterov's momentum is an option of torch.optim.SGD, and the optimizer is another one")
    return min(250, max(1, situation.recipe.steps // 20))


def _rising(recipe: Recipe, situation: Situation) -> Recipe:
    every = _nesterov(situation)

    def change(optimizer: Optimizer) -> Optimizer:
        RisingMomentum(every).attach(optimizer)
        return optimizer

    return recipe.with_optimizer(change)


# -- decay of weights -------------------------------------------------------------------------------------------------


def _strength(situation: Situation, constants: float) -> float:
    """The decay that takes so many time constants off the weights in the course of a training.

    Raises:
        UnusableError: if the learning rate is 0.
    """
    rates = [float(group.get("lr", 0.0)) for group in made_optimizer(situation).param_groups]
    if not max(rates) > 0:
        raise UnusableError("the learning rate is 0: reset_optimizer sets one")
    return rounded(constants / (max(rates) * max(situation.recipe.steps, 1)), 1)


def _decays(situation: Situation) -> list[float]:
    return [float(group.get("weight_decay", 0.0)) for group in made_optimizer(situation).param_groups]


def _couples(situation: Situation) -> float:
    optimizer = made_optimizer(situation)
    if not isinstance(optimizer, torch.optim.SGD):
        raise UnusableError(
            f"{type(optimizer).__name__} divides the size of a gradient away, and with it that of an L2 penalty: "
            "decoupled_decay is meant for it"
        )
    return _more(situation)


def _more(situation: Situation) -> float:
    strength = _strength(situation, FORGETTING)
    if max(_decays(situation)) >= strength:
        raise UnusableError(f"the weights decay already, with {max(_decays(situation)):g}")
    return strength


def _less(situation: Situation) -> float:
    now = max(_decays(situation))
    if not now > 0:
        raise UnusableError("the optimizer has no weight decay")
    return rounded(min(now / 10, _strength(situation, LIGHT)), 1)


def _l2(recipe: Recipe, situation: Situation) -> Recipe:
    return _with_decay(recipe, _couples(situation))


def _lighter(recipe: Recipe, situation: Situation) -> Recipe:
    return _with_decay(recipe, _less(situation))


def _with_decay(recipe: Recipe, decay: float) -> Recipe:
    def change(optimizer: Optimizer) -> Optimizer:
        for group in optimizer.param_groups:
            group["weight_decay"] = decay
        return optimizer

    return recipe.with_optimizer(change)


def _decoupled(recipe: Recipe, situation: Situation) -> Recipe:
    decay = _more(situation)

    def change(optimizer: Optimizer) -> Optimizer:
        DecoupledDecay(decay).attach(optimizer)
        return optimizer

    return recipe.with_optimizer(change)


def _option(name: str, value: float) -> Code:
    return Code(optimizer=f'for group in optimizer.param_groups:\n    group["{name}"] = {value:g}')


_SUTSKEVER = (
    "Sutskever, Martens, Dahl and Hinton, On the importance of initialization and momentum in deep learning (2013)"
)
_LARGE = ("bad_initialization", "saturated_units", "attention_collapse", "diverging_loss")

REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="momentum",
        title=f"momentum of {MOMENTUM:g}",
        group="optimization",
        treats=("stalled_training", "vanishing_gradient", "oscillating_loss"),
        changes_function=False,
        source=f"Polyak, Some methods of speeding up the convergence of iteration methods (1964); {_SUTSKEVER}",
        code=lambda _: _option("momentum", MOMENTUM),
        recipe=_momentum,
        unusable=objection(_without_momentum),
        proofs=(Proof(cases.steps_a_tenth_too_short, 0.8),),
    ),
    Remedy(
        name="nesterov",
        title="Nesterov's momentum, rising over the training",
        group="optimization",
        treats=("stalled_training", "vanishing_gradient"),
        changes_function=False,
        source=f"{_SUTSKEVER}, equation 5",
        code=lambda situation: Code(
            classes=(RisingMomentum,),
            optimizer=f"RisingMomentum({_nesterov(situation)}).attach(optimizer)",
        ),
        recipe=_rising,
        unusable=objection(_nesterov),
        proofs=(Proof(cases.steps_a_tenth_too_short, 0.8),),
    ),
    Remedy(
        name="l2",
        title="an L2 penalty on the weights",
        group="optimization",
        treats=_LARGE,
        changes_function=False,
        source="Krogh and Hertz, A simple weight decay can improve generalization (1991); the strength: Wang and "
        "Aitchison, How to set AdamW's weight decay as you scale model and dataset size (2024)",
        code=lambda situation: _option("weight_decay", _couples(situation)),
        recipe=_l2,
        unusable=objection(_couples),
        proofs=(Proof(cases.weights_far_too_large, 0.8),),
    ),
    Remedy(
        name="decoupled_decay",
        title="weight decay apart from the gradient",
        group="optimization",
        treats=_LARGE,
        changes_function=False,
        source="Loshchilov and Hutter, Decoupled weight decay regularization (2019), algorithm 1",
        code=lambda situation: Code(
            classes=(DecoupledDecay,),
            optimizer=f"DecoupledDecay({_more(situation):g}).attach(optimizer)",
        ),
        recipe=_decoupled,
        unusable=objection(_more),
        proofs=(Proof(cases.weights_far_too_large, 0.8),),
    ),
    Remedy(
        name="less_weight_decay",
        title="less weight decay",
        group="optimization",
        treats=("stalled_training", "vanishing_gradient", "rank_collapse", "diverging_loss"),
        changes_function=False,
        source="none: weights that decay faster than they learn are pulled to zero",
        code=lambda situation: _option("weight_decay", _less(situation)),
        recipe=_lighter,
        unusable=objection(_less),
        proofs=(Proof(cases.decay_that_kills, 0.8),),
    ),
)
