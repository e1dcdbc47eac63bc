"""Everything this package raises on purpose.

    GradiometerError
    ├── InputError (ValueError)      what a caller handed over cannot be used
    ├── UnhealthyError (AssertionError)  a network fails `assert_healthy`
    └── RunError                     a run cannot be read or written
        ├── NotARunError             the file is something else, empty, or absent
        ├── NewerRunError            written by a later version of this package
        └── DamagedRunError          a run of ours in which nothing can be read any more

    GradiometerWarning (UserWarning) something the reader should know; training goes on

A text says what happened, why it matters, and the one thing to change.
"""

from typing import Any


class GradiometerError(Exception):
    """Root of all errors of this package."""


class InputError(GradiometerError, ValueError):
    """What a caller handed over cannot be used."""


class UnhealthyError(GradiometerError, AssertionError):
    """A network fails `assert_healthy`; made from the `Diagnosis`, whose text it tells."""

    @property
    def diagnosis(self) -> Any:
        """The whole `Diagnosis`."""
        return self.args[0]


class RunError(GradiometerError):
    """A run cannot be read or written."""


class NotARunError(RunError):
    """The file is not a run of this package."""


class NewerRunError(RunError):
    """The run was written by a later version of this package."""


class DamagedRunError(RunError):
    """The file was a run, and nothing in it can be read any more."""


class GradiometerWarning(UserWarning):
    """Something the reader should know; the training goes on."""
