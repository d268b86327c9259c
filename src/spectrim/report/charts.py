"""The plots of the page, drawn by matplotlib as SVG that is put into the page itself."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from spectrim.report.reading import at, mappings, number, numbers, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1f2933", "#7b8794", "#e4e7eb"
BEFORE, AFTER = "#8a94a0", "#0b7285"
_NAMED_LINES = 8
_MOST_POINTS = 240

_STYLE: dict[str, Any] = {
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.5,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and takes the font of the page
    "svg.hashsalt": "spectrim",
    "text.color": INK,
    "text.parse_math": False,  # names are shown as they are, dollar signs included
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn plot.

    Attributes:
        title: Above it.
        summary: What it shows, in words, for those who do not see it.
        svg: The drawing.
    """

    title: str
    summary: str
    svg: str


def history_charts(result: Mapping[str, Any]) -> list[Chart]:
    """The plots of how a run went: kept counts, quality, loss, learning rate; those without data are left out."""
    drawn = [_kept(result), _quality(result), _curve(result, "loss", "Training loss", "log")]
    drawn.append(_curve(result, "lr", "Learning rate", "linear"))
    return [chart for chart in drawn if chart is not None]


def _kept(result: Mapping[str, Any]) -> Chart | None:
    steps = numbers(result, "history", "kept", "steps")
    counts = at(result, "history", "kept", "counts")
    if not steps or not isinstance(counts, Mapping):
        return None
    lines = {str(site): numbers(counts, site) for site in counts}
    lines = {site: line for site, line in lines.items() if len(line) == len(steps) and max(line) > 0}
    if not lines:
        return None
    with _axes() as (axes, drawing):
        axes.set_yscale("log")
        shades = _shades(len(lines))
        for line, shade in zip(lines.values(), shades, strict=True):
            axes.step(*_picked(steps, line), where="post", color=shade)
        if len(lines) <= _NAMED_LINES:
            _name_lines(axes, {site: line[-1] for site, line in lines.items()}, shades)
        else:
            _depth_key(axes, shades, next(iter(lines)), next(reversed(lines)))
        _finish(axes, "optimizer step of the compressing phase")
        _plain_log_ticks(axes)
    final = sum(line[-1] for line in lines.values())
    first = sum(line[0] for line in lines.values())
    summary = f"Kept coefficients of {len(lines)} tensors on a log axis, from {first:,.0f} to {final:,.0f} in all."
    return Chart(title="Kept coefficients per layer", summary=summary, svg=drawing.svg)


def _quality(result: Mapping[str, Any]) -> Chart | None:
    phases: dict[str, list[tuple[float, float]]] = {"dense": [], "compressed": []}
    for look in mappings(result, "history", "evaluations"):
        step, metric = number(look, "step"), number(look, "metric")
        if step is not None and metric is not None:
            phases.setdefault(text(look, "phase"), []).append((step, 100 * metric))
    if all(step == 0 for looks in phases.values() for step, _ in looks):  # nothing was trained: the table says it all
        return None
    name = text(result, "metric", "name") or "metric"
    with _axes() as (axes, drawing):
        offset, boundary = 0.0, _last_step(result, "dense")
        for phase, color in (("dense", BEFORE), ("compressed", AFTER)):
            looks = sorted(phases[phase])
            marker = "o" if len(looks) < 30 else None
            xs = [offset + step for step, _ in looks]
            axes.plot(xs, [metric for _, metric in looks], color=color, marker=marker, markersize=3)
            offset = boundary
        if boundary:
            _boundary(axes, boundary)
        before = number(result, "dense", "metric")
        if before is not None:
            axes.axhline(100 * before, color=BEFORE, linewidth=0.8, linestyle=(0, (2, 2)))
        _finish(axes, "optimizer step")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        _phase_key(axes, [phase for phase in ("dense", "compressed") if phases[phase]])
    after = number(result, "compressed", "metric")
    summary = f"The {name} on the test images over the steps of training"
    summary += f", {100 * before:.2f} percent before and {100 * after:.2f} percent after." if before and after else "."
    return Chart(title=f"Test {name}", summary=summary, svg=drawing.svg)


def _curve(result: Mapping[str, Any], what: str, title: str, scale: Literal["log", "linear"]) -> Chart | None:
    curves = []
    for phase, color in (("dense", BEFORE), ("compressed", AFTER)):
        steps, values = numbers(result, "history", phase, "steps"), numbers(result, "history", phase, what)
        if steps and len(steps) == len(values) and any(map(math.isfinite, values)):
            curves.append((phase, color, steps, values))
    if not curves:
        return None
    with _axes() as (axes, drawing):
        if scale == "log" and all(value > 0 for *_, values in curves for value in values if math.isfinite(value)):
            axes.set_yscale("log")
        boundary = _last_step(result, "dense")
        for phase, color, steps, values in curves:
            shift = boundary if phase == "compressed" else 0.0
            axes.plot(*_averaged([shift + step for step in steps], values), color=color)
        if boundary:
            _boundary(axes, boundary)
        if axes.get_yscale() == "linear":
            axes.set_ylim(bottom=0)
        _finish(axes, "optimizer step")
        if axes.get_yscale() == "log":
            _plain_log_ticks(axes)
        _phase_key(axes, [phase for phase, *_ in curves])
    ends = ", ".join(f"{values[0]:.3g} to {values[-1]:.3g} while {phase}" for phase, _, _, values in curves)
    return Chart(title=title, summary=f"{title} over the steps of training: {ends}.", svg=drawing.svg)


# -- drawing ------------------------------------------------------------------------------------------------------


class _Drawing:
    svg = ""


@contextmanager
def styled() -> Iterator[None]:
    """In the block, matplotlib draws in the style of the page, whatever the user has set; that comes back afterwards."""
    import matplotlib as mpl

    defaults = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    settings: dict[Any, Any] = {**defaults, **_STYLE}
    with mpl.rc_context(settings):
        yield


@contextmanager
def _axes() -> "Iterator[tuple[Axes, _Drawing]]":
    """Axes in the style of the page; the drawing holds the SVG once the block has ended."""
    with drawn(width=5.1, height=3.0) as (figure, drawing):
        yield figure.add_subplot(), drawing


@contextmanager
def drawn(*, width: float, height: float) -> "Iterator[tuple[Figure, _Drawing]]":
    """A figure of so many inches in the style of the page; the drawing holds the SVG once the block has ended."""
    from matplotlib.figure import Figure  # not pyplot: that one keeps global state and may look for a screen
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with styled():
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
        drawing = _Drawing()
        yield figure, drawing
        written = io.StringIO()
        blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=blank)
    drawing.svg = _inline(written.getvalue())


def _inline(svg: str) -> str:
    """What of an SVG file belongs into a page: no prolog, no metadata, no fixed size, fonts of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    return svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").strip()


def _finish(axes: "Axes", label: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel(label)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.set_xlim(left=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _picked(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most about ``_MOST_POINTS`` of the points, the last one among them."""
    stride = -(-len(steps) // _MOST_POINTS)
    places = [*range(0, len(steps) - 1, stride), len(steps) - 1]
    return [steps[place] for place in places], [values[place] for place in places]


def _averaged(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most about ``_MOST_POINTS`` means over neighbours; what is not finite is passed over."""
    stride = -(-len(steps) // _MOST_POINTS)
    points = []
    for start in range(0, len(steps), stride):
        near = [value for value in values[start : start + stride] if math.isfinite(value)]
        points.append((steps[start], sum(near) / len(near) if near else math.nan))
    return [step for step, _ in points], [value for _, value in points]


def _plain_log_ticks(axes: "Axes") -> None:
    """Ticks of a log axis as plain numbers; between the powers of ten only where there would be too few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 3 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, _: object = None) -> str:
    for scale, letter in ((1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:g} {letter}"
    return f"{value:g}"


def _shades(lines: int) -> list[tuple[float, float, float]]:
    """Colours by depth: from the first layer to the last, all dark enough for paper."""
    from matplotlib.colors import LinearSegmentedColormap

    depth = LinearSegmentedColormap.from_list("depth", ["#f08c00", "#c2255c", "#5f3dc4", "#0b7285"])
    return [depth(place / max(lines - 1, 1))[:3] for place in range(lines)]


def _name_lines(axes: "Axes", ends: Mapping[str, float], shades: Sequence[tuple[float, float, float]]) -> None:
    """Write each line's name beside its end, moved apart where they would overlap."""
    low, high = (math.log10(limit) for limit in axes.get_ylim())
    room = 0.075 * (high - low)
    wanted = sorted((math.log10(end), site) for site, end in ends.items())
    heights = [height for height, _ in wanted]
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + room)
    colors = dict(zip(ends, shades, strict=True))
    for height, (_, site) in zip(heights, wanted, strict=True):
        position = (height - low) / (high - low)
        name = site.removesuffix(".weight")
        name = name if len(name) <= 18 else "…" + name[-17:]
        axes.text(1.015, position, name, transform=axes.transAxes, color=colors[site], fontsize=9, va="center")


def _depth_key(axes: "Axes", shades: Sequence[tuple[float, float, float]], first: str, last: str) -> None:
    """In place of names, where there are too many lines: which colour is which depth."""
    for x, name, shade, side in ((0.62, first, shades[0], "right"), (0.8, last, shades[-1], "left")):
        label = name.removesuffix(".weight")
        label = label if len(label) <= 18 else "…" + label[-17:]
        axes.text(x, 1.02, label, transform=axes.transAxes, color=shade, fontsize=9, ha=side, va="bottom")
    width = 0.14 / len(shades)
    for place, shade in enumerate(shades):
        xs = [0.64 + place * width, 0.64 + (place + 1) * width]
        axes.plot(xs, [1.05, 1.05], transform=axes.transAxes, color=shade, linewidth=4, clip_on=False)


def _phase_key(axes: "Axes", phases: Sequence[str]) -> None:
    """Coloured words above the plot in place of a legend."""
    words = {"dense": ("dense", BEFORE), "compressed": ("compressed", AFTER)}
    x = 0.0
    for phase in phases:
        word, color = words[phase]
        axes.text(x, 1.03, word, transform=axes.transAxes, color=color, fontsize=9.5, fontweight="bold", va="bottom")
        x += 0.15


def _boundary(axes: "Axes", step: float) -> None:
    axes.axvline(step, color=RULE, linewidth=1.2, zorder=0.5)


def _last_step(result: Mapping[str, Any], phase: str) -> float:
    """Where a phase ends: the last step that anything was seen at."""
    steps = numbers(result, "history", phase, "steps")
    looks = [
        number(look, "step") for look in mappings(result, "history", "evaluations") if text(look, "phase") == phase
    ]
    return max(
        [*(step for step in steps if math.isfinite(step)), *(look for look in looks if look is not None)], default=0
    )
