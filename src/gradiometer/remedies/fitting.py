"""Loss functions that fit what a network gives, made of the loss function that there is."""

from __future__ import annotations

import torch

SMALLEST = 1e-30
"""Probability below which a logarithm is not taken: its gradient has long been that of certainty."""


def of_outputs(loss, change):
    """The loss of changed outputs."""
    return lambda outputs, targets: loss(change(outputs), targets)


def of_same_shape(loss):
    """The loss of targets in the shape of the outputs, where only that tells them apart."""
    return lambda outputs, targets: loss(outputs, targets.reshape(outputs.shape))


def of_targets_between(loss, low, high):
    """The loss of targets from ``low`` to ``high``, brought to 0 to 1."""
    return lambda outputs, targets: loss(outputs, (targets - low) / (high - low))


def of_known_classes(loss):
    """The loss of the examples whose class is none of the negative numbers that mark what is to be left out."""
    return lambda outputs, targets: loss(outputs[targets >= 0], targets[targets >= 0])


def negated(loss):
    """The loss with its sign turned around."""
    return lambda outputs, targets: -loss(outputs, targets)


def mean_of(loss):
    """A loss that sums, over the number of targets."""
    return lambda outputs, targets: loss(outputs, targets) / targets.numel()


def of_classes(outputs, targets):
    """Cross-entropy of raw scores, with class numbers or one-hot rows as targets."""
    return torch.nn.functional.cross_entropy(outputs, targets)


def of_yes_or_no(outputs, targets):
    """Binary cross-entropy of raw scores, with zeros and ones as targets."""
    targets = targets.reshape(outputs.shape).to(outputs.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)


def of_probabilities(outputs, targets):
    """Binary cross-entropy of probabilities, with zeros and ones as targets."""
    targets = targets.reshape(outputs.shape).to(outputs.dtype)
    return torch.nn.functional.binary_cross_entropy(outputs, targets)


INVERSES = {
    "softmax": "outputs.clamp_min(1e-30).log()",
    "sigmoid": "torch.logit(outputs, 1e-6)",
    "tanh": "torch.atanh(outputs.clamp(-1 + 1e-6, 1 - 1e-6))",
}
"""For each activation of the outputs, how raw scores come out of them again."""


def raw(operation: str):
    """The function that does so.

    Example:
        >>> float(raw("sigmoid")(torch.tensor(0.5)))
        0.0
    """
    return {
        "softmax": lambda outputs: outputs.clamp_min(SMALLEST).log(),
        "sigmoid": lambda outputs: torch.logit(outputs, 1e-6),
        "tanh": lambda outputs: torch.atanh(outputs.clamp(-1 + 1e-6, 1 - 1e-6)),
    }.get(operation, lambda outputs: outputs)
