"""The failures a user can cause or meet, each with the exit code that a batch script can act on."""

from __future__ import annotations

#: Exit status after Ctrl-C, as shells give it: 128 and the signal's number.
INTERRUPTED = 130


class LsgdError(Exception):
    """A failure that ends the program with one sentence instead of a traceback.

    ``exit_code`` is the process's exit status; the message says what was given, what is allowed,
    and what to change. ``agreed`` is true where all ranks raise the same error together; then the job ends in
    an orderly way, and otherwise it is aborted. ``reporter`` names the one world rank that prints the
    sentence where several ranks know of the failure.
    """

    exit_code = 1
    agreed = False
    reporter: int | None = None


class UsageError(LsgdError, ValueError):
    """An unknown, contradictory or impossible option or argument."""

    exit_code = 2


class SetupError(LsgdError, RuntimeError):
    """MPI, Horovod or the launcher is not what training needs."""

    exit_code = 3


class DataError(LsgdError, RuntimeError):
    """A data set that is missing, broken or too small."""

    exit_code = 4


class RunDirectoryError(LsgdError, RuntimeError):
    """A run directory that cannot be written, or that is not one."""

    exit_code = 5


class NumericalError(LsgdError, ArithmeticError):
    """Training diverged: no rank has a finite loss."""

    exit_code = 6


class CommunicationError(LsgdError, RuntimeError):
    """A rank did not answer, or a collective failed."""

    exit_code = 7
