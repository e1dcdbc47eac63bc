"""Another optimizer, and options that no optimizer works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.optim import Optimizer

from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import optimization as cases
from gradiometer.remedies.known import literal, made_optimizer, objection
from gradiometer.remedies.recipe import Recipe

ADAM, SGD = 1e-3, 0.05
"""Learning rates: Adam's own (Kingma and Ba, 2015), and a usual one of SGD with momentum."""

EPSILON = 1e-8

ADAPTIVE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)

Options = dict[str, Any]


# -- another optimizer ------------------------------------------------------------------------------------------------


def groups_of(optimizer: Optimizer, rate: float) -> list[Options]:
    """The parameter groups, with rates of the same proportions of which the largest is this one."""
    largest = max((float(group.get("lr", 0.0)) for group in optimizer.param_groups), default=0.0)
    share = [float(group.get("lr", 0.0)) / largest if largest > 0 else 1.0 for group in optimizer.param_groups]
    return [
        {"params": group["params"], "lr": rate * part}
        for group, part in zip(optimizer.param_groups, share, strict=True)
    ]


def successor(before: Optimizer, after: Optimizer) -> Optimizer:
    """An optimizer in the place of another one, with the hooks that were put on that."""
    for hook in before._optimizer_step_pre_hooks.values():
        after.register_step_pre_hook(hook)
    for hook in before._optimizer_step_post_hooks.values():
        after.register_step_post_hook(hook)
    return after


def _adam(recipe: Recipe, situation: Situation) -> Recipe:
    def change(optimizer: Optimizer) -> Optimizer:
        return successor(optimizer, torch.optim.AdamW(groups_of(optimizer, ADAM)))

    return _with_its_rate(recipe.with_optimizer(change), ADAM, situation)


def _sgd(recipe: Recipe, situation: Situation) -> Recipe:
    def change(optimizer: Optimizer) -> Optimizer:
        return successor(optimizer, torch.optim.SGD(groups_of(optimizer, SGD), momentum=0.9))

    return _with_its_rate(recipe.with_optimizer(change), SGD, situation)


def _with_its_rate(recipe: Recipe, rate: float, situation: Situation) -> Recipe:
    """A schedule of absolute rates was made for another optimizer: its largest rate becomes that of this one."""
    schedule = recipe.schedule
    if schedule is None:
        return recipe
    before = max(float(group.get("max_lr", group.get("lr", 0.0))) for group in _scheduled(situation).param_groups)
    factor = rate / before if before > 0 else 1.0

    def change(optimizer: Optimizer) -> Any:
        made = schedule(optimizer)
        for group in optimizer.param_groups:
            if "max_lr" in group:  # OneCycleLR keeps its rates in the groups
                for name in ("lr", "initial_lr", "max_lr", "min_lr"):
                    group[name] = group[name] * factor
        return made

    return replace(recipe, schedule=change)


def _scheduled(situation: Situation) -> Optimizer:
    optimizer = made_optimizer(situation)
    assert situation.recipe.schedule is not None
    situation.recipe.schedule(optimizer)
    return optimizer


def _is_adam_already(situation: Situation) -> None:
    optimizer = made_optimizer(situation)
    usual = all(ADAM / 3 <= group["lr"] <= 3 * ADAM for group in optimizer.param_groups)
    if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and usual and not _odd(optimizer):
        raise UnusableError(f"it is {type(optimizer).__name__} at a usual rate already")


def _is_sgd_already(situation: Situation) -> None:
    optimizer = made_optimizer(situation)
    usual = all(
        SGD / 3 <= group["lr"] <= 3 * SGD and 0.8 <= group.get("momentum", 0) <= 0.95
        for group in optimizer.param_groups
    )
    if isinstance(optimizer, torch.optim.SGD) and usual and not _odd(optimizer):
        raise UnusableError("it is SGD with momentum at a usual rate already")


def _code(line: str, situation: Situation, rate: float) -> Code:
    groups = groups_of(made_optimizer(situation), rate)
    rates = [group["lr"] for group in groups]
    alike = len(set(rates)) == 1
    what = "optimizer.param_groups"
    head = (
        f"groups = [{{'params': group['params']}} for group in {what}]"
        if alike
        else (
            f"rates = {literal(rates)}\n"
            f"groups = [{{'params': g['params'], 'lr': lr}} for g, lr in zip({what}, rates, strict=True)]"
        )
    )
    return Code(imports=("import torch",), optimizer=f"{head}\noptimizer = torch.optim.{line}")


# -- options ----------------------------------------------------------------------------------------------------------


def _odd(optimizer: Optimizer) -> Options:
    """The options with which no training goes well, and what is usual in their place."""
    found: Options = {}
    for group in optimizer.param_groups:
        found |= {name: value for name, value in _usual(group, optimizer) if group.get(name) != value}
    return found


def _usual(group: Options, optimizer: Optimizer) -> list[tuple[str, Any]]:
    adaptive = isinstance(optimizer, ADAPTIVE)
    rules: tuple[tuple[str, Callable[[Any], bool], Any], ...] = (
        ("lr", lambda lr: float(lr) == 0, ADAM if adaptive or not isinstance(optimizer, torch.optim.SGD) else SGD),
        ("maximize", bool, False),
        ("momentum", lambda m: not 0 <= m <= 0.99, 0.9),
        ("dampening", lambda d: d != 0, 0.0),
        ("betas", _unstable, (0.9, 0.999)),
        ("alpha", lambda a: not 0.5 <= a < 0.9999, 0.99),
        ("eps", lambda e: not 1e-12 <= float(e) <= 1e-4, EPSILON),
        ("lr_decay", lambda d: d > 0, 0.0),
        ("weight_decay", lambda d: d < 0 or d * (float(group.get("lr", 0.0)) or 1.0) > 1e-2 or d > 1, 0.0),
    )
    return [(name, usual) for name, odd, usual in rules if name in group and odd(group[name])]


def _unstable(betas: tuple[float, float]) -> bool:
    """Kingma and Ba (2015, theorem 4.1) ask for ``beta1^2 < sqrt(beta2)``; outside of these nothing is usual."""
    first, second = (float(beta) for beta in betas)
    return not (0 <= first <= 0.97 and 0.8 <= second <= 0.9999 and first**2 < second**0.5)


def _broken(situation: Situation) -> Options:
    """The odd options.

    Raises:
        UnusableError: if there is none.
    """
    found = _odd(made_optimizer(situation))
    if not found:
        raise UnusableError("the options of the optimizer are all within what is usual")
    return found


def _maximizes(situation: Situation) -> Options:
    if not any(group.get("maximize") for group in made_optimizer(situation).param_groups):
        raise UnusableError("the optimizer minimizes already")
    return {"maximize": False}


def _epsilon(situation: Situation) -> Options:
    """The usual epsilon, and for numbers of 16 bits one that they can hold.

    Raises:
        UnusableError: if there is none, or it is that already.
    """
    optimizer = made_optimizer(situation)
    if not all("eps" in group for group in optimizer.param_groups):
        raise UnusableError(f"{type(optimizer).__name__} has no eps")
    half = any(p.dtype == torch.float16 for group in optimizer.param_groups for p in group["params"])
    value = 1e-4 if half else EPSILON
    if all(value / 3 <= group["eps"] <= 3 * value for group in optimizer.param_groups):
        raise UnusableError(f"eps is {value:g} already")
    return {"eps": value}


def _with(options: Callable[[Situation], Options]) -> Callable[[Recipe, Situation], Recipe]:
    def change(recipe: Recipe, situation: Situation) -> Recipe:
        usual = options(situation)

        def reset(optimizer: Optimizer) -> Optimizer:
            for group in optimizer.param_groups:
                group.update({name: value for name, value in usual.items() if name in group})
            return optimizer

        return recipe.with_optimizer(reset)

    return change


def _options_code(options: Callable[[Situation], Options]) -> Callable[[Situation], Code]:
    def code(situation: Situation) -> Code:
        said = ", ".join(f"{name}={value!r}" for name, value in options(situation).items())
        return Code(optimizer=f"for group in optimizer.param_groups:\n    group.update({said})")

    return code


_FAILING = ("stalled_training", "oscillating_loss", "diverging_loss", "vanishing_gradient", "exploding_gradient")

REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="adam",
        title="AdamW",
        group="optimization",
        treats=(*_FAILING, "unscaled_inputs", "loss_spike", "clipping_bound", "bad_initialization"),
        changes_function=False,
        source="Kingma and Ba, Adam: a method for stochastic optimization (2015), algorithm 1; Loshchilov and Hutter, "
        "Decoupled weight decay regularization (2019), algorithm 2",
        code=lambda situation: _code(f"AdamW(groups, lr={ADAM:g})", situation, ADAM),
        recipe=_adam,
        unusable=objection(_is_adam_already),
        proofs=(Proof(cases.short_steps, 0.8), Proof(cases.swinging, 0.8)),
    ),
    Remedy(
        name="sgd_momentum",
        title="SGD with momentum",
        group="optimization",
        treats=("stalled_training", "oscillating_loss", "diverging_loss", "nonfinite"),
        changes_function=False,
        source="Wilson et al., The marginal value of adaptive gradient methods in machine learning (2017)",
        code=lambda situation: _code(f"SGD(groups, lr={SGD:g}, momentum=0.9)", situation, SGD),
        recipe=_sgd,
        unusable=objection(_is_sgd_already),
        proofs=(Proof(cases.adagrad_that_dies, 0.8),),
    ),
    Remedy(
        name="adam_epsilon",
        title="the usual epsilon",
        group="optimization",
        treats=("stalled_training", "nonfinite", "underflow", "loss_spike"),
        changes_function=False,
        source="Kingma and Ba (2015), algorithm 1: 1e-8; float16 has no number between 0 and 6e-8",
        code=_options_code(_epsilon),
        recipe=_with(_epsilon),
        unusable=objection(_epsilon),
        proofs=(Proof(cases.large_epsilon, 0.8),),
    ),
    Remedy(
        name="minimize",
        title="an optimizer that minimizes",
        group="optimization",
        treats=("diverging_loss", "nonfinite", "exploding_gradient"),
        changes_function=False,
        source="none",
        code=_options_code(_maximizes),
        recipe=_with(_maximizes),
        unusable=objection(_maximizes),
        proofs=(Proof(cases.maximizing, 0.8),),
    ),
    Remedy(
        name="reset_optimizer",
        title="the usual options of the optimizer",
        group="optimization",
        treats=(*_FAILING, "nonfinite", "frozen_parameters"),
        changes_function=False,
        source="Kingma and Ba (2015), algorithm 1 and theorem 4.1",
        code=_options_code(_broken),
        recipe=_with(_broken),
        unusable=objection(_broken),
        proofs=tuple(
            Proof(case, 0.8) for case in (cases.maximizing, cases.no_rate, cases.large_epsilon, cases.decay_that_kills)
        ),
    ),
)
