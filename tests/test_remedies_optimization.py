"""Ways of stepping: formulas against slow ones in float64, in anybody's loop, and the code that does the same."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradiometer.records import Diagnosis
from gradiometer.remedies import clipping, frozen, momentum, optimizers, precision, rates, schedules
from gradiometer.remedies.base import Remedy, Situation, UnusableError, treated
from gradiometer.remedies.catalogue import find
from gradiometer.remedies.optimization import REMEDIES
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.training import Training
from written import same_training

IN_WORDS = {("loss_scaling", 0), ("bfloat16", 0), ("float32", 1), ("zero_grad", 1)}
"""Cases in which the code says in words what to change in the loop."""


def batches(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(16, 4, generator=generator)
        yield x, x.sum(1, keepdim=True)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def own_step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> torch.Tensor:
    optimizer.zero_grad()
    value = loss(model(batch[0]), batch[1])
    value.backward()
    optimizer.step()
    return value.detach()


def closing_step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> torch.Tensor:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()
        return value

    return optimizer.step(closure).detach()


def recipe(**changes: Any) -> Recipe:
    plain = Recipe(network, lambda p: torch.optim.SGD(p, 0.1), F.mse_loss, batches, steps=100)
    return replace(plain, **changes)


def situation(given: Recipe, **known: Any) -> Situation:
    torch.manual_seed(0)
    return Situation(given, given.model(), next(iter(given.batches(0))), Diagnosis(()), **known)


def trained(given: Recipe, steps: int = 5) -> Training:
    training = Training(given, 0)
    training.advance(steps)
    assert not training.failure, training.failure
    return training


def weights(training: Training) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in training.model.parameters()])


def cure(remedy: str, given: Recipe, **known: Any) -> Recipe:
    return treated(given, (find(remedy),), situation(given, **known))


# -- the code --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remedy", "number"),
    [
        pytest.param(r, i, id=f"{r.name}-{p.recipe.__name__}")
        for r in REMEDIES
        for i, p in enumerate(r.proofs)
        if (r.name, i) not in IN_WORDS
    ],
)
def test_code_trains_as_the_cure_does(remedy: Remedy, number: int) -> None:
    same_training(remedy, remedy.proofs[number])


@pytest.mark.parametrize("remedy", REMEDIES, ids=lambda r: r.name)
def test_a_reason_or_a_change(remedy: Remedy) -> None:
    given = recipe()
    known = situation(given)
    reason = remedy.unusable(known)
    if reason is not None:
        assert reason[0].islower() or reason.split()[0] in ("AdamW", "SGD"), reason
        return
    before, after = trained(given), trained(treated(given, (remedy,), known))
    odd = remedy.name in ("clip_norm", "clip_value", "autoclip", "zclip", "agc")  # these act on large gradients
    assert odd or not torch.equal(weights(before), weights(after))


# -- clipping --------------------------------------------------------------------------------------------------------


def stepped(hook: clipping.GradientHook, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """What is left of the gradients of one matrix, step by step."""
    p = nn.Parameter(torch.ones_like(gradients[0]))
    optimizer = torch.optim.SGD([p], lr=0.0)
    hook.attach(optimizer)
    left = []
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
        left.append(p.grad.clone())
    return left


def some(count: int, size: tuple[int, ...] = (3, 5)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, generator=generator) * (50.0 if i % 10 == 9 else 1.0) for i in range(count)]


@pytest.mark.parametrize("size", [(7,), (3, 5), (4, 2, 3, 3)])
def test_adaptive_clipping_is_by_unit(size: tuple[int, ...]) -> None:
    for gradient, left in zip(some(3, size), stepped(clipping.AdaptiveClipping(0.1), some(3, size)), strict=True):
        g, w = gradient.double().numpy(), np.ones(size)
        expected = np.empty_like(g)
        for unit in range(size[0]) if len(size) > 1 else [slice(None)]:
            norm, weight = np.sqrt((g[unit] ** 2).sum()), max(np.sqrt((w[unit] ** 2).sum()), 1e-3)
            expected[unit] = g[unit] * (0.1 * weight / norm if norm > 0.1 * weight else 1.0)
        np.testing.assert_allclose(left.numpy(), expected, rtol=1e-5)


def test_clipping_by_a_percentile_of_the_history() -> None:
    gradients, norms = some(25), []
    for gradient, left in zip(gradients, stepped(clipping.PercentileClipping(10), gradients), strict=True):
        norms.append(float(gradient.double().norm()))
        longest = np.percentile(norms, 10)
        np.testing.assert_allclose(left.norm(), min(norms[-1], longest), rtol=1e-4)


def test_a_norm_that_is_none_stays_out_of_the_history() -> None:
    gradients = some(3)
    gradients[1][0, 0] = math.nan
    assert stepped(clipping.PercentileClipping(50), gradients)[2].isfinite().all()


def test_clipping_of_outliers() -> None:
    gradients = some(60)
    left = stepped(clipping.ZClipping(2.5, 0.97, 25), gradients)
    norms = [float(g.double().norm()) for g in gradients]
    mean, variance = np.mean(norms[:25]), np.var(norms[:25])
    clipped = 0
    for norm, kept in zip(norms[25:], left[25:], strict=True):
        z = (norm - mean) / (math.sqrt(variance) + 1e-6)
        expected = mean + math.sqrt(variance) * 2.5**2 / z if z > 2.5 else norm
        clipped += z > 2.5
        np.testing.assert_allclose(kept.double().norm(), expected, rtol=1e-4)
        mean = 0.97 * mean + 0.03 * expected
        variance = 0.97 * variance + 0.03 * (expected - mean) ** 2
    assert clipped >= 3
    assert all(torch.equal(a, b) for a, b in zip(gradients[:25], left[:25], strict=True))


def test_clipping_by_value() -> None:
    (left,) = stepped(clipping.ValueClipping(0.5), some(1))
    assert torch.equal(left, some(1)[0].clamp(-0.5, 0.5))


@pytest.mark.parametrize("step", [None, own_step, closing_step])
def test_clipping_by_norm_is_that_of_torch_in_any_loop(step: Any) -> None:
    expected = trained(recipe(clip=1.0))
    assert torch.equal(weights(trained(cure("clip_norm", recipe(step=step)))), weights(expected))


def test_a_step_without_gradients_is_left_alone() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.1)
    for hook in (clipping.ValueClipping(1.0), clipping.PercentileClipping(10), clipping.ZClipping()):
        hook.attach(optimizer)
    optimizer.step()
    assert p.grad is None


def test_clipping_lower_than_usual_is_not_lowered() -> None:
    assert "already" in (find("clip_norm").unusable(situation(recipe(clip=0.5))) or "")


def test_nothing_clipped_is_nothing_to_raise() -> None:
    assert "nothing is clipped" in (find("raise_clip").unusable(situation(recipe())) or "")


# -- rates -----------------------------------------------------------------------------------------------------------


def rates_of(given: Recipe, steps: int) -> list[float]:
    """The rate of every step, as the optimizer sees it."""
    seen: list[float] = []

    def watched(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        optimizer.register_step_pre_hook(lambda o, *_: seen.append(float(o.param_groups[0]["lr"])))
        return optimizer

    trained(given.with_optimizer(watched), steps)
    return seen


def one_cycle(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=100, cycle_momentum=False)


def halving(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


def waving(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, 5, cycle_momentum=False)


@pytest.mark.parametrize("schedule", [None, halving, one_cycle, waving])
@pytest.mark.parametrize("step", [None, own_step])
def test_a_rate_is_multiplied_whatever_sets_it(schedule: Any, step: Any) -> None:
    given = recipe(schedule=schedule, step=step)
    lower = treated(given, (rates.learning_rate(0.25),), situation(given))
    expected = [0.25 * rate for rate in rates_of(given, 8)]
    assert rates_of(lower, 8) == pytest.approx(expected)


def test_a_rate_that_the_step_sets() -> None:
    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> torch.Tensor:
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        return own_step(model, optimizer, loss, batch)

    given = recipe(step=step)
    assert rates_of(treated(given, (rates.learning_rate(10),), situation(given)), 3) == pytest.approx([0.2] * 3)


@pytest.mark.parametrize("schedule", [None, halving, one_cycle])
def test_a_warm_up_goes_with_any_schedule(schedule: Any) -> None:
    given = recipe(schedule=schedule)
    plain, warm = rates_of(given, 15), rates_of(cure("warm_up", given), 15)
    expected = [rate * min(1.0, (i + 1) / 10) for i, rate in enumerate(plain)]
    assert warm == pytest.approx(expected)


def test_decays() -> None:
    steps, rate = 100, 0.1
    cosine = [rate * (1 + math.cos(math.pi * i / steps)) / 2 for i in range(steps)]
    assert rates_of(cure("decay", recipe(schedule=halving)), steps) == pytest.approx(cosine)
    linear = [rate * (1 - (1 - 1e-3) * i / steps) for i in range(steps)]
    assert rates_of(cure("linear_decay", recipe()), steps) == pytest.approx(linear)
    assert rates_of(cure("constant_rate", recipe(schedule=halving)), 9) == [rate] * 9


@pytest.mark.parametrize(
    ("now", "steps", "up", "down"),
    [(1e-6, 1000, 1000, 0.1), (0.3, 1000, 10, 1 / 300), (None, 1000, 10, 0.1), (0.02, 100, 10, 0.1), (0.0, 9, 10, 0.1)],
)
def test_factors_by_the_ratio(
    monkeypatch: pytest.MonkeyPatch, now: float | None, steps: int, up: float, down: float
) -> None:
    monkeypatch.setattr(rates, "ratio", lambda _: now)
    known = situation(recipe(steps=steps))
    assert rates.raising(known) == pytest.approx(up)
    assert rates.lowering(known) == pytest.approx(down)


def test_a_rate_of_nothing_cannot_be_multiplied() -> None:
    given = recipe(optimizer=lambda p: torch.optim.SGD(p, 0.0))
    for name in ("raise_rate", "lower_rate", "warm_up"):
        assert "reset_optimizer" in (find(name).unusable(situation(given)) or "")


@pytest.mark.parametrize("factor", [0, -1, math.nan])
def test_a_factor_is_above_zero(factor: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        rates.learning_rate(factor)


# -- momentum and decay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "value"),
    [(0, 0.5), (250, 0.75), (500, 5 / 6), (1000, 0.9), (2500, 0.9545455), (10000, 0.9878049), (125000, 0.999)],
)
def test_momentum_rises_as_in_the_paper(steps: int, value: float) -> None:
    p = nn.Parameter(torch.ones(1))
    p.grad = torch.zeros(1)
    optimizer = torch.optim.SGD([p], 0.1)
    hook = momentum.RisingMomentum(250, 0.999)
    hook.attach(optimizer)
    hook.steps = steps
    optimizer.step()
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(value, rel=1e-6)
    assert optimizer.param_groups[0]["nesterov"]


def test_decoupled_decay_is_that_of_adamw() -> None:
    both = []
    for optimizer in (torch.optim.AdamW, torch.optim.Adam):
        p = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        made = optimizer([p], lr=0.01, weight_decay=0.0 if optimizer is torch.optim.Adam else 0.5)
        if optimizer is torch.optim.Adam:
            momentum.DecoupledDecay(0.5).attach(made)
        for _ in range(5):
            p.grad = torch.full((2, 3), 0.1)
            made.step()
        both.append(p.detach())
    torch.testing.assert_close(*both)


def test_biases_and_gains_do_not_decay() -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.zeros(3)
    optimizer = torch.optim.SGD([p], 0.1)
    momentum.DecoupledDecay(0.5).attach(optimizer)
    optimizer.step()
    assert torch.equal(p, torch.ones(3))


def test_l2_is_not_for_adam() -> None:
    given = recipe(optimizer=lambda p: torch.optim.Adam(p, 1e-3))
    assert "decoupled_decay" in (find("l2").unusable(situation(given)) or "")


# -- optimizers ------------------------------------------------------------------------------------------------------


def two_groups(parameters: Any) -> torch.optim.Optimizer:
    parameters = list(parameters)
    return torch.optim.SGD([{"params": parameters[:2], "lr": 0.01}, {"params": parameters[2:], "lr": 0.1}])


def test_another_optimizer_keeps_groups_proportions_and_hooks() -> None:
    known = situation(recipe(optimizer=two_groups))
    both = treated(known.recipe, (find("clip_value"), find("adam")), known)
    made = both.optimizer(known.model.parameters())
    assert type(made) is torch.optim.AdamW
    assert [group["lr"] for group in made.param_groups] == pytest.approx([1e-4, 1e-3])
    assert [len(group["params"]) for group in made.param_groups] == [2, 2]
    assert len(made._optimizer_step_pre_hooks) == 1


def test_another_optimizer_under_a_schedule_of_absolute_rates() -> None:
    assert max(rates_of(cure("adam", recipe(schedule=one_cycle)), 40)) == pytest.approx(1e-3, rel=1e-2)


def test_what_is_adam_already_stays() -> None:
    given = recipe(optimizer=lambda p: torch.optim.Adam(p, 1e-3))
    assert "already" in (find("adam").unusable(situation(given)) or "")
    odd = recipe(optimizer=lambda p: torch.optim.Adam(p, 1e-3, betas=(0.9, 0.5)))
    assert find("adam").unusable(situation(odd)) is None


@pytest.mark.parametrize(
    ("optimizer", "usual"),
    [
        (lambda p: torch.optim.Adam(p, 0.0), {"lr": 1e-3}),
        (lambda p: torch.optim.SGD(p, 0.0), {"lr": 0.05}),
        (lambda p: torch.optim.Adam(p, betas=(0.999, 0.9)), {"betas": (0.9, 0.999)}),
        (lambda p: torch.optim.Adam(p, eps=1.0), {"eps": 1e-8}),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.999), {"momentum": 0.9}),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.9), {"dampening": 0.0}),
        (lambda p: torch.optim.SGD(p, 0.1, maximize=True), {"maximize": False}),
        (lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.5), {"weight_decay": 0.0}),
        (lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.0), {"alpha": 0.99}),
        (lambda p: torch.optim.Adagrad(p, 0.01, lr_decay=0.1), {"lr_decay": 0.0}),
    ],
)
def test_odd_options_become_usual(optimizer: Any, usual: dict[str, Any]) -> None:
    known = situation(recipe(optimizer=optimizer))
    assert optimizers._broken(known) == usual
    made = cure("reset_optimizer", known.recipe).optimizer(known.model.parameters())
    assert {name: made.param_groups[0][name] for name in usual} == usual


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax,
        torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.Rprop, torch.optim.ASGD,
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
    ],
)  # fmt: skip
def test_options_of_torch_are_usual(optimizer: Any) -> None:
    assert "usual" in (find("reset_optimizer").unusable(situation(recipe(optimizer=optimizer))) or "")


# -- wiring ----------------------------------------------------------------------------------------------------------


class Hiding(nn.Module):
    """All the ways to hide a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = [nn.Linear(4, 4), nn.ReLU()]
        self.pair = (nn.Linear(4, 4), nn.Linear(4, 4))
        self.named = {"a": nn.Linear(4, 4)}
        self.counted = {1: nn.Linear(4, 4), 2: nn.Linear(4, 4)}
        self.nested = [[nn.Linear(4, 4)], [nn.Linear(4, 4)]]
        self.mixed = [nn.Linear(4, 4), "relu", None]
        self.scale = torch.ones(4, requires_grad=True)
        self.scales = [nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))]
        self.known = nn.Linear(4, 1)
        self.again = [self.known]
        self.inner = nn.Sequential()
        self.inner.hidden = [nn.Linear(4, 4)]  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (*self.listed, *self.pair, *self.named.values(), *(self.counted[k] for k in (1, 2))):
            x = layer(x)
        for (layer,) in self.nested:
            x = layer(x)
        for layer in self.inner.hidden:  # type: ignore[union-attr]
            x = layer(x)
        return self.again[0](self.mixed[0](x) * self.scale * self.scales[0] + self.scales[1])  # type: ignore


def test_hidden_layers_are_found_wherever_they_lie() -> None:
    torch.manual_seed(0)
    model, x = Hiding(), torch.randn(3, 4)
    before = model(x)
    places = frozen.register(model)
    assert places == ["listed", "pair", "named", "counted", "nested", "mixed", "scale", "scales", "inner.hidden"]
    assert torch.equal(model(x), before)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert sum(p.dim() > 1 for p in model.parameters()) == 11
    assert len(list(model.parameters())) == 11 * 2 + 3
    assert frozen.register(model) == []


def test_nothing_hidden_is_nothing_to_register() -> None:
    assert "model.parameters() has them all" in (find("register_modules").unusable(situation(recipe())) or "")
    with pytest.raises(UnusableError):
        find("register_modules").model(network(), situation(recipe()))  # type: ignore[misc]


def test_an_optimizer_of_a_copy_comes_to_hold_the_network() -> None:
    copied = network()
    given = recipe(optimizer=lambda _: torch.optim.SGD(copied.parameters(), 0.1))
    assert find("hold_all").unusable(situation(given)) is None
    before = torch.cat([p.detach().reshape(-1) for p in Training(given, 0).model.parameters()])
    assert not torch.equal(weights(trained(cure("hold_all", given))), before)


def test_what_a_finding_names_is_switched_on() -> None:
    model = network()
    model.requires_grad_(False)
    known = situation(recipe(model=lambda: copy.deepcopy(model)))
    assert len(frozen.frozen(known.model, known)) == 4
    assert find("unfreeze").code(known).model == "model.requires_grad_(True)"
    assert "already" in (find("unfreeze").unusable(situation(recipe())) or "")


def test_gradients_are_zero_after_a_step_and_at_no_other_time() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], 0.1)
    frozen.ZeroAfterStep().attach(optimizer)
    p.grad = torch.ones(2)
    optimizer.zero_grad()
    assert p.grad is not None
    optimizer.step()
    assert p.grad is None
    assert torch.equal(p, torch.full((2,), 0.9))


# -- formats ---------------------------------------------------------------------------------------------------------


def test_a_scaled_loss_and_its_gradients_cancel() -> None:
    plain, scale = trained(recipe()), precision.LossScale(1024.0)

    def change(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        scale.attach(optimizer)
        return optimizer

    scaled = trained(recipe(loss=scale.around(F.mse_loss)).with_optimizer(change))
    assert torch.equal(weights(plain), weights(scaled))


@pytest.mark.parametrize("targets", [torch.float32, torch.float16])
def test_a_network_in_half_goes_to_float32(targets: torch.dtype) -> None:
    def half(seed: int) -> Any:
        return ((x.half(), y.to(targets)) for x, y in batches(seed))

    given = recipe(model=lambda: network().half(), batches=half)
    cured = trained(cure("float32", given))
    assert {p.dtype for p in cured.model.parameters()} == {torch.float32}
    assert math.isfinite(cured.losses[-1])


def test_autocast_in_a_step_of_ones_own() -> None:
    seen = []

    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            seen.append(y.dtype)
            return y

    def step(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            outputs = model(batch[0])
        optimizer.zero_grad()
        value = loss(outputs.float(), batch[1])
        value.backward()
        optimizer.step()
        return value.detach()

    given = recipe(model=Looking, step=step)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        cured = cure(name, given)
        seen.clear()
        trained(cured, 2)
        assert seen[-2:] == [dtype, dtype]  # behind those of a step that is taken to look at it


def test_formats_that_are_long_already() -> None:
    known = situation(recipe())
    for name in ("loss_scaling", "bfloat16", "float32"):
        assert "float16" in (find(name).unusable(known) or "")
    assert "already" in (find("loss_scaling").unusable(situation(recipe(autocast=torch.float16, scaler=True))) or "")


def test_a_schedule_that_is_not_there_is_constant() -> None:
    assert "constant already" in (find("constant_rate").unusable(situation(recipe())) or "")
    assert schedules.warming(situation(recipe(steps=3))) == 2
