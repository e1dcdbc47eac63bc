"""What a case of the cure is: a recipe that does not learn, and the same recipe without the fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.gauntlet.training import KINDS

from gradiometer.remedies.recipe import Recipe

Make = Callable[[bool], Recipe]


@dataclass(frozen=True)
class Case:
    """A sick recipe with its healthy twin, or a healthy recipe alone.

    ``make(sick)`` builds the recipe; the fault is all that ``sick`` changes. Its ``evaluate`` is a score on examples
    that are not trained on: 1 is perfect and 0 a constant guess (accuracy above chance, the share of the variance
    explained). ``kinds`` are the kinds of finding that the fault may show as, best one first; empty for a healthy
    recipe, to which nothing may be prescribed. ``classic`` marks a case of the literature that is always told by name.
    """

    name: str
    make: Make
    kinds: tuple[str, ...] = ()
    classic: bool = False


@dataclass
class Cases:
    """The cases of one file, in a list that the runner reads."""

    all: list[Case] = field(default_factory=list)

    def sick(self, *kinds: str, classic: bool = False, name: str | None = None) -> Callable[[Make], Make]:
        """Registers a function of one argument, ``sick``, as a case with a fault that ``sick=True`` plants."""
        unknown = set(kinds) - set(KINDS)
        if unknown or not kinds:
            raise ValueError(f"not kinds of finding: {unknown or 'none given'}")

        def add(make: Make) -> Make:
            self.all.append(Case(name or make.__name__, make, kinds, classic))
            return make

        return add

    def healthy(self, *, name: str | None = None) -> Callable[[Callable[[], Recipe]], Callable[[], Recipe]]:
        """Registers a function without arguments as a recipe that needs nothing."""

        def add(make: Callable[[], Recipe]) -> Callable[[], Recipe]:
            self.all.append(Case(name or make.__name__, lambda _: make()))
            return make

        return add
