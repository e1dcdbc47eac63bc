"""Clipping of the gradient: to a norm, to a value, and by what the history or the weights say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from gradiometer.remedies.base import Code, Proof, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import optimization as cases
from gradiometer.remedies.known import findings, first_batches, inputs_of, made_optimizer, objection, rounded, signal_of
from gradiometer.remedies.rates import scaled
from gradiometer.remedies.recipe import Recipe
from gradiometer.rules.steps import gradients

USUAL = 1.0
"""Norm to which gradients are clipped where nothing is known of theirs: that of most recipes for language models."""


class GradientHook:
    """Changes gradients just before an optimizer uses them, in any loop: ``Hook(...).attach(optimizer)``."""

    def attach(self, optimizer):
        """From its next step on."""
        optimizer.register_step_pre_hook(self.before_step)

    def before_step(self, optimizer, args, kwargs):
        """Of a step with a closure the gradients come about inside of it."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self.look(optimizer)
            return None

        def changed():
            loss = closure()
            self.look(optimizer)
            return loss

        return args[:1], {"closure": changed}

    def look(self, optimizer):
        """Finds the gradients that there are."""
        having = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if having:
            self.change(having)

    def change(self, parameters):
        """Changes the gradients of these parameters in place."""
        raise NotImplementedError


class NormClipping(GradientHook):
    """Shortens the whole gradient to a largest norm."""

    def __init__(self, max_norm: float):
        """``max_norm`` is that of all parameters together."""
        self.max_norm = max_norm

    def change(self, parameters):
        """All of them."""
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)


class ValueClipping(GradientHook):
    """Cuts every element of the gradient at a largest value."""

    def __init__(self, value: float):
        """``value`` holds for either sign."""
        self.value = value

    def change(self, parameters):
        """All of them."""
        torch.nn.utils.clip_grad_value_(parameters, self.value)


class AdaptiveClipping(GradientHook):
    """Shortens the gradient of every unit to a share of the norm of its weights (AGC)."""

    def __init__(self, share: float, least: float = 1e-3):
        """Weights count as at least ``least``, so that those of zero can move."""
        self.share, self.least = share, least

    def change(self, parameters):
        """Row by row, of a vector the whole."""
        for p in parameters:
            inputs = tuple(range(1, p.dim())) or None
            weight = torch.linalg.vector_norm(p.detach(), dim=inputs, keepdim=True).clamp(min=self.least)
            gradient = torch.linalg.vector_norm(p.grad, dim=inputs, keepdim=True)
            p.grad.mul_((self.share * weight / gradient.clamp(min=1e-6)).clamp(max=1.0))


class PercentileClipping(GradientHook):
    """Shortens the gradient to a percentile of the norms of all steps so far (AutoClip)."""

    def __init__(self, percentile: float):
        """10 in the paper."""
        self.percentile = percentile
        self.norms = []

    def change(self, parameters):
        """The norm of this step counts as well."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters]).float().cpu()
        if norm.isfinite():
            self.norms.append(norm)
        if self.norms:
            longest = torch.stack(self.norms).quantile(self.percentile / 100)
            torch.nn.utils.clip_grad_norm_(parameters, float(longest))


class ZClipping(GradientHook):
    """Shortens gradients whose norm is an outlier, counted in standard deviations from a moving mean (ZClip)."""

    def __init__(self, threshold: float = 2.5, memory: float = 0.97, warm_up: int = 25):
        """The first ``warm_up`` norms make mean and variance, and are not clipped."""
        self.threshold, self.memory, self.warm_up = threshold, memory, warm_up
        self.first, self.mean, self.variance = [], 0.0, 0.0

    def change(self, parameters):
        """What is clipped counts with the norm that is left of it."""
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters]))
        if len(self.first) < self.warm_up:
            self.first.append(norm)
            self.mean = sum(self.first) / len(self.first)
            self.variance = sum((x - self.mean) ** 2 for x in self.first) / len(self.first)
            return
        z = (norm - self.mean) / (self.variance**0.5 + 1e-6)
        if z > self.threshold:
            norm = self.mean + self.variance**0.5 * self.threshold**2 / z
            torch.nn.utils.clip_grad_norm_(parameters, norm)
        self.mean = self.memory * self.mean + (1 - self.memory) * norm
        self.variance = self.memory * self.variance + (1 - self.memory) * (norm - self.mean) ** 2


def _hooked(make: Callable[[Situation], GradientHook]) -> Callable[[Recipe, Situation], Recipe]:
    """The recipe with a new hook on every optimizer that it makes."""

    def change(recipe: Recipe, situation: Situation) -> Recipe:
        def attached(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
            make(situation).attach(optimizer)
            return optimizer

        return recipe.with_optimizer(attached)

    return change


# -- to a norm, and to a value ----------------------------------------------------------------------------------------


def max_norm(situation: Situation) -> float:
    """The norm of the gradient at birth, where nothing has gone wrong yet, and not more than is usual."""
    norm = gradients(situation.early) if situation.early is not None else math.nan
    return rounded(min(norm, USUAL), 1) if math.isfinite(norm) and norm > 0 else USUAL


def max_value(situation: Situation) -> float:
    """Ten times the usual element of the gradient at birth, and not more than one."""
    rows = situation.early.parameters if situation.early is not None else ()
    sizes = [p.grad_rms for p in rows if p.grad_rms and math.isfinite(p.grad_rms)]
    return rounded(min(10 * median(sizes), 1.0), 1) if sizes else 1.0


def _clip_norm(recipe: Recipe, situation: Situation) -> Recipe:
    if recipe.step is not None:
        return _hooked(lambda s: NormClipping(max_norm(s)))(recipe, situation)
    return replace(recipe, clip=max_norm(situation))


def _clips_lower(situation: Situation) -> str | None:
    clip = situation.recipe.clip
    if clip is not None and clip <= max_norm(situation):
        return f"the gradient is clipped to a norm of {clip:g} already, which is no more than its usual one"
    return None


# -- the clipping that there is ---------------------------------------------------------------------------------------


def _left(situation: Situation) -> float:
    """What the clipping leaves of a typical gradient.

    Raises:
        UnusableError: if nothing is clipped.
    """
    factors = [f.evidence["factor"] for f in findings(situation, "clipping_bound") if "factor" in f.evidence]
    readings = [r.clipped for r in (situation.last, situation.early) if r is not None and r.clipped]
    left = min([*factors, *readings], default=1.0)
    if left >= 0.99:
        raise UnusableError("nothing is clipped: the optimizer sees the gradient that backward leaves")
    if situation.recipe.clip is None and _adaptive(situation):
        raise UnusableError(
            "the step clips by itself, and this optimizer divides the size of the gradient away: raise the threshold "
            f"there {1 / left:,.0f} times"
        )
    return left


def _adaptive(situation: Situation) -> bool:
    return not isinstance(made_optimizer(situation), torch.optim.SGD)


def _raise_clip(recipe: Recipe, situation: Situation) -> Recipe:
    left = _left(situation)
    if recipe.clip is None:
        return scaled(recipe, rounded(1 / left, 1), situation)
    return replace(recipe, clip=rounded(recipe.clip / left, 1))


def _raise_clip_code(situation: Situation) -> Code:
    left, clip = _left(situation), situation.recipe.clip
    if clip is None:
        return Code(
            optimizer="# the step clips: raise its threshold, or make up for it\n"
            f'for group in optimizer.param_groups:\n    group["lr"] *= {rounded(1 / left, 1):g}'
        )
    return Code(step=f"torch.nn.utils.clip_grad_norm_(model.parameters(), {rounded(clip / left, 1):g})")


def _share(situation: Situation) -> float:
    """Brock et al. take 0.01 for batches of 4,096, and up to 0.16 for smaller ones."""
    x = signal_of(inputs_of(first_batches(situation, 1)[0]))
    return 0.01 if x is not None and x.dim() and len(x) >= 1024 else 0.08


_SPIKES = ("loss_spike", "exploding_gradient", "diverging_loss", "nonfinite", "oscillating_loss")

REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="clip_norm",
        title="gradient clipping by norm",
        group="optimization",
        treats=(*_SPIKES, "attention_collapse"),
        changes_function=False,
        source="Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks (2013), "
        "algorithm 1",
        code=lambda s: Code(step=f"torch.nn.utils.clip_grad_norm_(model.parameters(), {max_norm(s):g})"),
        recipe=_clip_norm,
        unusable=_clips_lower,
        proofs=(Proof(cases.odd_batches, 0.8), Proof(cases.cold_start, 0.8)),
    ),
    Remedy(
        name="clip_value",
        title="gradient clipping by value",
        group="optimization",
        treats=_SPIKES,
        changes_function=False,
        source="Mikolov, Statistical language models based on neural networks (2012): elements of the gradient are cut",
        code=lambda s: Code(step=f"torch.nn.utils.clip_grad_value_(model.parameters(), {max_value(s):g})"),
        recipe=_hooked(lambda s: ValueClipping(max_value(s))),
        proofs=(Proof(cases.odd_batches, 0.8),),
    ),
    Remedy(
        name="agc",
        title="adaptive gradient clipping",
        group="optimization",
        treats=_SPIKES,
        changes_function=False,
        source="Brock, De, Smith and Simonyan, High-performance large-scale image recognition without normalization "
        "(2021), equation 3",
        code=lambda s: Code(
            imports=("import torch",),
            classes=(GradientHook, AdaptiveClipping),
            optimizer=f"AdaptiveClipping({_share(s):g}).attach(optimizer)",
        ),
        recipe=_hooked(lambda s: AdaptiveClipping(_share(s))),
        proofs=(Proof(cases.odd_batches, 0.8),),
    ),
    Remedy(
        name="autoclip",
        title="gradient clipping by a percentile of the history",
        group="optimization",
        treats=_SPIKES,
        changes_function=False,
        source="Seetharaman, Wichern, Pardo and Le Roux, AutoClip: adaptive gradient clipping for source separation "
        "networks (2020)",
        code=lambda _: Code(
            imports=("import torch",),
            classes=(GradientHook, PercentileClipping),
            optimizer="PercentileClipping(10).attach(optimizer)",
        ),
        recipe=_hooked(lambda _: PercentileClipping(10)),
        proofs=(Proof(cases.odd_batches, 0.8),),
    ),
    Remedy(
        name="zclip",
        title="clipping of gradients that are outliers",
        group="optimization",
        treats=_SPIKES,
        changes_function=False,
        source="Kumar et al., ZClip: adaptive spike mitigation for LLM pre-training (2025)",
        code=lambda _: Code(
            imports=("import torch",),
            classes=(GradientHook, ZClipping),
            optimizer="ZClipping().attach(optimizer)",
        ),
        recipe=_hooked(lambda _: ZClipping()),
        proofs=(Proof(cases.odd_batches, 0.8),),
    ),
    Remedy(
        name="raise_clip",
        title="a clipping threshold that acts on outliers only",
        group="optimization",
        treats=("clipping_bound", "stalled_training"),
        changes_function=False,
        source="Pascanu, Mikolov and Bengio (2013), section 3.2: a threshold of half to ten times the average norm",
        code=_raise_clip_code,
        recipe=_raise_clip,
        unusable=objection(_left),
        proofs=(Proof(cases.bound_by_clipping, 0.8), Proof(cases.bound_by_own_clipping, 0.8)),
    ),
)
