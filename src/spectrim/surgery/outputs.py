"""The tensors in what a forward returns, whatever holds them."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Every tensor in nested sequences, mappings and the attributes of other objects (data classes, boxes), each once.

    torch's own trees hold an object that is not registered with them for one leaf, and so do not see into it.

    >>> from types import SimpleNamespace
    >>> list(tensors_in({"logits": Tensor([1]), "more": [SimpleNamespace(features=Tensor([2])), None, 3]}))
    [tensor([1.]), tensor([2.])]
    """
    return _found(output, set())


def _found(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen or isinstance(value, str | bytes | int | float | complex | None):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        inside = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        inside = list(value)
    else:
        slots = [name for each in type(value).__mro__ for name in getattr(each, "__slots__", ())]
        inside = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
    for each in inside:
        yield from _found(each, seen)
