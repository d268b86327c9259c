"""Rows and columns as text: aligned plain text, or a rich table for terminals that have rich."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

from spectrim.report import units
from spectrim.report.reading import mappings, number, numbers, text

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Show: TypeAlias = Callable[[float | None], str]

TIMING_NOISE = 0.03
"""Two times that differ by a smaller share are called about the same."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells that are already text.

    Args:
        columns: Headings; one that starts with ``>`` belongs to a column that is aligned to the right.
        rows: As many cells each as there are columns.
        footer: A last row, set off by a line.
        title: Above it all.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    footer: Sequence[str] | None = None
    title: str = ""

    @property
    def headings(self) -> list[str]:
        """The headings without their marks."""
        return [column.removeprefix(">") for column in self.columns]

    def __str__(self) -> str:
        """Aligned plain text, no colours and no lines drawn with anything but dashes.

        >>> print(Table(columns=["layer", ">kept"], rows=[["conv1", "33"], ["fc", "1,024"]]))
        layer   kept
        ------------
        conv1     33
        fc     1,024
        """
        lines = [self.headings, *self.rows, *([self.footer] if self.footer else [])]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.columns))]

        def line(cells: Sequence[str]) -> str:
            padded = [
                cell.rjust(width) if column.startswith(">") else cell.ljust(width)
                for cell, width, column in zip(cells, widths, self.columns, strict=True)
            ]
            return "  ".join(padded).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        printed = [line(self.headings), rule, *map(line, self.rows)]
        if self.footer:
            printed += [rule, line(self.footer)]
        return "\n".join([self.title, "", *printed] if self.title else printed)

    def rich(self) -> "RichTable":
        """The same for :func:`rich.print`; cells are shown as they are, whatever they contain."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=Text(self.title) if self.title else None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_footer=self.footer is not None,
            pad_edge=False,
        )
        footer = self.footer or [""] * len(self.columns)
        for column, last in zip(self.columns, footer, strict=True):
            table.add_column(
                Text(column.removeprefix(">")),
                footer=Text(last),
                justify="right" if column.startswith(">") else "left",
                no_wrap=column.startswith(">"),
                overflow="fold",
            )
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def before_after(result: Mapping[str, Any]) -> Table:
    """What a run changed: the table that ends ``spectrim compress`` and opens its page.

    Args:
        result: The dictionary of ``result.json``; what is missing becomes a dash, lines without any value are left out.

    >>> result = {"dense": {"bytes": 1_720_000}, "compressed": {"bytes": {"total": 2_904}}}
    >>> print(before_after(result))
            before    after        change
    -------------------------------------
    bytes  1.72 MB  2,904 B  592x smaller
    """
    metric = text(result, "metric", "name") or "metric"
    before, after = number(result, "dense", "metric"), number(result, "compressed", "metric")
    rows = [[metric, units.percent(before, 2), units.percent(after, 2), units.points(before, after)]]

    def compare(label: str, old: float | None, new: float | None, show: Show, words: str) -> None:
        less, more = words.split()
        rows.append([label, show(old), show(new), units.change(old, new, less=less, more=more)])

    learned = number(result, "dense", "parameters")
    compare("learned numbers", learned, number(result, "compressed", "numbers"), units.count, "fewer more")
    coefficients = sum(number(layer, "numel") or 0 for layer in mappings(result, "layers")) or None
    coded = number(result, "compressed", "coded_numbers")
    if coded or coefficients:  # a cut network has none
        compare("  in coded weights", coefficients, coded, units.count, "fewer more")
    if (remade := number(result, "compressed", "rebuilt_numbers")) is not None:
        shapes = (numbers(layer, "shape") for layer in mappings(result, "rebuilt", "layers"))
        compare("  in rebuilt layers", sum(map(prod, shapes)) or None, remade, units.count, "fewer more")
    stored = number(result, "dense", "bytes")
    compare("bytes", stored, number(result, "compressed", "bytes", "total"), units.size, "smaller larger")
    for part, label in (("payload", "  coefficients"), ("plain", "  other tensors"), ("header", "  header")):
        if part != "payload" or number(result, "compressed", "bytes", part):
            rows.append([label, "", units.size(number(result, "compressed", "bytes", part)), ""])
    macs = number(result, "dense", "macs")
    compare("multiply-adds", macs, number(result, "compressed", "macs"), units.short, "fewer more")
    if (staged := number(result, "compressed", "macs_in_two_stages")) is not None:
        compare("  in two stages", macs, staged, units.short, "fewer more")
    if (without := number(result, "compressed", "macs_without_transforms")) is not None:
        compare("  without transforms", macs, without, units.short, "fewer more")
    old, new = (units.milliseconds(number(result, side, "latency_ms")) for side in ("dense", "compressed"))
    rows.append([timed(result), old, new, time_changed(result)])
    known = [row for row in rows if any(cell not in {"", units.MISSING} for cell in row[1:])]
    return Table(columns=["", ">before", ">after", ">change"], rows=known)


def timed(result: Mapping[str, Any]) -> str:
    """What was timed.

    >>> timed({}), timed({"method": {"batch": 8}})
    ('time per image', 'time per image, 8 at a time')
    """
    batch = number(result, "method", "batch") or 1
    return f"time per image, {batch:.0f} at a time" if batch > 1 else "time per image"


def time_changed(result: Mapping[str, Any]) -> str:
    """How the time per image changed; not at all where the network computes what it computed, whatever the clock says.

    >>> times = {"dense": {"latency_ms": 38.1}, "compressed": {"latency_ms": 30.8}}
    >>> time_changed(times), time_changed({side: {**each, "macs": 5} for side, each in times.items()})
    ('19 % less', 'the same')
    """
    old, new = number(result, "dense", "latency_ms"), number(result, "compressed", "latency_ms")
    if old and new and computes_the_same(result):
        return "the same"
    return units.change(old, new, noise=TIMING_NOISE)


def computes_the_same(result: Mapping[str, Any]) -> bool:
    """Whether the network behind multiplies what the one before did, with every layer that has several forms in the dense one."""
    before, after = number(result, "dense", "macs"), number(result, "compressed", "macs")
    forms = mappings(result, "compressed", "forms")
    return before is not None and before == after and all(text(form, "taken") == "dense" for form in forms)
