"""Reading nested JSON that may lack entries: what is not there, or not of the kind asked for, is None."""

import math
from collections.abc import Mapping
from typing import Any


def at(document: Any, *path: str) -> Any:
    """The entry at a path of keys, or None.

    >>> at({"a": {"b": 1}}, "a", "b"), at({"a": 1}, "a", "b")
    (1, None)
    """
    for key in path:
        if not isinstance(document, Mapping):
            return None
        document = document.get(key)
    return document


def number(document: Any, *path: str) -> float | None:
    """The finite number at a path, or None.

    >>> number({"a": 2}, "a"), number({"a": "2"}, "a"), number({"a": float("nan")}, "a")
    (2, None, None)
    """
    value = at(document, *path)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if usable else None


def text(document: Any, *path: str) -> str:
    """The string at a path, or an empty one.

    >>> text({"a": "x"}, "a"), text({"a": 1}, "a")
    ('x', '')
    """
    value = at(document, *path)
    return value if isinstance(value, str) else ""


def mappings(document: Any, *path: str) -> list[Mapping[str, Any]]:
    """The mappings in the list at a path; whatever else is in it is left out.

    >>> mappings({"a": [{"b": 1}, 2]}, "a"), mappings({}, "a")
    ([{'b': 1}], [])
    """
    value = at(document, *path)
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list | tuple) else []


def numbers(document: Any, *path: str) -> list[float]:
    """The list at a path as floats, nan where an entry is no number.

    >>> numbers({"a": [1, None, 2.5]}, "a")
    [1.0, nan, 2.5]
    """
    value = at(document, *path)
    if not isinstance(value, list | tuple):
        return []
    return [float(entry) if isinstance(entry, int | float) else math.nan for entry in value]
