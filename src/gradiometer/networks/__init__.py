"""Reference networks, as plain as they come."""

from gradiometer.networks.convolutional import convolutional
from gradiometer.networks.mlp import mlp
from gradiometer.networks.recurrent import recurrent
from gradiometer.networks.transformer import transformer

__all__ = ["convolutional", "mlp", "recurrent", "transformer"]
