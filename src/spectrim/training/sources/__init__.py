"""Where images come from: ``digits``, ``mnist:DIR``, ``cifar10:PATH``, ``images:DIR``, ``npz:FILE`` and ``hf:NAME``."""

import importlib
from pathlib import Path
from types import MappingProxyType

from spectrim.errors import DataError
from spectrim.training.source import Source

SOURCES = MappingProxyType(
    {
        "digits": "",
        "mnist": "DIR",
        "cifar10": "PATH",
        "images": "DIR",
        "npz": "FILE",
        "hf": "NAME",
    }
)
"""The schemes that :func:`open_source` knows, each with what follows its colon."""


def open_source(text: str, *, image_size: int | None = None) -> Source:
    """Open a data source by its name.

    Args:
        text: Scheme and place: ``digits``, or ``mnist:data/mnist``.
        image_size: Scale all images to a square of this side; what suits the source if None.

    Raises:
        DataError: There is no such source, or its files are missing, damaged or not what they should be.
        UnsupportedError: A library that only this source needs is not installed.
        ValueError: The size is not positive.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"the image size must be at least 1 pixel, got {image_size}.")
    scheme, _, place = text.partition(":")
    if scheme not in SOURCES:
        raise DataError(f"no data source {text!r}. There are {_listed()}.")
    if bool(place) != bool(SOURCES[scheme]):
        wanted = f"{scheme}:{SOURCES[scheme]}" if SOURCES[scheme] else scheme
        raise DataError(f"the data source {text!r} should read {wanted!r}.")
    room = f"spectrim.training.sources.{scheme}"
    opened: Source = importlib.import_module(room).open_source(text, place, image_size)
    return opened


def folder(place: str, *, name: str) -> Path:
    """The folder at a place.

    Raises:
        DataError: It is not there, or is a file.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise DataError(f"{name}: there is no folder {place!r}.{_neighbours(path)}")
    if not path.is_dir():
        raise DataError(f"{name}: {place!r} is a file, a folder was expected.")
    return path


def _neighbours(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f" Nor is there {str(parent)!r}."
    found = sorted(entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return f" {str(parent)!r} holds {', '.join(map(repr, found[:6]))}." if found else ""


def _listed() -> str:
    return ", ".join(f"{name}:{rest}" if rest else name for name, rest in SOURCES.items())
