"""Fully connected networks."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

_ACTIVATIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}
_GAINS = {"sigmoid": 1.0, "tanh": 5 / 3, "relu": 2**0.5}


def mlp(inputs: int, width: int, depth: int, outputs: int, activation: str = "relu") -> nn.Sequential:
    """A chain of ``depth`` hidden layers, weights ``N(0, gain^2 / fan_in)``, biases zero.

    Formula: ``h_l = f(W_l h_{l-1})`` with ``Var W = gain^2 / fan_in``: Xavier's variance (gain 1) for sigmoid,
    PyTorch's 5/3 for tanh, He's sqrt(2) for ReLU.

    Args:
        inputs, width, depth, outputs: numbers of input units, hidden units, hidden layers, output units.
        activation: ``"sigmoid"``, ``"tanh"`` or ``"relu"``.

    Returns:
        A sequential module with layers ``hidden1``, ``act1``, ..., ``output``.

    Raises:
        KeyError: for another activation.

    Example:
        >>> [name for name, _ in mlp(64, 32, 2, 10).named_children()]
        ['hidden1', 'act1', 'hidden2', 'act2', 'output']

    Source:
        Glorot and Bengio (2010), equation 12 with n_in for both; He et al., Delving deep into rectifiers (2015),
        equation 10.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth):
        layers[f"hidden{i + 1}"] = _linear(inputs if i == 0 else width, width, _GAINS[activation])
        layers[f"act{i + 1}"] = _ACTIVATIONS[activation]()
    layers["output"] = _linear(width if depth else inputs, outputs, 1.0)
    return nn.Sequential(layers)


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=gain / inputs**0.5)
    nn.init.zeros_(layer.bias)
    return layer
