"""Which exceptions are messages to the user, and which are faults of the program."""

from collections.abc import Iterator
from contextlib import contextmanager

from spectrim.errors import SpectrimError


class BadValueError(Exception):
    """A value given on the command line is out of range; the message is the library's."""


class StoppedError(Exception):
    """A run was stopped on request."""


@contextmanager
def values() -> Iterator[None]:
    """In the block, a ``ValueError`` is about what the user typed."""
    try:
        yield
    except ValueError as error:
        raise BadValueError(str(error)) from error


def is_expected(error: Exception) -> bool:
    """Whether to print one sentence in place of a traceback."""
    return isinstance(error, SpectrimError | BadValueError | StoppedError)


def status_of(error: Exception) -> int:
    """The exit status."""
    return 130 if isinstance(error, StoppedError) else 2
