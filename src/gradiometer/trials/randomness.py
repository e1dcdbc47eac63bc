"""The random states that belong to one training, whatever else runs in the process."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch


class RandomStates:
    """The random states of one training: put in place on entering, kept on leaving, the others put back.

    ``torch_only`` leaves out the generators of Python and numpy.
    """

    def __init__(self) -> None:
        """Begins with the states that are found on entering."""
        self.torch_only = False
        self._own: _States | None = None
        self._others = self._before = _NOTHING

    def __enter__(self) -> RandomStates:
        """Puts them in place."""
        self._others = _states(self.torch_only)
        if self._own is not None:
            _set(self._own, self.torch_only)
        self._before = self._own or self._others
        return self

    def __exit__(self, *_: Any) -> None:
        """Keeps them, and puts the others back."""
        self.keep()
        _set(self._others, self.torch_only)

    def keep(self) -> None:
        """The states as they are now are this training's."""
        now = _states(self.torch_only)
        self._own = now._replace(plain=self._own.plain) if self.torch_only and self._own is not None else now

    @property
    def plain_moved(self) -> bool:
        """Whether anything was drawn from Python's or numpy's generator when they were in place last."""
        return self._own is not None and not _same(self._own.plain, self._before.plain)

    @property
    def moved(self) -> bool:
        """Whether anything was drawn from any generator when they were in place last."""
        return self._own is not None and (self.plain_moved or not torch.equal(self._own.torch, self._before.torch))


class _States(NamedTuple):
    torch: torch.Tensor
    cuda: list[torch.Tensor] | None
    plain: tuple[Any, Any] | None  # of Python and of numpy


_NOTHING = _States(torch.empty(0), None, None)


def _states(torch_only: bool) -> _States:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return _States(torch.get_rng_state(), cuda, None if torch_only else (random.getstate(), np.random.get_state()))


def _set(states: _States, torch_only: bool) -> None:
    torch.set_rng_state(states.torch)
    if states.cuda is not None:
        torch.cuda.set_rng_state_all(states.cuda)
    if states.plain is not None and not torch_only:
        random.setstate(states.plain[0])
        np.random.set_state(states.plain[1])


def _same(a: tuple[Any, Any] | None, b: tuple[Any, Any] | None) -> bool:
    if a is None or b is None:
        return a is b
    (_, keys, *rest), (_, keys_then, *rest_then) = a[1], b[1]
    return a[0] == b[0] and rest == rest_then and np.array_equal(keys, keys_then)


def seed_everything(seed: int) -> None:
    """The generators of torch, Python and numpy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
