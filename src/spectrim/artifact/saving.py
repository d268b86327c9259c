"""From a model to a file."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from spectrim.artifact.dtypes import name_of, narrowed
from spectrim.artifact.entries import aliases, bare, slots
from spectrim.artifact.layout import ByteCounts
from spectrim.artifact.norms import foldable, folded
from spectrim.artifact.structure import ComponentEntry, Norms, Part, Structure, TensorEntry
from spectrim.artifact.writer import write
from spectrim.errors import UnsupportedError
from spectrim.nn.component import JSON, Layer, components
from spectrim.surgery.edits import replace_module_
from spectrim.surgery.sites import coded

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float16,
    norms: Norms = "exact",
    provenance: Mapping[str, JSON] | None = None,
) -> ByteCounts:
    """Write a model to one small safetensors file: the packed codes, every other tensor, and what they are.

    The same model gives the same bytes. The file appears whole or not at all. docs/format.md specifies it.

    Args:
        model: Compressed or not, on any device; it stays as it is.
        path: Where; an existing file is replaced.
        dtype: In which floating-point numbers are written where they are wider now. A tensor that would lose more
            than rounding does (overflow, underflow) is written in float32. Whole numbers take no more bits than they need.
        norms: ``folded`` writes the four vectors of torch's own batch normalisations as two, which in eval mode is
            exact up to rounding; what is loaded is then for inference, not for more training. Subclasses may compute
            something else and are written whole.
        provenance: Notes for people, such as the command and the date; nothing reads them back.

    Returns:
        The size of the file: codes, other tensors, the rest.

    Raises:
        UnsupportedError: The model has state that a file cannot hold.
        ArtifactError: The file cannot be written; an existing one is as it was.
        ValueError: A number is NaN or infinite, or an argument is out of its range.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(nn.Linear(8, 8), os.path.join(folder, "model.safetensors")).plain
    144
    """
    if dtype not in _FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(map(str, _FLOATS))}, got {dtype}.")
    if norms not in ("exact", "folded"):
        raise ValueError(f"norms must be 'exact' or 'folded', got {norms!r}.")
    with _stored(bare(model)) as inner:
        return _written(inner, path, dtype, norms, provenance)


@contextmanager
def _stored(model: nn.Module) -> Iterator[nn.Module]:
    """While open, layers stand in the form that a file holds."""
    with ExitStack() as undo:
        for name, each in list(components(model)):
            if isinstance(each, Layer) and name and (small := each.stored()) is not each:
                undo.callback(replace_module_(model, each, small))
        yield model


def _written(
    model: nn.Module,
    path: str | os.PathLike[str],
    dtype: torch.dtype,
    norms: Norms,
    provenance: Mapping[str, JSON] | None,
) -> ByteCounts:
    entries, pieces = _packed(model, dtype)
    names = slots(model)
    ties = aliases(names)
    tensors = {name: slot.tensor.detach() for name, slot in names.items() if name not in ties}
    if norms == "folded":
        shared = {name for alias, name in ties.items() if names[alias].module is not names[name].module}
        reduced = list(foldable(model, tensors.keys() - shared))
        norms = "folded" if reduced else "exact"
        for norm in reduced:
            tensors |= folded(norm, tensors)
            for name in norm.statistics:
                del tensors[name]
    rows = []
    for name, tensor in tensors.items():
        piece = _writable(tensor, dtype, name)
        rows.append(TensorEntry(name, name_of(piece, name), tuple(piece.shape)))
        pieces.append(piece)
    structure = Structure(
        components=tuple(entries),
        tensors=tuple(rows),
        ties={alias: name for alias, name in ties.items() if name in tensors},
        norms=norms,
        provenance=_notes(provenance),
    )
    return write(path, structure, pieces)


def _packed(model: nn.Module, dtype: torch.dtype) -> tuple[list[ComponentEntry], list[Tensor]]:
    """The components, layers first because codecs may stand in them, and the parts that their codes pack into."""
    entries = [
        ComponentEntry(path, each.kind, (), each.spec()) for path, each in components(model) if isinstance(each, Layer)
    ]
    if any(not entry.path for entry in entries):
        raise UnsupportedError(
            "the model itself is a component, which cannot be put in place. Wrap it in nn.Sequential."
        )
    pieces: list[Tensor] = []
    for each in coded(model):
        parts = [_writable(part, dtype, each.site) for part in each.codec.packed(each.code)]
        described = tuple(Part(name_of(part, each.site), part.numel()) for part in parts)
        entries.append(ComponentEntry(each.site, each.codec.kind, described, each.codec.spec()))
        pieces += parts
    return entries, pieces


def _writable(tensor: Tensor, dtype: torch.dtype, entry: str) -> Tensor:
    """On the CPU, narrowed, known to be finite."""
    if tensor.is_meta:
        raise UnsupportedError(
            f"{entry!r} is on the meta device and has no numbers. Load or initialise the model first."
        )
    name_of(tensor, entry)
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(
            f"{entry!r} holds {bad} numbers that are NaN or infinite, which no artifact does. Train again."
        )
    return narrowed(tensor, dtype)


def _notes(provenance: Mapping[str, JSON] | None) -> dict[str, JSON] | None:
    """A copy that is JSON through and through."""
    if provenance is None:
        return None
    try:
        return cast(dict[str, JSON], json.loads(json.dumps(dict(provenance), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance must be JSON with finite numbers: {error}.") from error
