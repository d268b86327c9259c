"""Where the bytes are: the header of a safetensors file whose tensors are one per dtype and the deflated document."""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spectrim.artifact.dtypes import SIZES
from spectrim.artifact.structure import MAX_DOCUMENT, Structure
from spectrim.errors import ArtifactError

FORMAT = 1
KEY = "spectrim"
"""The one entry of the metadata: the format number and the checksum."""
STRUCTURE = "structure"
"""The tensor that holds the document, deflated."""
MAX_HEADER = 1 << 16
_ALIGNMENT = 8


@dataclass(frozen=True)
class ByteCounts:
    """Size of a file, told apart.

    Attributes:
        payload: The packed codes.
        plain: Every other tensor: biases, normalisations, what no method touched.
        header: Everything else: names, shapes, kinds, checksum.
    """

    payload: int
    plain: int
    header: int

    @property
    def total(self) -> int:
        """Size of the file.

        >>> ByteCounts(payload=1518, plain=0, header=469).total
        1987
        """
        return self.payload + self.plain + self.header


def flats(sizes: Mapping[str, int], document: int) -> dict[str, tuple[str, int]]:
    """The tensors of the file in file order: name to dtype and byte size.

    >>> flats({"F32": 8, "F16": 66}, 277)
    {'F32': ('F32', 8), 'F16': ('F16', 66), 'structure': ('U8', 277)}
    """
    named = {name: (name, size) for name, size in sizes.items() if name != "BOOL"}
    named[STRUCTURE] = ("U8", document)
    if "BOOL" in sizes:
        named["BOOL"] = ("BOOL", sizes["BOOL"])
    return named


def head(tensors: Mapping[str, tuple[str, int]], checksum: str) -> bytes:
    """The bytes in front of the tensors: a length and a JSON header, padded so that the tensors are aligned."""
    header: dict[str, object] = {"__metadata__": {KEY: f"{FORMAT} {checksum}"}}
    start = 0
    for name, (dtype, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": [size // SIZES[dtype]], "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def digest(tensors: Iterable[bytes | memoryview]) -> str:
    """The first 16 hexadecimal digits of SHA-256 over everything behind the header: against accidents, not attackers."""
    sha = hashlib.sha256()
    for each in tensors:
        sha.update(each)
    return sha.hexdigest()[:16]


def deflated(structure: Structure) -> bytes:
    """The document as raw deflate: names of layers repeat themselves, and a small file is mostly names."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return deflate.compress(structure.to_json()) + deflate.flush()


def inflated(data: bytes | memoryview) -> bytes:
    """The document of :func:`deflated`.

    Raises:
        ArtifactError: No deflated document, more than one, or one larger than :data:`MAX_DOCUMENT`.
    """
    inflate = zlib.decompressobj(-15)
    try:
        text = inflate.decompress(data, MAX_DOCUMENT + 1)
    except zlib.error as error:
        raise ArtifactError(
            f"the entry {STRUCTURE!r} does not inflate ({error}). The file is damaged; get it again."
        ) from error
    if len(text) > MAX_DOCUMENT:
        raise ArtifactError(
            f"the entry {STRUCTURE!r} inflates to more than {MAX_DOCUMENT:,} bytes; no model needs that."
        )
    if not inflate.eof or inflate.unused_data:
        raise ArtifactError(f"the entry {STRUCTURE!r} is cut off or longer than its document. The file is damaged.")
    return text
