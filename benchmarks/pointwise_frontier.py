"""MobileNetV2 on ImageNet: points against measured time, of all bands and peers that were timed, as a picture.

    python benchmarks/pointwise_frontier.py    # from the files of pointwise_mobilenetv2.py, pointwise_learned.py and pointwise_learned_time.py

Each file's times are relative to the dense network that ran in turns with its rows.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import rounds
from cifar import plotted, tidy
from pointwise_clock import FUSED

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "pointwise_frontier.png"
SETTINGS = ((1, 1), (1, 2), (8, 1))
FLOOR = -9.0
"""Points below the dense network, beyond which a row is told at the lower edge."""


class Family(NamedTuple):
    """Rows that are drawn alike: what is in their names, what they are called, and how they look."""

    words: tuple[str, ...]
    called: str
    colour: str
    mark: str


FAMILIES = (
    Family(("energy",), "bands by energy", "0.6", "o"),
    Family(("uniform", "one band"), "one band for each layer", "#0b6e99", "o"),
    Family(("learned",), "learned bands", "#7b3294", "o"),
    Family(("width",), "narrower layers", "#b5651d", "^"),
    Family(("192",), "smaller images", "#c2a000", "v"),
    Family(("time:",), "bands to a time", "#d95f02", "o"),
    Family(("keep", "macs", "output", "measured"), "bands to a share", "#7a9e3a", "o"),
)
"""Each row belongs to the first that fits."""


class Dot(NamedTuple):
    """One row in one setting."""

    name: str
    time: float
    points: float


def family_of(name: str) -> Family:
    """The family of a row.

    >>> family_of("time:0.7, energy").called, family_of("output .5, tuned").called
    ('bands by energy', 'bands to a share')
    """
    return next(family for family in FAMILIES if any(word in name for word in family.words))


def dots_of(
    rows: Mapping[str, Mapping[str, Any]], times: list[Mapping[str, Any]], setting: tuple[int, int]
) -> list[Dot]:
    """What was judged and timed in a setting; the time is the median of the ratios within the rounds.

    >>> times = [{"name": "keep 0.5", "batch": 1, "threads": 1, "paired": 0.7}]
    >>> dots_of({"keep 0.5": {"points": -1.0}, "keep 0.3": {"points": -9.0}}, times, (1, 1))
    [Dot(name='keep 0.5', time=0.7, points=-1.0)]
    """
    here = {row["name"]: row["paired"] for row in times if (row["batch"], row["threads"]) == setting}
    return [Dot(name, here[name], row["points"]) for name, row in rows.items() if name in here and "points" in row]


def draw(documents: list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]], picture: Path) -> None:
    """A panel for each setting.

    Args:
        documents: The rows of a file, with the times that belong to them.
        picture: Where.
    """
    with plotted(picture, 1, len(SETTINGS), figsize=(12.6, 4.2), sharey=True) as grid:
        for axes, setting in zip(grid[0], SETTINGS, strict=True):
            dots = [dot for rows, times in documents for dot in dots_of(rows, times, setting)]
            for family in FAMILIES:
                for tuned in (False, True):
                    mine = [
                        d
                        for d in dots
                        if family_of(d.name) is family
                        and ("tuned" in d.name or "longer" in d.name) == tuned
                        and d.points >= FLOOR
                    ]
                    axes.plot(
                        [d.time for d in mine], [d.points for d in mine], family.mark, color=family.colour, ms=5, lw=0,
                        mfc=family.colour if tuned else "none", label=f"{family.called}{', taught' * tuned}" if mine else None,
                    )  # fmt: skip
            fused = [
                row["paired"] for _, times in documents for row in times
                if row["name"] == FUSED and (row["batch"], row["threads"]) == setting
            ]  # fmt: skip
            if fused:
                axes.axvline(statistics.fmean(fused), color="0.35", lw=0.9, ls=":", label="dense, fused")
            axes.axhline(0, color="0.8", lw=0.8, zorder=0)
            axes.axhline(-1, color="0.8", lw=0.8, ls="--", zorder=0)
            below = sorted((d for d in dots if d.points < FLOOR), key=lambda d: d.time)
            for line, dot in enumerate(below):
                axes.annotate(
                    f"{dot.name}: {dot.points:+.0f} ↓", (dot.time, FLOOR), (0, 2 + 9 * line), textcoords="offset points",
                    fontsize=7, ha="center", color="0.4",
                )  # fmt: skip
            axes.set_ylim(FLOOR, 1.2)
            if dots:
                everywhere = [*(dot.time for dot in dots), *fused]
                axes.set_xlim(min(everywhere) - 0.015, max(everywhere) + 0.015)
            images, threads = setting
            axes.set_title(
                f"{images} image{'s' * (images > 1)}, {threads} thread{'s' * (threads > 1)}", fontsize=9, loc="left"
            )
            axes.set_xlabel("time, dense in torch = 1", fontsize=9)
            tidy(axes)
        grid[0][0].set_ylabel("points above the dense network", fontsize=9)
        handles = {
            label: handle for axes in grid[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        grid[0][0].figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8
        )


def read(name: str) -> Any:
    """A file of results."""
    return json.loads((rounds.RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=PICTURE)
    chosen = parser.parse_args()
    untaught, learned = read("pointwise_mobilenetv2"), read("pointwise_learned")
    draw(
        [
            ({row["name"]: row for row in untaught["rows"]}, untaught["times"]),
            ({row["name"]: row for row in learned["rows"]}, read("pointwise_learned_time")["rows"]),
        ],
        chosen.picture,
    )


if __name__ == "__main__":
    main()
