"""The learning rate: longer and shorter steps by the update-to-weight ratio, warm-up, decay."""

from __future__ import annotations

import contextlib
import math

from torch.optim import Optimizer

from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import optimization as cases
from gradiometer.remedies.known import made_optimizer, objection, ratio, undisturbed
from gradiometer.remedies.recipe import Recipe

USUAL = 1e-3
"""Update-to-weight ratio of trainings that go well (Karpathy, CS231n, "Ratio of weights:updates")."""

POWERS = tuple(base * 10**power for power in range(7) for base in (1, 3))[1:]
"""Factors that are worth a trial: half a decade apart, to a million."""

MOST_DOWN = 1000.0
"""A rate more than a thousand times too long is no rate at all."""

UNTOLD = 10.0
"""Factor where the ratio does not tell: of weights that were thrown far it is small."""


HIGHEST = 100.0
"""Learning rate beyond which none is tried: where a gradient is so small, it is the gradient that is ill."""


class RateFactor:
    """Multiplies the learning rate of every step by a factor, whoever sets the rate: a schedule, or the loop itself.

    With ``warm_up`` the factor rises from 0 over so many steps.
    """

    def __init__(self, factor=1.0, warm_up=0):
        """Without a warm-up it is the factor from the first step on."""
        self.factor, self.warm_up, self.steps = factor, warm_up, 0

    def attach(self, optimizer):
        """From its next step on."""
        optimizer.register_step_pre_hook(self.before)
        optimizer.register_step_post_hook(self.after)

    def before(self, optimizer, args, kwargs):  # noqa: ARG002 - torch calls it so
        """The rate of this step."""
        self.steps += 1
        for group in optimizer.param_groups:
            group.setdefault("plain_lr", group["lr"])  # several of these may be attached
            group["lr"] = group["lr"] * self.factor * min(1.0, self.steps / max(self.warm_up, 1))

    def after(self, optimizer, args, kwargs):  # noqa: ARG002
        """The rate as it was set."""
        for group in optimizer.param_groups:
            group["lr"] = group.pop("plain_lr", group["lr"])


# -- longer and shorter -----------------------------------------------------------------------------------------------


def target(situation: Situation) -> float:
    """The usual ratio, and of a short training that with which the weights can move by their own size."""
    return max(USUAL, 1 / max(situation.recipe.steps, 1))


def lowering(situation: Situation) -> float:
    """The factor that brings steps down to the usual length, at least by 3; a tenth where they are not long.

    Raises:
        UnusableError: if there is no rate to lower.
    """
    has_rate(situation)
    now = ratio(situation)
    down = now / target(situation) if now is not None else UNTOLD
    return 1 / min(_power(down if down >= POWERS[0] else UNTOLD), MOST_DOWN)


def raising(situation: Situation) -> float:
    """The factor that brings steps up to the usual length, at least 3; ten where they are not short.

    Raises:
        UnusableError: if there is no rate to raise.
    """
    has_rate(situation)
    now, rate = ratio(situation), max(float(group["lr"]) for group in made_optimizer(situation).param_groups)
    up = target(situation) / now if now else UNTOLD
    return _power(min(up if up >= POWERS[0] else UNTOLD, max(HIGHEST / rate, POWERS[0])))


def has_rate(situation: Situation) -> None:
    """Raises unless there is a learning rate that can be multiplied.

    Raises:
        UnusableError: if there is none, or it is 0.
    """
    groups = made_optimizer(situation).param_groups
    if not all("lr" in group for group in groups):
        raise UnusableError("the optimizer has no learning rate")
    if all(group["lr"] == 0 for group in groups):
        raise UnusableError("the learning rate is 0, and no factor changes that: reset_optimizer sets one")


def _power(factor: float) -> float:
    return float(min(POWERS, key=lambda power: abs(math.log(power / factor))))


def scaled(recipe: Recipe, factor: float, situation: Situation) -> Recipe:
    """The recipe with its learning rate multiplied, whatever sets it."""

    def change(optimizer: Optimizer) -> Optimizer:
        if plain:
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * factor if factor >= 1 else group["lr"] / (1 / factor)
        else:
            RateFactor(factor).attach(optimizer)
        return optimizer

    plain = _keeps(recipe, situation)
    return recipe.with_optimizer(change)


def _keeps(recipe: Recipe, situation: Situation) -> bool:
    """Whether a rate that is changed once stays changed: not under a schedule of absolute rates.

    What a step of one's own does with the rate is not known.
    """
    if recipe.step is not None:
        return False
    if recipe.schedule is None:
        return True
    with undisturbed(), contextlib.suppress(Exception):
        optimizers = [made_optimizer(situation) for _ in range(2)]
        for group in optimizers[1].param_groups:
            group["lr"] = group["lr"] * 0.5
        for optimizer in optimizers:
            recipe.schedule(optimizer)
        first, second = ([float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers)
        return all(math.isclose(0.5 * a, b, rel_tol=1e-6) for a, b in zip(first, second, strict=True))
    return False


def _scaled_code(factor: float, situation: Situation) -> Code:
    if _keeps(situation.recipe, situation):
        times = f"*= {factor:g}" if factor >= 1 else f"/= {1 / factor:g}"
        return Code(optimizer=f'for group in optimizer.param_groups:\n    group["lr"] {times}')
    times = f"{factor:g}" if factor >= 1 else f"1 / {1 / factor:g}"
    return Code(classes=(RateFactor,), optimizer=f"RateFactor({times}).attach(optimizer)")


def learning_rate(factor: float) -> Remedy:
    """A remedy that multiplies the learning rate.

    Formula: ``lr <- factor * lr``.

    Args:
        factor: above 0.

    Returns:
        A `Remedy` called ``rate_x3`` or, for a factor of a third, ``rate_d3``.

    Raises:
        ValueError: for a factor that is not above 0.

    Example:
        >>> learning_rate(3).name, learning_rate(0.1).name
        ('rate_x3', 'rate_d10')

    Source:
        none.
    """
    if not factor > 0:
        raise ValueError(f"a learning rate is multiplied by a number above 0, and not by {factor}")
    up = factor >= 1
    times = f"{factor if up else 1 / factor:g}"
    return Remedy(
        name=f"rate_{'x' if up else 'd'}{times}",
        title=f"{times} times the learning rate" if up else f"a learning rate {times} times lower",
        group="optimization",
        treats=("stalled_training", "underflow") if up else ("oscillating_loss", "diverging_loss"),
        changes_function=False,
        source=_KARPATHY,
        code=lambda situation: _scaled_code(factor, situation),
        recipe=lambda recipe, situation: scaled(recipe, factor, situation),
        unusable=objection(has_rate),
    )


_KARPATHY = (
    "Karpathy, CS231n (2016): updates of a thousandth of the weights; LeCun, Bottou, Orr and Mueller, Efficient "
)
_KARPATHY += "BackProp (1998), section 4.7"

REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="lower_rate",
        title="a lower learning rate, by the update-to-weight ratio",
        group="optimization",
        treats=(
            *("oscillating_loss", "diverging_loss", "nonfinite", "loss_spike", "dead_units", "saturated_units"),
            *("attention_collapse", "exploding_gradient"),
        ),
        changes_function=False,
        source=_KARPATHY,
        code=lambda situation: _scaled_code(lowering(situation), situation),
        recipe=lambda recipe, situation: scaled(recipe, lowering(situation), situation),
        unusable=objection(lowering),
        proofs=(Proof(cases.swinging, 0.7), Proof(cases.one_cycle_too_high, 0.8), Proof(cases.own_step_too_long, 0.7)),
    ),
    Remedy(
        name="raise_rate",
        title="a higher learning rate, by the update-to-weight ratio",
        group="optimization",
        treats=("stalled_training", "clipping_bound", "vanishing_gradient", "underflow"),
        changes_function=False,
        source=_KARPATHY,
        code=lambda situation: _scaled_code(raising(situation), situation),
        recipe=lambda recipe, situation: scaled(recipe, raising(situation), situation),
        unusable=objection(raising),
        proofs=(Proof(cases.short_steps, 0.8),),
    ),
)
