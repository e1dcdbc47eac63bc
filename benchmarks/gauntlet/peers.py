"""The published rules of four peers, on the same trainings.

What each message can be read as in our kinds of finding is in `MEANS`, generously: an alarm is right if any kind of its
row is accepted by the case, so that a peer is never wrong for having another word for it.

What the publications leave open when they meet a training loop of any kind:

- An epoch is a tenth of the training, accuracy is its score. The score before the first step counts as well,
  since a tenth can be all that a small task needs.
- They stop at the first problem where the publication does (AutoTrainer repairs, DeepDiagnosis terminates).
- Weights are parameters with two or more dimensions, in the order of the model. A parameter without a gradient
  is passed over by rules on gradients.
- Where a rule works on a batch of its own, it gets that of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from benchmarks.gauntlet.observing import Activation, Check, Observed, Weights
from benchmarks.gauntlet.outcome import Alarm

MEANS: dict[str, dict[str, str]] = {
    "AutoTrainer": {
        "dying ReLU": "dead_units vanishing_gradient underflow frozen_parameters",
        "exploding gradient": "exploding_gradient nonfinite diverging_loss loss_spike bad_initialization",
        "vanishing gradient": "vanishing_gradient underflow bad_initialization saturated_units attention_collapse",
        "slow convergence": "stalled_training clipping_bound underflow",
        "oscillating loss": "oscillating_loss loss_spike diverging_loss",
    },
    "DeepDiagnosis": {
        "numerical error": "nonfinite exploding_gradient diverging_loss underflow",
        "output all zero": "dead_units bad_initialization symmetric_units frozen_parameters",
        "dead node": "dead_units",
        "saturated activation": "saturated_units",
        "invalid loss": "nonfinite exploding_gradient diverging_loss output_mismatch",
        "loss not decreasing": "stalled_training frozen_parameters",
        "zero gradient": "vanishing_gradient dead_units symmetric_units frozen_parameters underflow",
        "vanishing gradient": "vanishing_gradient underflow",
        "zero weights": "bad_initialization symmetric_units",
        "unchanged weights": "stalled_training frozen_parameters underflow",
        "cause: poor weights": "bad_initialization symmetric_units",
        "cause: data not normalized": "unscaled_inputs",
        "cause: learning rate": "stalled_training oscillating_loss diverging_loss loss_spike clipping_bound",
    },
    "SageMaker Debugger": {
        "VanishingGradient": "vanishing_gradient underflow frozen_parameters",
        "ExplodingTensor": "nonfinite exploding_gradient diverging_loss underflow",
        "WeightUpdateRatio large": "exploding_gradient diverging_loss oscillating_loss loss_spike bad_initialization",
        "WeightUpdateRatio small": "stalled_training frozen_parameters vanishing_gradient underflow clipping_bound",
        "DeadRelu": "dead_units",
        "SaturatedActivation": "saturated_units bad_initialization",
    },
    "TheDeepChecker": {
        "constant weights": "symmetric_units bad_initialization",
        "numerical instability": "nonfinite exploding_gradient diverging_loss underflow",
        "dead layer": "dead_units",
        "saturated layer": "saturated_units",
        "unstable activation range": "bad_initialization unscaled_inputs rank_collapse",
        "vanishing gradient": "vanishing_gradient underflow bad_initialization",
        "exploding gradient": "exploding_gradient diverging_loss loss_spike bad_initialization unscaled_inputs",
        "untrained parameter": "frozen_parameters stalled_training underflow",
        "updates too large": "exploding_gradient oscillating_loss diverging_loss loss_spike",
        "updates too small": "stalled_training frozen_parameters vanishing_gradient underflow clipping_bound",
        "loss stagnates": "stalled_training clipping_bound",
        "loss diverges": "diverging_loss loss_spike exploding_gradient",
    },
}

_WINDOW = 5


class _Book:
    """The alarms of one peer, each rule once, in the order in which they were raised."""

    def __init__(self, peer: str) -> None:
        self._means = MEANS[peer]
        self.alarms: list[Alarm] = []

    def add(self, rule: str, check: Check, text: str = "", causes: Sequence[str] = ()) -> None:
        """Notes a rule that holds; ``causes`` are what the peer blames it on, which only adds to how it can be read."""
        if all(alarm.name != rule for alarm in self.alarms):
            kinds = " ".join(self._means[name] for name in (rule, *causes)).split()
            text = ", ".join((text, *causes)) if text else ", ".join(causes)
            self.alarms.append(Alarm(rule, tuple(dict.fromkeys(kinds)), check.step, (), text))


def _matrices(check: Check) -> list[Weights]:
    return [w for w in check.weights if w.matrix]


def _broken(check: Check) -> bool:
    """Something that is not finite: the loss, a weight, a gradient, an activation."""
    things = (*check.weights, *check.activations)
    return not math.isfinite(check.loss) or any(not thing.finite for thing in things)


def _over(a: float, b: float) -> float:
    return a / b if b else math.nan


def autotrainer(seen: Observed, good: float) -> list[Alarm]:
    """AutoTrainer (Zhang et al., ICSE 2021), its default thresholds.

    What the gradients showed in any epoch counts once accuracy is found bad, and one problem is reported, in
    the order in which its implementation asks.
    """
    del good
    book, scores, symptoms = _Book("AutoTrainer"), [_number(seen.initial)], set()
    for check in (c for c in seen.checks if c.score is not None):
        scores.append(_number(check.score))
        if _broken(check) or check.loss >= 1e5:
            book.add("exploding gradient", check, "not finite")
            return book.alarms
        graded = [w for w in _matrices(check) if w.gradient is not None]
        if graded:
            first, last = graded[0].gradient_norm, graded[-1].gradient_norm
            zeros, size = sum(w.zeros for w in check.weights), sum(w.size for w in check.weights)
            symptoms |= {"dying ReLU"} if zeros >= 0.7 * size else set()
            symptoms |= {"exploding gradient"} if _over(first, last) > 70 else set()
            symptoms |= {"vanishing gradient"} if _over(first, last) < 1e-3 and first < 1e-4 else set()
        if len(scores) - 1 < 0.3 * seen.epochs:
            continue
        slow = max(b - a for a, b in pairwise(scores)) < 0.01
        if max(scores) < 0.6 or slow:
            symptoms |= {"slow convergence"} if slow else set()
            found = next((rule for rule in MEANS["AutoTrainer"] if rule in symptoms), None)
        else:
            found = "oscillating loss" if _swings(scores) >= 0.2 * len(scores) else None
        if found:
            book.add(found, check)
            return book.alarms
    return book.alarms


def _number(score: float | None) -> float:
    return score if score is not None and math.isfinite(score) else 0.0


def _swings(scores: Sequence[float]) -> int:
    """Pairs of a local maximum and a local minimum, in their order, that are 0.03 or more apart."""
    inner = range(1, len(scores) - 1)
    high = [scores[i] for i in inner if scores[i] >= max(scores[i - 1], scores[i + 1])]
    low = [scores[i] for i in inner if scores[i] <= min(scores[i - 1], scores[i + 1])]
    return sum(a - b >= 0.03 for a, b in zip(high, low, strict=False))


def deepdiagnosis(seen: Observed, good: float) -> list[Alarm]:
    """DeepDiagnosis (Wardat et al., ICSE 2022): the first symptom at the end of an epoch, with what is blamed for it.

    Weights and learning rate are no symptoms there but causes that are looked for when there is one. All that hold
    are taken rather than the first. A mean of exactly zero is read as all zero: where gradients of
    different signs add up to it by rounding, it says nothing.
    """
    del good
    book = _Book("DeepDiagnosis")
    ends = [c for c in seen.checks if c.score is not None]
    for number, check in enumerate(ends, 1):
        symptom = _symptom(ends[max(0, number - _WINDOW) : number], last=number == seen.epochs)
        if symptom:
            book.add(symptom, check, causes=_causes(check))
            break
    return book.alarms


def _symptom(recent: Sequence[Check], *, last: bool) -> str | None:
    check, matrices = recent[-1], _matrices(recent[-1])
    whole = len(recent) == _WINDOW
    unchanged = whole and any(
        len({check.weights[i].mean for check in recent}) == 1 for i, w in enumerate(check.weights) if w.matrix
    )
    relus = [a for a in check.activations if a.function == "relu"]
    asked = {
        "numerical error": any(not thing.finite for thing in (*check.activations, *check.weights)),
        "output all zero": any(a.all_zero for a in check.activations),
        "dead node": last and any(a.nonpositive >= 0.7 for a in relus),
        "saturated activation": any(a.beyond_5 > 0.5 for a in check.activations),
        "invalid loss": not math.isfinite(check.loss),
        "loss not decreasing": whole and len({c.loss for c in recent}) == 1,
        "zero gradient": any(w.gradient == 0 for w in matrices),
        "vanishing gradient": any(w.gradient is not None and w.gradient < 1e-7 for w in matrices),
        "zero weights": any(w.magnitude == 0 for w in matrices),
        "unchanged weights": unchanged,
    }
    return next((name for name, holds in asked.items() if holds), None)


def _causes(check: Check) -> list[str]:
    matrices = _matrices(check)
    ratios = [_over(w.rate * w.gradient_norm, w.norm) for w in matrices]
    low, high = check.inputs or (0.0, 0.0)
    asked = {
        "cause: poor weights": any(w.variance < 1e-5 or w.variance > 10 for w in matrices),
        "cause: data not normalized": low < -1 or high > 1,
        "cause: learning rate": any(r < 1e-5 or r > 0.1 for r in ratios),
    }
    return [name for name, holds in asked.items() if holds]


def sagemaker(seen: Observed, good: float) -> list[Alarm]:
    """SageMaker Debugger, the built-in rules on tensors with their default parameters, all of them switched on.

    Its rule on gradients sees biases too, that on updates the collection of weights. LossNotDecreasing is left out: at
    0.1 % in ten steps it is for losses that are means over many batches, and any noise sets it off.
    """
    del good
    book = _Book("SageMaker Debugger")
    for check in seen.checks:
        relus = [a for a in check.activations if a.function == "relu"]
        ratios = [w.update / (w.magnitude + 1e-9) for w in _matrices(check)]
        asked = {
            "ExplodingTensor": _broken(check),
            "VanishingGradient": any(w.gradient is not None and w.gradient < 1e-7 for w in check.weights),
            "WeightUpdateRatio large": any(ratio > 10 for ratio in ratios),
            "WeightUpdateRatio small": any(ratio < 1e-8 for ratio in ratios),
            "DeadRelu": any(a.silent_units > 0.5 for a in relus),
            "SaturatedActivation": any(a.beyond_limits > 0.5 for a in check.activations),
        }
        for rule, holds in asked.items():
            if holds:
                book.add(rule, check)
    return book.alarms


def thedeepchecker(seen: Observed, good: float) -> list[Alarm]:
    """TheDeepChecker (Ben Braiek and Khomh, TOSEM 2023), the checks that run during training.

    Its trainings end when the performance asked for is reached; here its checks do, at the end of an epoch whose
    score is what the case calls good. Windows are of five checks.
    """
    book = _Book("TheDeepChecker")
    for number, check in enumerate(seen.checks, 1):
        for rule, holds in _checked(seen.checks[max(0, number - _WINDOW) : number]).items():
            if holds:
                book.add(rule, check)
        if check.score is not None and check.score >= good:
            break
    return book.alarms


def _checked(recent: Sequence[Check]) -> dict[str, bool]:
    check, losses = recent[-1], [c.loss for c in recent]
    whole = len(recent) == _WINDOW
    matrices, sound = _matrices(check), [i for i, w in enumerate(check.weights) if w.matrix and w.finite]
    last = [g for i in sound if (g := check.weights[i].gradient) is not None]
    gradients = [[g for c in recent if (g := c.weights[i].gradient) is not None] for i in sound]
    rates = [[_over(b, a) for a, b in pairwise(g)] for g in gradients if len(g) == _WINDOW]
    logs = [_mean_log([c.weights[i] for c in recent]) for i in sound]
    drops = [_over(a - b, a) for a, b in pairwise(losses)]
    return {
        "constant weights": check.step == 1 and any(w.variance < 1e-16 for w in matrices),
        "numerical instability": _broken(check),
        "dead layer": any(_dead(a) for a in check.activations),
        "saturated layer": any(a.extreme_units > 0.5 for a in check.activations),
        "unstable activation range": any(a.finite and not 0.5 <= a.std <= 2 for a in check.activations),
        "vanishing gradient": any(g < 1e-6 for g in last) or any(all(r <= 0.5 for r in rs) for rs in rates),
        "exploding gradient": any(g > 1e6 for g in last) or any(all(r >= 2 for r in rs) for rs in rates),
        "untrained parameter": whole and any(value is None for value in logs),
        "updates too large": whole and any(value is not None and value > -1 for value in logs),
        "updates too small": whole and any(value is not None and value < -4 for value in logs),
        "loss stagnates": whole and all(drop < 0.05 for drop in drops),
        "loss diverges": whole and all(_over(b, a) >= 2 for a, b in pairwise(losses)),
    }


def _dead(a: Activation) -> bool:
    return a.function not in ("tanh", "sigmoid") and a.faint_units > 0.5


def _mean_log(rows: Sequence[Weights]) -> float | None:
    """Mean decimal logarithm of update over weight, NaN for weights of zero; ``None`` if no update was made at all."""
    rows = [w for w in rows if w.finite and w.magnitude > 0]
    logs = [math.log10(w.update / w.magnitude) for w in rows if w.update > 0]
    return sum(logs) / len(logs) if logs else None if rows else math.nan


PEERS: dict[str, Callable[[Observed, float], list[Alarm]]] = {
    "AutoTrainer": autotrainer,
    "DeepDiagnosis": deepdiagnosis,
    "SageMaker Debugger": sagemaker,
    "TheDeepChecker": thedeepchecker,
}
