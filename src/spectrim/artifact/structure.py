"""The document inside a file: which components and tensors the model has, without their numbers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeVar

from spectrim.artifact.dtypes import DTYPES, nbytes
from spectrim.errors import ArtifactError
from spectrim.nn.component import JSON, Spec

MAX_DOCUMENT = 1 << 24
"""Bytes of a document: room for the names of a network of a hundred thousand tensors."""
MAX_NAME = 1024
MAX_RANK = 16
MAX_SIDE = 1 << 48
MAX_DEPTH = 16

Norms = Literal["exact", "folded"]
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Part:
    """One of the one-dimensional tensors that a codec packs."""

    dtype: str
    length: int

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return nbytes(self.dtype, (self.length,))


@dataclass(frozen=True)
class ComponentEntry:
    """A codec with the packed code of the tensor ``path``, or a layer in the place of the module ``path`` (no parts)."""

    path: str
    kind: str
    parts: tuple[Part, ...]
    spec: Spec


@dataclass(frozen=True)
class TensorEntry:
    """An ordinary parameter or buffer."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return nbytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Structure:
    """What the model of a file is.

    Attributes:
        components: Codecs and swapped layers, outer ones first.
        tensors: Ordinary parameters and persistent buffers.
        ties: Names that are one tensor with another entry: alias to name.
        norms: ``folded`` where batch normalisations are reduced to a scale and a shift.
        provenance: How the model came to be, for people; nothing reads it back.
    """

    components: tuple[ComponentEntry, ...] = ()
    tensors: tuple[TensorEntry, ...] = ()
    ties: Mapping[str, str] = field(default_factory=dict)
    norms: Norms = "exact"
    provenance: Mapping[str, JSON] | None = None

    @property
    def payload(self) -> int:
        """Bytes of the packed codes."""
        return sum(part.nbytes for component in self.components for part in component.parts)

    @property
    def plain(self) -> int:
        """Bytes of the ordinary tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def extents(self) -> Iterator[tuple[str, str, int]]:
        """Every piece in the order in which the pieces of one dtype follow each other: its entry, dtype, byte size."""
        for component in self.components:
            for part in component.parts:
                yield component.path, part.dtype, part.nbytes
        for tensor in self.tensors:
            yield tensor.name, tensor.dtype, tensor.nbytes

    def sizes(self) -> dict[str, int]:
        """Bytes of each dtype that occurs, in file order."""
        total = dict.fromkeys(DTYPES, 0)
        for _, dtype, size in self.extents():
            total[dtype] += size
        present = {dtype for _, dtype, _ in self.extents()}
        return {dtype: size for dtype, size in total.items() if dtype in present}

    def to_json(self) -> bytes:
        """The document: compact, sorted, without what is empty or the default.

        Raises:
            ArtifactError: It is larger than readers accept.
            ValueError, TypeError: The provenance is no JSON.
        """
        document: dict[str, Any] = {}
        if self.components:
            document["components"] = [
                [each.path, each.kind, [[part.dtype, part.length] for part in each.parts], each.spec]
                for each in self.components
            ]
        if self.tensors:
            document["tensors"] = [[each.name, each.dtype, list(each.shape)] for each in self.tensors]
        if self.ties:
            document["ties"] = dict(self.ties)
        if self.norms != "exact":
            document["norms"] = self.norms
        if self.provenance is not None:
            document["provenance"] = dict(self.provenance)
        text = json.dumps(document, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
        if len(text) > MAX_DOCUMENT:
            raise ArtifactError(f"the document has {len(text):,} bytes, at most {MAX_DOCUMENT:,} are read. Shorten it.")
        return text

    @classmethod
    def from_json(cls, text: bytes) -> "Structure":
        """Read :meth:`to_json`'s document; every type, size and name in it is checked, nothing is trusted.

        Raises:
            ArtifactError: It is no document, or an entry of it is wrong.
        """
        document = _fields(strict_json(text, "the document"), "the document")
        if unknown := document.keys() - {"components", "tensors", "ties", "norms", "provenance"}:
            _wrong("the document", f"has an entry {min(unknown)!r}, which format 1 does not know")
        components = _rows(document, "components", _component)
        tensors = _rows(document, "tensors", _tensor)
        _unique("components", [each.path for each in components])
        _unique("tensors", [each.name for each in tensors])
        structure = cls(
            components=components,
            tensors=tensors,
            ties=_ties(document.get("ties", {})),
            norms=_norms(document.get("norms", "exact")),
            provenance=_fields(document["provenance"], "provenance") if "provenance" in document else None,
        )
        held = {each.name for each in tensors} | {each.path for each in components if each.parts}
        if len(held) < len(tensors) + sum(bool(each.parts) for each in components):
            twice = {each.name for each in tensors} & {each.path for each in components}
            _wrong(f"tensors: {min(twice)!r}", "is there twice, coded and plain")
        for alias, name in structure.ties.items():
            if alias in held or name not in held:
                _wrong(
                    f"ties: {alias!r}",
                    f"is tied with {name!r}, but a tie leads from a name without numbers to one with",
                )
        return structure


def strict_json(text: bytes, what: str) -> Any:
    """Parse JSON: UTF-8, no name twice, finite numbers, bounded depth.

    Raises:
        ArtifactError: It is not that.
    """
    _bounded_depth(text, what)
    try:
        return json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError and a JSONDecodeError are ValueErrors
        raise ArtifactError(f"{what} is no JSON: {error}.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _unique("names", [name for name, _ in pairs])
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _bounded_depth(text: bytes, what: str) -> None:
    """Count brackets outside strings, so that the parser is never asked to recurse."""
    depth = 0
    outside = b"".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    for byte in outside.translate(None, delete=bytes(set(range(256)) - set(b"[]{}"))):
        depth += 1 if byte in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ArtifactError(f"{what} nests deeper than {MAX_DEPTH} levels.")


def _wrong(where: str, what: str) -> NoReturn:
    raise ArtifactError(f"{where} {what}. The file is damaged or was made to mislead; get it again from where it came.")


def _fields(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _wrong(where, f"should be an object, found {_short(value)}")
    return value


def _rows(document: dict[str, Any], name: str, read: Callable[[Any, str], Entry]) -> tuple[Entry, ...]:
    rows = document.get(name, [])
    if not isinstance(rows, list):
        _wrong(name, f"should be a list, found {_short(rows)}")
    return tuple(read(row, f"{name}[{number}]") for number, row in enumerate(rows))


def _component(row: Any, where: str) -> ComponentEntry:
    path, kind, parts, spec = _columns(row, where, "[path, kind, parts, spec]")
    where = f"{where} {_name(path, where)!r}"
    if not isinstance(kind, str) or not 0 < len(kind) <= MAX_NAME:
        _wrong(where, f"should name a kind, found {_short(kind)}")
    if not isinstance(parts, list):
        _wrong(where, f"should list its parts, found {_short(parts)}")
    return ComponentEntry(path, kind, tuple(_part(part, where) for part in parts), _fields(spec, f"{where}: the spec"))


def _part(row: Any, where: str) -> Part:
    dtype, length = _columns(row, f"{where}: a part", "[dtype, length]")
    return Part(_dtype(dtype, where), _side(length, where))


def _tensor(row: Any, where: str) -> TensorEntry:
    name, dtype, shape = _columns(row, where, "[name, dtype, shape]")
    where = f"{where} {_name(name, where)!r}"
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        _wrong(where, f"should have a shape of at most {MAX_RANK} sides, found {_short(shape)}")
    return TensorEntry(name, _dtype(dtype, where), tuple(_side(side, where) for side in shape))


def _columns(row: Any, where: str, columns: str) -> list[Any]:
    if not isinstance(row, list) or len(row) != columns.count(",") + 1:
        _wrong(where, f"should be {columns}, found {_short(row)}")
    return row


def _name(value: Any, where: str) -> str:
    """A dotted name as torch's modules have them: no empty segment (hence no '..'), nothing that looks like a path."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        _wrong(where, f"should be named by 1 to {MAX_NAME} printable characters, found {_short(value)}")
    if value[0] in "/\\" or "" in value.split("."):
        _wrong(where, f"has the name {value!r}, which no module can have")
    return value


def _dtype(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in DTYPES:
        _wrong(where, f"has the unknown element type {_short(value)}")
    return value


def _side(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value < MAX_SIDE:
        _wrong(where, f"has a side that is no count of elements: {_short(value)}")
    return value


def _norms(value: Any) -> Norms:
    if value == "folded":
        return "folded"
    if value != "exact":
        _wrong("norms", f"should be 'folded' or left out, found {_short(value)}")
    return "exact"


def _ties(value: Any) -> dict[str, str]:
    return {_name(alias, "ties"): _name(name, "ties") for alias, name in _fields(value, "ties").items()}


def _unique(where: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _wrong(f"{where}: {name!r}", "is there twice")
        seen.add(name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
