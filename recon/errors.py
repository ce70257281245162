"""One exception tree; each class carries the exit code of the command line.

A `ReconError` is an error that the user can mend: its message says what was expected and what was found
(shapes and names, never data), its `hint` says what to do next.
"""

from __future__ import annotations


class ReconError(Exception):
    """An error that the user can mend; printed as one line and a hint."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ReconError):
    """The command was called in a way that cannot work."""

    exit_code = 2


class InputError(ReconError):
    """An input cannot be read, or has the wrong shape, axes or values."""

    exit_code = 3


class ConfigError(ReconError):
    """A preset, key, method, operator or prior is unknown, invalid, or does not fit the others."""

    exit_code = 4


class OutputExistsError(ReconError):
    """An output is already there and `--force` was not given."""

    exit_code = 5


class NumericalError(ReconError):
    """A computation became non-finite or diverged."""

    exit_code = 6


class ResourceError(ReconError):
    """A file, device, folder, memory or disk space is missing."""

    exit_code = 7


class ThresholdError(ReconError):
    """A condition given with `--fail-if` was met."""

    exit_code = 8


class BatchError(ReconError):
    """Some items of a batch failed."""

    exit_code = 9
