"""Reference networks, as plain as they come."""

from gradiometer.networks.mlp import mlp

__all__ = ["mlp"]
