"""What is inside a model or a file: a row for each tensor that matters, totals, text and JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor, nn

from spectrim.nn.component import Component
from spectrim.nn.reconstructed import TemplateConv
from spectrim.nn.spectral import SpectralCodec
from spectrim.nn.two_stage import TwoStageConv
from spectrim.report import units
from spectrim.report.banded import KINDS, Banded, banded_layers
from spectrim.report.rebuilt import Rebuilt, rebuilt_layers
from spectrim.report.spectrum import coefficients_for, cumulative_energy
from spectrim.report.tables import Table
from spectrim.surgery import sites
from spectrim.surgery.sites import dotted
from spectrim.transforms.integers import narrowest

DENSE = "dense"
_UNCODED = frozenset({DENSE, *KINDS, TemplateConv.kind, TwoStageConv.kind})
"""Kinds whose rows hold no coefficients."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A tensor, or a group of small ones.

    Attributes:
        site: Dotted name, or what the group is.
        kind: The codec's kind, or ``dense``.
        shape: Of the dense tensor; None for a group.
        numel: Numbers in the dense tensor.
        kept: Numbers that are stored.
        bytes: That they take.
        energy: For a code in a live model: the share of its energy that the kept coefficients hold; the dropped
            ones count with the values they had last.
        needed: For a dense weight in a live model: how many coefficients of its spectrum hold the share
            :attr:`Inspection.share` of its energy.
    """

    site: str
    kind: str
    shape: tuple[int, ...] | None
    numel: int
    kept: int
    bytes: int
    energy: float | None = None
    needed: int | None = None

    @property
    def keep(self) -> float:
        """The fraction that is stored."""
        return self.kept / self.numel if self.numel else 1.0

    def to_json(self) -> dict[str, Any]:
        """The attributes that are known, and ``keep``."""
        fields = {
            "site": self.site,
            "kind": self.kind,
            "shape": None if self.shape is None else list(self.shape),
            "numel": self.numel,
            "kept": self.kept,
            "keep": self.keep,
            "bytes": self.bytes,
            "energy": self.energy,
            "needed": self.needed,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Rows and totals; ``print`` it, or take :meth:`to_json`.

    Attributes:
        title: What was inspected.
        rows: In the order of the model or the file.
        share: The share of energy that :attr:`Row.needed` is about.
        rebuilt: Which filters became transformations of which, layer by layer.
        banded: Which low frequencies pointwise layers read.
        header: Bytes of the file that are not tensors; None for a live model, whose bytes are predicted: two for
            each floating-point number, header not included.
    """

    title: str
    rows: tuple[Row, ...]
    share: float = 0.99
    header: int | None = None
    rebuilt: tuple[Rebuilt, ...] = ()
    banded: tuple[Banded, ...] = ()

    @property
    def numel(self) -> int:
        """Numbers in all dense tensors."""
        return sum(row.numel for row in self.rows)

    @property
    def kept(self) -> int:
        """Numbers that are stored."""
        return sum(row.kept for row in self.rows)

    @property
    def bytes(self) -> int:
        """Everything, with the header if there is one."""
        return sum(row.bytes for row in self.rows) + (self.header or 0)

    @property
    def coded(self) -> tuple[Row, ...]:
        """The rows of coded tensors; layers that read low frequencies alone, or have rebuilt filters, hold no coefficients."""
        return tuple(row for row in self.rows if row.kind not in _UNCODED)

    def headline(self) -> str:
        """One sentence."""
        where = "at float16" if self.header is None else "in the file"
        stored = f"{units.size(self.bytes)} {where}"
        if self.coded:
            kept, numel = sum(row.kept for row in self.coded), sum(row.numel for row in self.coded)
            coded = units.plural(len(self.coded), "coded tensor")
            also = f"{self._rebuilt()}, " if self.rebuilt else ""
            return (
                f"{self.title}: {kept:,} of {numel:,} coefficients kept in {coded} "
                f"({units.percent(kept / max(numel, 1))}), {also}{stored}"
            )
        if self.rebuilt:
            remade = [row for row in self.rows if row.kind == TemplateConv.kind]
            kept, numel = sum(row.kept for row in remade), sum(row.numel for row in remade)
            return (
                f"{self.title}: {self._rebuilt()}, {kept:,} of {numel:,} numbers kept there "
                f"({units.percent(kept / max(numel, 1))}), {stored}"
            )
        if self.banded:
            layers = units.plural(len(self.banded), "pointwise layer")
            share = sum(sum(row.kept) for row in self.banded) / sum(
                row.block[0] * row.block[1] * len(row.kept) for row in self.banded
            )
            return f"{self.title}: {self.numel:,} numbers, {units.percent(share)} of what {layers} read kept, {stored}"
        return f"{self.title}: {self.numel:,} numbers, nothing coded, {stored}"

    def _rebuilt(self) -> str:
        made, filters = (sum(each) for each in zip(*((len(r.made), r.filters) for r in self.rebuilt), strict=True))
        return f"{made:,} of {filters:,} filters rebuilt in {units.plural(len(self.rebuilt), 'layer')}"

    def table(self) -> Table:
        """The rows as cells; columns that no row fills are left out."""
        needed = any(row.needed is not None for row in self.rows)
        energy = any(row.energy is not None for row in self.rows)
        columns = ["tensor", "kind", "shape", ">numbers", ">kept", ">keep"]
        columns += [">energy"] if energy else []
        columns += [f">{units.percent(self.share)} of energy in"] if needed else []
        columns += [">bytes"]

        def cells(row: Row) -> list[str]:
            line = [row.site, row.kind, "" if row.shape is None else units.shape(row.shape), units.count(row.numel)]
            line += [units.count(row.kept), units.percent(row.keep)]
            line += ["" if row.energy is None else units.percent(row.energy)] if energy else []
            if needed:
                known = row.needed is not None and row.numel
                line += [f"{row.needed:,} ({units.percent((row.needed or 0) / row.numel)})" if known else ""]
            return [*line, units.count(row.bytes)]

        rows = [cells(row) for row in self.rows]
        if self.header is not None:
            rows.append(["header", *[""] * (len(columns) - 2), units.count(self.header)])
        keep = units.percent(self.kept / self.numel) if self.numel else ""
        footer = ["total", "", "", units.count(self.numel), units.count(self.kept), keep]
        footer += [""] * (len(columns) - len(footer) - 1) + [units.count(self.bytes)]
        return Table(columns=columns, rows=rows, footer=footer, title=self.headline())

    def __str__(self) -> str:
        """The headline and an aligned table; then what low frequencies are read, and what was rebuilt from what."""
        bands = "".join(f"\n  {row}" for row in self.banded)
        text = f"{self.table()}\n\nkept of the inputs:{bands}" if bands else str(self.table())
        return f"{text}\n\n{self._remade()}" if self.rebuilt else text

    def _remade(self) -> str:
        made, filters = (
            sum(each) for each in zip(*((len(row.made), row.filters) for row in self.rebuilt), strict=True)
        )
        lines = [f"  {row}" for row in self.rebuilt]
        stored, by_equation = (
            sum(each) for each in zip(*((r.stored, r.by_equation) for r in self.rebuilt), strict=True)
        )
        said = (
            f"{made:,} of {filters:,} filters are rebuilt from others; templates and transformations are {stored:,} numbers, "
            f"{by_equation:,} by the paper's equation 3.9"
        )
        return "\n".join([said, *lines])

    def to_json(self) -> dict[str, Any]:
        """Totals and rows."""
        totals = {"numel": self.numel, "kept": self.kept, "bytes": self.bytes}
        if self.header is not None:
            totals["header"] = self.header
        return {
            "title": self.title,
            "share": self.share,
            "totals": totals,
            "rows": [row.to_json() for row in self.rows],
            **({"rebuilt": [row.to_json() for row in self.rebuilt]} if self.rebuilt else {}),
            **({"banded": [row.to_json() for row in self.banded]} if self.banded else {}),
        }


def inspect_model(model: nn.Module, *, share: float = 0.99) -> Inspection:
    """Look into a live model: coded tensors, dense weights and what of their spectrum matters, the rest in groups.

    Args:
        model: Coded or not; nothing is changed.
        share: Of the energy, for :attr:`Row.needed`.

    Raises:
        ValueError: ``share`` is not in (0, 1].

    >>> print(inspect_model(nn.Linear(4, 2)))  # doctest: +ELLIPSIS
    Linear: 10 numbers, nothing coded, 20 B at float16
    ...
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}. For 99 percent, pass share=0.99.")
    codes = {id(entry.code): entry for entry in sites.coded(model)}
    hidden = {id(buffer) for entry in codes.values() for buffer in entry.codec.buffers()}
    kinds = {path: module.kind for path, module in model.named_modules() if isinstance(module, Component)}
    trained = {id(parameter) for parameter in model.parameters()}
    rows: list[Row] = []
    small: list[Tensor] = []
    buffers: list[Tensor] = []
    seen = set(hidden)
    rebuilt = rebuilt_layers(model)
    remade = _remade(rebuilt)
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if (entry := codes.get(id(tensor))) is not None:
            rows.append(_coded_row(entry))
        elif id(tensor) not in trained:
            buffers.append(tensor)
        elif (layer := remade.get(name)) is not None:
            if row := _remade_row(name, layer, tensor.numel(), coded=dotted(layer.site, "weight") not in state):
                rows.append(replace(row, bytes=2 * row.kept))
        elif tensor.ndim < 2:
            small.append(tensor)
        else:
            kind = _kind(name, kinds)
            known = kind == DENSE and tensor.is_floating_point() and tensor.numel() > 0 and not tensor.is_meta
            rows.append(
                Row(
                    site=name,
                    kind=kind,
                    shape=tuple(tensor.shape),
                    numel=tensor.numel(),
                    kept=tensor.numel(),
                    bytes=_predicted_bytes(tensor),
                    needed=coefficients_for(share, cumulative_energy(tensor)) if known else None,
                )
            )
    for name, tensors in (("biases and norms", small), ("buffers", buffers)):
        rows += _group(name, [(tensor.numel(), _predicted_bytes(tensor)) for tensor in tensors])
    return Inspection(title=type(model).__name__, rows=tuple(rows), share=share, rebuilt=rebuilt,
                      banded=banded_layers(model))  # fmt: skip


def inspect_parts(
    title: str,
    *,
    components: Iterable[tuple[str, str, Mapping[str, Any], int, int]],
    tensors: Iterable[tuple[str, Sequence[int], int]],
    header: int,
    rebuilt: tuple[Rebuilt, ...] = (),
    banded: tuple[Banded, ...] = (),
) -> Inspection:
    """Look into a file whose structure somebody else has read.

    Args:
        title: What it is.
        components: Of each coded tensor: dotted name, kind, spec, how many numbers and how many bytes of it are
            stored; a ``shape`` in the spec is that of the dense tensor. Of each swapped layer the same with no
            numbers: its tensors are among the ordinary ones, and of one with rebuilt filters together a row.
        tensors: Of each ordinary tensor: dotted name, shape, bytes.
        header: Bytes of the file that are neither.
        rebuilt: Which filters became transformations of which.
        banded: Which low frequencies pointwise layers read.

    >>> spec = {"shape": [8, 8], "kept": 6}
    >>> parts = [("fc.weight", "spectral", spec, 6, 12)]
    >>> inspect_parts("a.safetensors", components=parts, tensors=[("fc.bias", [8], 16)], header=70).bytes
    98
    """
    rows: list[Row] = []
    kinds: dict[str, str] = {}
    for site, kind, spec, kept, size in components:
        if not kept:
            kinds[site] = kind
            continue
        sizes = spec.get("shape")
        whole = isinstance(sizes, list | tuple) and all(type(side) is int for side in sizes)
        shape = tuple(sizes) if isinstance(sizes, list | tuple) and whole else None
        rows.append(Row(site=site, kind=kind, shape=shape, numel=prod(shape or [kept]), kept=kept, bytes=size))
    small: list[tuple[int, int]] = []
    remade, ordinary = _remade(rebuilt), {name: (sides, size) for name, sides, size in tensors}
    for name, (sides, size) in ordinary.items():
        numel = prod(sides)
        if (layer := remade.get(name)) is not None:
            names = [each for each in _names(layer) if each in ordinary]
            if row := _remade_row(name, layer, numel, coded=dotted(layer.site, "weight") not in ordinary):
                rows.append(replace(row, bytes=sum(ordinary[each][1] for each in names)))
        elif len(sides) < 2:
            small.append((numel, size))
        else:
            kind = _kind(name, kinds)
            rows.append(Row(site=name, kind=kind, shape=tuple(sides), numel=numel, kept=numel, bytes=size))
    rows += _group("vectors and scalars", small)
    return Inspection(title=title, rows=tuple(rows), header=header, rebuilt=rebuilt, banded=banded)


def _remade(layers: Iterable[Rebuilt]) -> dict[str, Rebuilt]:
    """The layers with rebuilt filters by the names of the tensors that took the place of their weights."""
    return {name: layer for layer in layers for name in _names(layer)}


def _names(layer: Rebuilt) -> tuple[str, str]:
    return dotted(layer.site, "weight"), dotted(layer.site, "transformations")


def _remade_row(name: str, layer: Rebuilt, numel: int, *, coded: bool) -> Row | None:
    """Templates and transformations as one row against all filters; transformations alone where the templates are coded, which are then a row of their own."""
    weight, whole = dotted(layer.site, "weight"), prod(layer.shape)
    row = Row(site=weight, kind=TemplateConv.kind, shape=layer.shape, numel=whole, kept=layer.stored, bytes=0)
    if coded:
        return replace(row, site=name, shape=None, numel=whole - (layer.stored - numel), kept=numel)
    return row if name == weight else None


def _coded_row(entry: sites.Coded) -> Row:
    spec_shape = entry.codec.spec().get("shape")
    shape = tuple(int(str(side)) for side in spec_shape) if isinstance(spec_shape, list) else tuple(entry.code.shape)
    energy = None
    if isinstance(entry.codec, SpectralCodec) and not entry.code.is_meta:
        whole = float(entry.code.detach().double().square().sum())
        kept = sum(float(part.double().square().sum()) for part in entry.codec.packed(entry.code))
        energy = kept / whole if whole else 1.0
    numbers = entry.codec.numbers()
    return Row(
        site=entry.site,
        kind=entry.codec.kind,
        shape=shape,
        numel=prod(shape),
        kept=numbers,
        bytes=2 * numbers,
        energy=energy,
    )


def _group(name: str, tensors: Sequence[tuple[int, int]]) -> list[Row]:
    """One row for small tensors, given as counts of numbers and bytes; none for no tensors."""
    if not tensors:
        return []
    numel, size = (sum(column) for column in zip(*tensors, strict=True))
    name = f"{name} ({len(tensors)})"
    return [Row(site=name, kind=DENSE, shape=None, numel=numel, kept=numel, bytes=size)]


def _predicted_bytes(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_floating_point() else narrowest(tensor).itemsize)


def _kind(name: str, kinds: Mapping[str, str]) -> str:
    """The kind of the nearest component around a tensor, or ``dense``."""
    path = name
    while path:
        path = path.rpartition(".")[0]
        if path in kinds:
            return kinds[path]
    return DENSE
