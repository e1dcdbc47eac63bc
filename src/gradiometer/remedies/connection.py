"""Other ways for a signal through a network: skips, dense connections, gates."""

from __future__ import annotations

from gradiometer.remedies.base import Remedy
from gradiometer.remedies.deepnorm import DEEPNORM
from gradiometer.remedies.dense import DENSE
from gradiometer.remedies.fixup import FIXUP
from gradiometer.remedies.gated import GATED
from gradiometer.remedies.residual import RESIDUAL

REMEDIES: tuple[Remedy, ...] = (*RESIDUAL, FIXUP, DENSE, DEEPNORM, *GATED)
