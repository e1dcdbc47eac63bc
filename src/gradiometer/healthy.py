"""`assert_healthy`: a network's first pass as a test in somebody's own suite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from gradiometer.errors import InputError, UnhealthyError
from gradiometer.probe.given import Loss
from gradiometer.probe.measure import measure
from gradiometer.records import Diagnosis, Severity
from gradiometer.records.diagnosis import SEVERITIES
from gradiometer.rules import diagnose


def assert_healthy(
    model: nn.Module,
    batch: Any,
    loss: Loss | None = None,
    *,
    ignore: Iterable[str] | None = None,
    severity: Severity = "warning",
) -> Diagnosis:
    """Fails if one forward and one backward pass show that the network is not healthy.

    Formula: ``diagnose(measure(model, batch, loss))`` has no finding of at least ``severity``. One pass shows what is
    wrong with a network as it stands, not whether it learns; it leaves no trace in the model.

    Args:
        model: the network, in the mode in which it is trained.
        batch: ``(inputs, targets)`` or a mapping, as for `gradiometer.measure`; with a few hundred examples dead units
            can be told from units that happen to be off.
        loss: ``loss(outputs, targets)``, a scalar; it may be left out for a mapping.
        ignore: findings that are no failure: kinds (``"dead_units"``), sites (``"blocks.3.*"``) or both
            (``"dead_units:blocks.3.*"``); ``None`` takes what ``[tool.gradiometer]`` in ``pyproject.toml`` says.
        severity: the lowest that fails, ``"warning"`` or ``"critical"``.

    Returns:
        The `Diagnosis`, which may still hold findings below ``severity``.

    Raises:
        UnhealthyError: an ``AssertionError`` whose text is the diagnosis, and whose ``diagnosis`` holds it.
        InputError: an unknown severity or kind; whatever `gradiometer.measure` cannot use.

    Example:
        >>> import torch
        >>> from gradiometer.networks import mlp
        >>> batch = torch.randn(64, 16), torch.randint(10, (64,))
        >>> assert_healthy(mlp(16, 32, 3, 10, "relu"), batch, nn.functional.cross_entropy).healthy
        True
        >>> assert_healthy(mlp(16, 32, 20, 10, "sigmoid"), batch, nn.functional.cross_entropy)
        Traceback (most recent call last):
        gradiometer.errors.UnhealthyError: ... not healthy
        ...

    Source:
        none: a convenience.
    """
    __tracebackhide__ = True  # pytest then points at the line of the test
    if severity not in SEVERITIES[1:]:
        raise InputError(f"severity is {severity!r}, and must be one of {', '.join(SEVERITIES[1:])}.")
    diagnosis = diagnose(measure(model, batch, loss), ignore=ignore)
    if diagnosis.reaches(severity):
        raise UnhealthyError(diagnosis)
    return diagnosis
