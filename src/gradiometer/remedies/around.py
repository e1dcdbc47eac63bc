"""A module around a network: what all such wrappers share."""

from __future__ import annotations

import torch


class Around(torch.nn.Module):
    """A module around a network, which answers for what else is asked of the network."""

    def __init__(self, network):
        """What it stands around is ``network``."""
        super().__init__()
        self.network = network

    def __getattr__(self, name):
        """What it has not itself, the network may have."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def __getitem__(self, index):
        """A part of a network that is a sequence."""
        return self.network[index]

    def forward(self, *args, **kwargs):
        """What the network gives."""
        return self.network(*args, **kwargs)
