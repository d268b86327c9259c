"""Libraries that only some commands need: imported when asked for, and missed with the line that installs them."""

import importlib
from types import ModuleType

from spectrim.errors import UnsupportedError


def load(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: Dotted name, "sklearn.datasets".
        extra: The extra of this package that brings it.
        purpose: What was asked for, the subject of the message.

    Raises:
        UnsupportedError: It is not installed; the message has the pip line.

    >>> load("json", extra="train", purpose="a document").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # it is there, and something that it needs is not: the traceback says more than we could
        raise UnsupportedError(
            f"{purpose} needs the package {top!r}, which is not installed. Run: pip install 'spectrim[{extra}]'"
        ) from error
