"""What a remedy is, and what is known when one is chosen."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import nn

from gradiometer.errors import GradiometerError
from gradiometer.records import Diagnosis, Reading
from gradiometer.remedies.anatomy import Anatomy, anatomy
from gradiometer.remedies.recipe import Recipe

Group = Literal["data", "activation", "connection", "normalization", "initialization", "loss", "optimization"]

GROUPS: tuple[Group, ...] = (
    "data",
    "activation",
    "connection",
    "normalization",
    "initialization",
    "loss",
    "optimization",
)
"""In the order in which the parts of a combination are carried out: an initialization looks at the activations and
normalizations that are there, so it comes after them."""


class UnusableError(GradiometerError):
    """A remedy that cannot be used on this network; the text says why, and what the user would have to change."""


@dataclass(frozen=True)
class Situation:
    """What is known of a recipe when its remedies are chosen.

    ``model`` is the untreated network as it is made (never to be changed), ``batch`` the first batch, ``birth`` one
    measured pass of both, ``early`` and ``last`` the first and the newest reading of the untreated training,
    ``losses`` those of its steps; ``stands`` says that they do not fall, whatever the findings say of it.
    """

    recipe: Recipe
    model: nn.Module
    batch: Any
    diagnosis: Diagnosis
    birth: Reading | None = None
    early: Reading | None = None
    last: Reading | None = None
    losses: tuple[float, ...] = ()
    stands: bool = False

    @cached_property
    def anatomy(self) -> Anatomy:
        """What the untreated network does, call by call."""
        return anatomy(self.model, self.batch)


@dataclass(frozen=True)
class Code:
    """What a user would write.

    ``imports`` and ``classes`` go to the top of the script; ``model`` are statements on a variable ``model`` just after
    it is built, ``optimizer`` on ``optimizer``; ``loss`` are statements on ``loss``, the loss function; ``step`` are
    lines between ``loss.backward()`` and ``optimizer.step()``, ``after_step`` those after it.
    """

    imports: tuple[str, ...] = ()
    classes: tuple[type | Callable[..., Any], ...] = ()
    model: str = ""
    optimizer: str = ""
    loss: str = ""
    step: str = ""
    after_step: str = ""

    @property
    def definitions(self) -> str:
        """The source of the classes and functions, as they stand in this package."""
        return "\n\n\n".join(_LINTER.sub("", inspect.getsource(one)).rstrip() for one in self.classes)


_LINTER = re.compile(r"  # (noqa|type: ignore).*")
"""Words to our own tools, which are nothing to a user."""


def _no_objection(_: Situation) -> str | None:
    return None


@dataclass(frozen=True)
class Proof:
    """A sick recipe that a remedy must cure: with it the score reaches ``good`` and without it does not."""

    recipe: Callable[[], Recipe]
    good: float


@dataclass(frozen=True)
class Remedy:
    """A change to a recipe that treats a finding.

    ``name`` is how it is asked for, ``title`` how it is told. ``treats`` are kinds of finding, ``changes_function``
    says whether the network computes something else with the same parameters. ``model`` changes a network, a fresh one
    or one in memory, and returns it; ``recipe`` changes whatever else there is. ``unusable`` says why it must not be
    used, or ``None``. ``proofs`` are the sick recipes that show its effect. ``parts`` are those of a combination, and
    empty of a single remedy.
    """

    name: str
    title: str
    group: Group
    treats: tuple[str, ...]
    changes_function: bool
    source: str
    code: Callable[[Situation], Code]
    model: Callable[[nn.Module, Situation], nn.Module] | None = None
    recipe: Callable[[Recipe, Situation], Recipe] | None = None
    unusable: Callable[[Situation], str | None] = _no_objection
    proofs: tuple[Proof, ...] = field(default=(), repr=False)
    parts: tuple[Remedy, ...] = ()


def applied(recipe: Recipe, remedy: Remedy, situation: Situation) -> Recipe:
    """The recipe with a remedy."""
    change = remedy.model
    if change is not None:
        recipe = recipe.with_model(lambda model: change(model, situation))
    return remedy.recipe(recipe, situation) if remedy.recipe is not None else recipe


def treated(recipe: Recipe, remedies: tuple[Remedy, ...], situation: Situation) -> Recipe:
    """The recipe with several remedies, carried out in the order of `GROUPS`."""
    for remedy in in_order(remedies):
        recipe = applied(recipe, remedy, situation)
    return recipe


def in_order(remedies: Iterable[Remedy]) -> list[Remedy]:
    """In the order in which they are carried out."""
    return sorted(remedies, key=lambda remedy: GROUPS.index(remedy.group))
