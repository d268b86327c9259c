"""Writing a file whole or not at all."""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from spectrim.artifact.dtypes import bytes_of
from spectrim.artifact.layout import STRUCTURE, ByteCounts, deflated, digest, flats, head
from spectrim.artifact.structure import Structure
from spectrim.errors import ArtifactError


def write(path: str | os.PathLike[str], structure: Structure, pieces: Sequence[Tensor]) -> ByteCounts:
    """Write a file.

    Args:
        path: Where; replaced if it exists, and only once the new file is whole.
        structure: The document.
        pieces: The numbers, one tensor for each of the structure's extents, in that order.

    Raises:
        ArtifactError: The file cannot be written; what was there before is as it was.
    """
    document = deflated(structure)
    chunks: dict[str, list[bytes]] = {dtype: [] for dtype in structure.sizes()}
    for (entry, dtype, size), piece in zip(structure.extents(), pieces, strict=True):
        data = bytes_of(piece)
        if len(data) != size:
            raise ValueError(f"{entry!r} has {len(data)} bytes, the structure says {size}.")
        chunks[dtype].append(data)
    tensors = flats(structure.sizes(), len(document))
    body = [data for name in tensors for data in ([document] if name == STRUCTURE else chunks[name])]
    front = head(tensors, digest(body))
    write_atomically(path, [front, *body])
    payload, plain = structure.payload, structure.plain
    return ByteCounts(payload, plain, len(front) + sum(map(len, body)) - payload - plain)


def write_atomically(path: str | os.PathLike[str], chunks: Sequence[bytes]) -> None:
    """Write beside the target, flush to the disk, rename over it; a full disk leaves the old file and no scraps.

    Raises:
        ArtifactError: The system refuses; the message has its reason and the number of bytes needed.
    """
    target = Path(os.path.realpath(path))  # through a link, so that the link stays one
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder")
        try:
            with beside.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        except BaseException:
            with suppress(FileNotFoundError):
                beside.unlink()
            raise
    except OSError as error:
        needed = sum(map(len, chunks))
        kept = " The file that was there is as it was." if target.is_file() else ""
        raise ArtifactError(
            f"asked to write {needed:,} bytes to {os.fspath(path)}, found: {error.strerror or error}.{kept} "
            "Free space or choose another place."
        ) from error
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where the system lets us."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
