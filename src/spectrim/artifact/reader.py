"""Reading a file: everything about it is checked before anything of it is used."""

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectrim.artifact.dtypes import SIZES, tensor_of
from spectrim.artifact.layout import FORMAT, KEY, MAX_HEADER, STRUCTURE, digest, flats, inflated
from spectrim.artifact.structure import Structure, strict_json
from spectrim.errors import ArtifactError


@dataclass(frozen=True)
class Artifact:
    """The content of a file.

    Attributes:
        structure: The document.
        codes: The packed parts of each component, in the structure's order.
        tensors: The ordinary tensors by name.
    """

    structure: Structure
    codes: tuple[tuple[Tensor, ...], ...]
    tensors: dict[str, Tensor]


def read(path: str | os.PathLike[str]) -> Artifact:
    """Read a file and check everything that can be checked without a model. Nothing in it is ever executed.

    Args:
        path: Of a file that :func:`spectrim.save` wrote.

    Raises:
        ArtifactError: The file cannot be read, is no artifact, is of a later format, or is damaged; names the entry.
    """
    try:
        return parse(_content(path))
    except ArtifactError as error:
        raise ArtifactError(f"{os.fspath(path)}: {error}") from error


def read_structure(path: str | os.PathLike[str]) -> Structure:
    """What the model of a file is, for looking at it without a model. The whole file is checked all the same.

    Args:
        path: Of a file that :func:`spectrim.save` wrote.

    Raises:
        ArtifactError: As for loading.
    """
    return read(path).structure


def parse(content: bytearray) -> Artifact:
    """The artifact in these bytes; its tensors are views of them.

    Raises:
        ArtifactError: As for :func:`read`, without the path.
    """
    entries, start = _header(content)
    checksum = _checksum(entries.pop("__metadata__", None))
    found = {name: _extent(entry, name, len(content) - start) for name, entry in entries.items()}
    _tile(found, len(content) - start)
    body = memoryview(content)[start:]
    regions = {name: body[begin:end] for name, (_, begin, end) in found.items()}
    if STRUCTURE not in regions:
        raise ArtifactError(f"the tensor {STRUCTURE!r} is missing. The file is damaged; get it again.")
    structure = Structure.from_json(inflated(regions[STRUCTURE]))
    wanted = flats(structure.sizes(), len(regions[STRUCTURE]))
    _agree(structure, {name: (dtype, end - begin) for name, (dtype, begin, end) in found.items()}, wanted)
    if (actual := digest(regions[name] for name in wanted)) != checksum:
        raise ArtifactError(
            f"the checksum is {checksum!r}, the content has {actual!r}. The file is damaged; get it again."
        )
    return _cut(structure, regions)


def _content(path: str | os.PathLike[str]) -> bytearray:
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError("asked to read an artifact, found a folder or a device. Name the file itself.")
        content = bytearray(status.st_size)
        with Path(path).open("rb") as file:
            size = file.readinto(content)
    except OSError as error:
        raise ArtifactError(f"asked to read an artifact, found: {error.strerror or error}. Check the path.") from error
    return content[:size]


def _header(content: bytearray) -> tuple[dict[str, Any], int]:
    if content.startswith((b"PK", b"\x80\x02", b"\x80\x04")):
        raise ArtifactError("found a pickled checkpoint, which is a program and is not opened. Load it into a model with "
                            "torch.load(weights_only=True), then write the model with spectrim.save.")  # fmt: skip
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ArtifactError(
            f"the header claims {length:,} bytes, the file has {max(len(content) - 8, 0):,} behind its first 8. "
            "The file is cut off or no safetensors file; get it again."
        )
    if length > MAX_HEADER:
        raise ArtifactError(
            f"the header claims {length:,} bytes, an artifact's has at most {MAX_HEADER:,}. "
            "If this is an ordinary safetensors file, load it into a model with safetensors.torch.load_model."
        )
    header = strict_json(bytes(content[8 : 8 + length]), "the header")
    if not isinstance(header, dict):
        raise ArtifactError("the header is no JSON object. The file is no safetensors file.")
    return header, 8 + length


def _checksum(metadata: Any) -> str:
    note = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(note, str):
        raise ArtifactError(f"the metadata has no {KEY!r}: a safetensors file perhaps, but not one of spectrim's. "
                            "Load it into a model with safetensors.torch.load_model, then use spectrim.save.")  # fmt: skip
    number, _, checksum = note.partition(" ")
    if number != str(FORMAT):
        raise ArtifactError(
            f"the file has format {number[:20]!r}, this version of spectrim reads {FORMAT}. Install a later one."
        )
    return checksum


def _extent(entry: Any, name: str, room: int) -> tuple[str, int, int]:
    """Dtype, first and last byte of a flat tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ArtifactError(f"the header entry {name[:80]!r} needs dtype, shape and data_offsets and nothing else.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise ArtifactError(f"the header entry {name[:80]!r} has an unknown dtype.")
    for numbers, length in ((shape, 1), (offsets, 2)):
        if not isinstance(numbers, list) or len(numbers) != length or any(type(n) is not int or n < 0 for n in numbers):
            raise ArtifactError(
                f"the header entry {name[:80]!r} needs one side and two offsets, whole and not negative."
            )
    if not offsets[0] <= offsets[1] <= room or shape[0] * SIZES[dtype] != offsets[1] - offsets[0]:
        raise ArtifactError(
            f"the header entry {name[:80]!r} has {shape[0]} numbers of {SIZES[dtype]} bytes at {offsets[0]} to {offsets[1]}, "
            f"in a file with {room} bytes of tensors. The file is cut off or damaged; get it again."
        )
    return dtype, offsets[0], offsets[1]


def _tile(found: dict[str, tuple[str, int, int]], room: int) -> None:
    """Refuse overlaps, holes, and bytes behind the end: a file has one reading only."""
    position = 0
    for name, (_, begin, end) in sorted(found.items(), key=lambda item: item[1][1:]):
        if begin != position:
            kind = "a hole" if begin > position else "an overlap"
            raise ArtifactError(f"the header entry {name!r} begins at {begin} instead of {position}: {kind}.")
        position = end
    if position != room:
        raise ArtifactError(f"the tensors end at byte {position} of {room}: there is something behind them.")


def _agree(structure: Structure, found: dict[str, tuple[str, int]], wanted: dict[str, tuple[str, int]]) -> None:
    """Refuse flat tensors that are not exactly what the structure describes, and say which entry does not fit."""
    for name in wanted | found:
        has, needs = found.get(name), wanted.get(name)
        if needs is None:
            raise ArtifactError(f"the tensor {name[:80]!r} is in the file, but no entry of the structure uses it.")
        if has is None or has[0] != needs[0]:
            raise ArtifactError(f"the structure needs a tensor {name!r} of type {needs[0]}, the file has none.")
        if has != needs:
            raise ArtifactError(
                f"the entries of type {name} take {needs[1]:,} bytes, the file has {has[1]:,}: "
                f"{_misfit(structure, name, has[1])!r} does not fit. The file is damaged or was made to mislead."
            )


def _misfit(structure: Structure, dtype: str, room: int) -> str:
    """The first entry that ends behind ``room`` bytes, or the last one where the bytes are too many."""
    last = dtype
    for entry, each, size in structure.extents():
        if each == dtype:
            last, room = entry, room - size
        if room < 0:
            break
    return last


def _cut(structure: Structure, regions: dict[str, memoryview]) -> Artifact:
    used = dict.fromkeys(regions, 0)

    def piece(entry: str, dtype: str, shape: tuple[int, ...]) -> Tensor:
        begin, size = used[dtype], math.prod(shape) * SIZES[dtype]
        used[dtype] += size
        data = regions[dtype][begin : begin + size]
        if dtype == "BOOL" and bool((tensor_of(data, "U8", (size,)) > 1).any()):
            raise ArtifactError(f"{entry!r} holds a byte that is neither false nor true. The file is damaged.")
        tensor = tensor_of(data, dtype, shape)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ArtifactError(
                f"{entry!r} holds {bad} numbers that are NaN or infinite. Train again; a file holds finite ones."
            )
        return tensor

    def codes() -> Iterator[tuple[Tensor, ...]]:
        for each in structure.components:
            yield tuple(piece(each.path, part.dtype, (part.length,)) for part in each.parts)

    packed = tuple(codes())
    return Artifact(structure, packed, {t.name: piece(t.name, t.dtype, t.shape) for t in structure.tensors})
