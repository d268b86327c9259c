"""The scores of channels, group by group, and where the cut falls: a table, JSON, and a picture."""

import importlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectrim.errors import UnsupportedError
from spectrim.report import units
from spectrim.report.tables import Table
from spectrim.surgery.plan import Skipped
from spectrim.surgery.ranking import Ranked, total_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 6
_PANEL = (1.75, 1.35)
_TITLE = 24


@dataclass(frozen=True, kw_only=True)
class ChannelInspection:
    """What a ranking says about every group of channels; ``print`` it, take :meth:`to_json`, or :meth:`draw` it.

    Attributes:
        method: Whose ranking, with its hyper-parameters.
        model: The class of the model.
        groups: In the order of the model, those included that stay whole.
        skipped: The layers that were not scored, and why.
    """

    method: str
    model: str
    groups: tuple[Ranked, ...]
    skipped: tuple[Skipped, ...] = ()

    def headline(self) -> str:
        """One sentence."""
        whole, kept = total_units(self.groups)
        cut = sum(bool(each.gone) for each in self.groups)
        return (
            f"{self.method} on {self.model}: {units.plural(len(self.groups), 'group')} of channels, {cut} of them cut, "
            f"{kept:,} of {whole:,} channels stay"
        )

    def table(self) -> Table:
        """A row for each group: how many stay, where the cut falls, and how the scores are spread about their mean of 1."""
        columns = ["group", ">channels", ">stay", ">cut below", ">least", ">median", ">most", ">score held", "with"]
        rows = []
        for each in self.groups:
            scores = sorted(each.scores)
            spread = (scores[0], scores[len(scores) // 2], scores[-1]) if scores else (math.nan,) * 3
            others = ", ".join(each.writers[1:3]) + (f", {len(each.writers) - 3} more" if len(each.writers) > 3 else "")
            rows.append(
                [
                    each.path,
                    units.count(len(each.scores)),
                    units.count(each.kept),
                    units.MISSING if each.cut is None else f"{each.cut:.2f}",
                    *(f"{score:.2f}" for score in spread),
                    units.percent(each.held),
                    others,
                ]
            )
        return Table(columns=columns, rows=rows, title=self.headline())

    def __str__(self) -> str:
        """The headline, an aligned table, and what was not scored."""
        whole = [Skipped(each.path, each.reason) for each in self.groups if each.reason]
        lines = [f"  {row.site}  {row.reason}" for row in [*whole, *self.skipped]]
        return "\n".join([str(self.table()), *(["", "stay whole:", *lines] if lines else [])])

    def to_json(self) -> dict[str, Any]:
        """All scores, and what goes."""
        return {
            "method": self.method,
            "model": self.model,
            "groups": [each.to_json() for each in self.groups],
            "skipped": [{"path": row.site, "reason": row.reason} for row in self.skipped],
        }

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write a picture with a panel for each group: its scores from the highest to the lowest, what goes in grey.

        Args:
            path: Of the picture; its ending says which format: ``.png``, ``.svg``, ``.pdf``.

        Returns:
            The path.

        Raises:
            UnsupportedError: matplotlib is not installed, or does not write this format.
            ValueError: There is no group to draw.
        """
        if not self.groups:
            raise ValueError(f"asked to draw the channels of {self.model}, found no group that can be cut.")
        try:
            importlib.import_module("matplotlib")
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                "a picture of the scores needs the package 'matplotlib', which is not installed. Run: pip install 'spectrim[report]'"
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
                figure.savefig(temporary, dpi=150, facecolor="white")
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        return target


def _figure(found: ChannelInspection) -> "Figure":
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(found.groups))
    rows = -(-len(found.groups) // columns)
    width, height = columns * _PANEL[0], rows * _PANEL[1]
    figure = Figure(figsize=(max(width, 5.0), height + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    top = _top(found.groups)
    for place, axes in enumerate(grid.flat):
        if place < len(found.groups):
            _panel(axes, found.groups[place], top)
        else:
            axes.set_visible(False)
    figure.suptitle(_wrapped(found.headline(), int(max(width, 5.0) * 13)), x=0.01, ha="left", fontsize=9.5)
    figure.supxlabel(
        "channels, the highest score first; what goes is grey", fontsize=8.5, color="#7b8794", x=0.01, ha="left"
    )
    figure.supylabel("score relative to the mean of the group", fontsize=8.5, color="#7b8794")
    return figure


def _top(groups: Sequence[Ranked]) -> float:
    """Where all panels end: a few channels that stand out far are cut off, so that the others can be told apart."""
    every = sorted(score for each in groups for score in each.scores)
    return max(1.2, 1.1 * min(every[-1], 1.5 * every[int(0.98 * (len(every) - 1))]))


def _panel(axes: "Axes", group: Ranked, top: float) -> None:
    from spectrim.report.charts import AFTER, BEFORE, INK, MUTED

    order = sorted(range(len(group.scores)), key=lambda unit: (unit in group.gone, -group.scores[unit]))
    heights = [group.scores[unit] for unit in order]
    edges = [*range(len(heights) + 1)]
    axes.axhline(1, color=MUTED, linewidth=0.6, linestyle=(0, (2, 2)), zorder=0.5)
    axes.stairs(heights[: group.kept], edges[: group.kept + 1], fill=True, color=AFTER, linewidth=0)
    if group.gone:
        axes.stairs(heights[group.kept :], edges[group.kept :], fill=True, color=BEFORE, alpha=0.6, linewidth=0)
        axes.axvline(group.kept, color=INK, linewidth=0.8)
    over = [place for place, height in enumerate(heights) if height > top]
    if over:  # the panel ends below them
        axes.text(over[-1] + 1, top, f" up to {heights[0]:.1f}", fontsize=6.5, color=MUTED, va="top")
    name = group.path if len(group.path) <= _TITLE else "…" + group.path[-_TITLE + 1 :]
    axes.set_title(f"{name}", fontsize=7.5, loc="left", color=INK, pad=3)
    axes.set_xlim(0, len(heights))
    axes.set_ylim(0, top)
    axes.set_xticks([group.kept, len(heights)] if group.gone else [len(heights)])
    axes.tick_params(labelsize=7, pad=1.5)
    if group.gone and group.kept / len(heights) > 0.75:  # the two numbers would overlap
        axes.set_xticks([group.kept], [f"{group.kept} of {len(heights)}"])


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return textwrap.fill(text, width, break_long_words=False)
