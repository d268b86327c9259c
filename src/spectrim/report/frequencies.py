"""How sensitive a model's output is to each frequency of each channel: a table, JSON, and a picture."""

import importlib
import math
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spectrim.errors import UnsupportedError
from spectrim.report import units
from spectrim.report.tables import Table
from spectrim.surgery.plan import Skipped
from spectrim.surgery.sensitivity import Sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS, _COLUMNS = 12, 4
_DECADES = 5
_TITLE = 24


@dataclass(frozen=True, kw_only=True)
class FrequencyInspection:
    """What each frequency is worth in every channel that pointwise convolutions read; ``print`` it, take :meth:`to_json`, or :meth:`draw` it.

    Attributes:
        method: By whose score, order and blocks.
        model: The class of the model.
        layers: In the order of the model.
        skipped: The convolutions that were not read, and why.
    """

    method: str
    model: str
    layers: tuple[Sensitivity, ...]
    skipped: tuple[Skipped, ...] = ()

    def headline(self) -> str:
        """One sentence."""
        channels = sum(len(each.worth) for each in self.layers)
        falls = [each.falls for each in self.layers if not math.isnan(each.falls)]
        middle = (
            f"; worth falls with frequency by a rank correlation of {statistics.median(falls):.2f}" if falls else ""
        )
        return (
            f"{self.method} on {self.model}: {channels:,} channels of {units.plural(len(self.layers), 'layer')}{middle}"
        )

    def table(self) -> Table:
        """A row for each layer: how surely the worth falls, and how far the bands of its channels lie apart."""
        rows = []
        for each in self.layers:
            shares = each.quantiles()
            cells = (units.MISSING,) * 3 if shares is None else tuple(units.percent(share) for share in shares)
            rows.append(
                [
                    each.path,
                    units.count(len(each.worth)),
                    f"{each.block[0]} x {each.block[1]}",
                    f"{each.falls:.2f}",
                    *cells,
                ]
            )
        columns = ["layer", ">channels", ">block", ">rank correlation", ">kept, low tenth", ">median", ">high tenth"]
        return Table(columns=columns, rows=rows, title=self.headline())

    def __str__(self) -> str:
        """The table, and what was not read."""
        lines = [f"  {row.site}  {row.reason}" for row in self.skipped]
        return "\n".join([str(self.table()), *(["", "not read:", *lines] if lines else [])])

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "method": self.method,
            "model": self.model,
            "layers": [each.to_json() for each in self.layers],
            "skipped": [{"path": row.site, "reason": row.reason} for row in self.skipped],
        }

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write a picture with a panel for each layer, a dozen at most: channels down, frequencies across, the bands as a line.

        Args:
            path: Of the picture; its ending says which format: ``.png``, ``.svg``, ``.pdf``.

        Returns:
            The path.

        Raises:
            UnsupportedError: matplotlib is not installed, or does not write this format.
            ValueError: There is no layer to draw.
        """
        if not self.layers:
            raise ValueError(
                f"asked to draw the frequencies of {self.model}, found no pointwise convolution that reads maps."
            )
        try:
            importlib.import_module("matplotlib")
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                "a picture of the frequencies needs the package 'matplotlib', which is not installed. Run: pip install 'spectrim[report]'"
            ) from error
        from spectrim.report.charts import styled

        target = Path(path)
        with styled():
            figure = _figure(self)
            known = sorted(figure.canvas.get_supported_filetypes())
            if target.suffix.removeprefix(".").lower() not in known:
                raise UnsupportedError(
                    f"asked to draw into {target.name!r}, found no picture format in its ending. Use one of {', '.join(known)}."
                )
            temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
            try:
                figure.savefig(temporary, dpi=130, facecolor="white")
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        return target


def _figure(found: FrequencyInspection) -> "Figure":
    from matplotlib.figure import Figure

    count = min(_PANELS, len(found.layers))
    last = len(found.layers) - 1
    shown = [found.layers[round(place * last / max(count - 1, 1))] for place in range(count)]
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(2.3 * columns, 5.5), 1.9 * rows + 1.0), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    images = [_panel(axes, layer) for axes, layer in zip(grid.flat, shown, strict=False)]
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    bar = figure.colorbar(images[0], ax=grid, shrink=0.6, pad=0.01, ticks=[-_DECADES, 0])
    bar.ax.set_yticklabels([f"most / 1e{_DECADES}", "most"], fontsize=7)
    bar.outline.set_visible(False)
    figure.suptitle(found.headline(), x=0.01, ha="left", fontsize=8.5, wrap=True)
    figure.supxlabel(
        "frequency, in the order in which they are kept; the line is where each channel's band ends",
        fontsize=8,
        color="#7b8794",
    )
    figure.supylabel("channels, the widest band first", fontsize=8, color="#7b8794")
    return figure


def _panel(axes: "Axes", layer: Sensitivity) -> Any:
    from spectrim.report.charts import INK

    frequencies = layer.worth.shape[1]
    by = layer.worth.sum(1) if layer.kept is None else torch.tensor(layer.kept, dtype=torch.float64)
    order = by.argsort(descending=True, stable=True)
    worth = layer.worth[order] / layer.worth.max().clamp(min=torch.finfo(torch.float64).tiny)
    shade = worth.clamp(min=10.0**-_DECADES).log10().numpy()
    image = axes.imshow(
        shade, aspect="auto", cmap="YlGnBu", vmin=-_DECADES, vmax=0, interpolation="nearest", extent=(1, frequencies + 1, len(order), 0)
    )  # fmt: skip
    if layer.kept is not None:
        axes.step(
            [layer.kept[i] for i in order],
            [place + 0.5 for place in range(len(order))],
            where="mid",
            color="#d9480f",
            linewidth=1,
        )
    name = layer.path if len(layer.path) <= _TITLE else "…" + layer.path[-_TITLE + 1 :]
    axes.set_title(f"{name}  {layer.falls:+.2f}", fontsize=7.5, loc="left", color=INK, pad=3)
    axes.set_xticks([1, frequencies])
    axes.set_yticks([0, len(order)])
    axes.tick_params(labelsize=6.5, pad=1.5)
    return image
