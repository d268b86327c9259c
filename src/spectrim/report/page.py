"""The page of a run: one HTML file that needs nothing else, for a person."""

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from spectrim.errors import UnsupportedError
from spectrim.report import changes, forms, rebuilt, units
from spectrim.report.notes import notes
from spectrim.report.reading import at, mappings, number, numbers, text
from spectrim.report.tables import Show, before_after, time_changed, timed

_FIRM = "\N{NO-BREAK SPACE}"
"""Keeps a separator off the beginning of a line."""
_ACRONYMS = {"cfdp": "CFDP"}


def render(result: Mapping[str, Any], *, spectra: Sequence[Mapping[str, Any]] | None = None) -> str:
    """The page as HTML. Everything in it is inlined, every text is escaped, the same input gives the same bytes.

    Args:
        result: The dictionary of ``result.json``. Every entry may be missing; what needs it is then left out.
        spectra: Energy curves as :func:`spectrim.report.spectra` makes them; those in ``result`` if None.

    Raises:
        UnsupportedError: matplotlib or jinja2 is not installed.
    """
    jinja2 = _needed("jinja2")
    _needed("matplotlib")
    from spectrim.report.charts import history_charts

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    curves = mappings(result, "spectra") if spectra is None else list(spectra)
    return str(
        environment.get_template("page.html.j2").render(
            title=_title(result),
            subtitle=_subtitle(result),
            cards=_cards(result),
            table=before_after(result),
            parts=_parts(result),
            notes=notes(result),
            charts=history_charts(result),
            panels=[panel for curve in curves if (panel := _panel(curve))],
            layers=_layers(result),
            rebuilt=_rebuilt(result),
            forms=forms.rows(result),
            filters=rebuilt.chart(result),
            plans=[changes.planned(plan) for plan in mappings(result, "plans")],
            repairs=[changes.repaired(repair) for repair in mappings(result, "history", "repairs")],
            facts=_facts(result),
        )
    )


def write_page(
    path: str | os.PathLike[str], result: Mapping[str, Any], *, spectra: Sequence[Mapping[str, Any]] | None = None
) -> Path:
    """Write :func:`render`'s page; a page that stood there is replaced at once or not at all.

    Args:
        path: Of the file.
        result, spectra: As for :func:`render`.

    Returns:
        The path.

    Raises:
        UnsupportedError: matplotlib or jinja2 is not installed.
        OSError: The file cannot be written.
    """
    page = render(result, spectra=spectra)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _needed(library: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"the page of a run needs the package {library!r}, which is not installed. Run: pip install 'spectrim[report]'"
        ) from error


# -- what the template shows --------------------------------------------------------------------------------------


def _title(result: Mapping[str, Any]) -> str:
    model = text(result, "model", "architecture") or text(result, "model", "name") or "A network"
    kind, _, place = text(result, "data", "name").partition(":")
    # mnist:some/folder is MNIST; of images:some/folder the folder says more
    data = kind if kind not in {"images", "npz", "hf"} else Path(place).name or kind
    return f"{model} on {data}" if data else model


def _subtitle(result: Mapping[str, Any]) -> str:
    method = at(result, "method")
    if isinstance(method, str):
        return method
    if not isinstance(method, Mapping):
        return ""
    settings = [
        f"{_words(name)}{_FIRM}{_value(value)}"
        for name, value in method.items()
        if name != "name" and value is not None and (name, value) != ("batch", 1)
    ]
    name = _ACRONYMS.get(text(method, "name"), _words(text(method, "name")))
    return f"{_FIRM}· ".join([*([name[:1].upper() + name[1:]] if name else []), *settings])


def _cards(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """The headline: a figure after, what it was before, how it changed."""
    metric = text(result, "metric", "name") or "metric"
    before, after = number(result, "dense", "metric"), number(result, "compressed", "metric")
    cards = [
        {
            "label": metric.capitalize(),
            "after": units.percent(after, 2),
            "before": units.percent(before, 2),
            "change": units.points(before, after),
            "tone": "worse" if before is not None and after is not None and after < before - 0.01 else "",
        }
    ]

    def add(label: str, old: float | None, new: float | None, show: Show, changed: str) -> None:
        tone = "worse" if changed.endswith(("larger", "more")) else ""
        cards.append({"label": label, "after": show(new), "before": show(old), "change": changed, "tone": tone})

    old, new = number(result, "dense", "bytes"), number(result, "compressed", "bytes", "total")
    add("File", old, new, units.size, units.change(old, new, less="smaller", more="larger"))
    old, new = number(result, "dense", "parameters"), number(result, "compressed", "numbers")
    add("Learned numbers", old, new, units.count, units.change(old, new, less="fewer"))
    old, new = number(result, "dense", "latency_ms"), number(result, "compressed", "latency_ms")
    add(timed(result).capitalize(), old, new, units.milliseconds, time_changed(result))
    return [card for card in cards if card["after"] != units.MISSING]


def _parts(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the file consists of."""
    total = number(result, "compressed", "bytes", "total")
    if not total:
        return []
    named = (("payload", "coefficients"), ("plain", "other tensors"), ("header", "header"))
    parts = []
    for key, label in named:
        size = number(result, "compressed", "bytes", key)
        if size:
            parts.append({"key": key, "label": label, "size": units.size(size), "share": f"{100 * size / total:.2f}"})
    return parts


def _panel(curve: Mapping[str, Any]) -> dict[str, Any] | None:
    """A small drawing of one spectrum: polylines in a box of 200 by 90, energy upwards, log count to the right."""
    counts, numel, kept = numbers(curve, "counts"), number(curve, "numel"), number(curve, "kept")
    if not counts or not numel or numel < 2:
        return None
    width, height = 200.0, 90.0

    def x(count: float) -> float:
        return round(width * math.log(min(max(count, 1), numel)) / math.log(numel), 1)

    def line(name: str) -> str:
        shares = numbers(curve, name)
        pairs = zip(counts, shares, strict=True) if len(shares) == len(counts) else ()
        return " ".join(f"{x(c):g},{height * (1 - min(max(s, 0), 1)):.1f}" for c, s in pairs if math.isfinite(s))

    dense = numbers(curve, "dense")
    share = next((s for c, s in zip(counts, dense, strict=False) if c == kept), None)
    return {
        "site": text(curve, "site"),
        "numel": units.short(numel),
        "kept": units.count(kept),
        "keep": units.percent(kept / numel) if kept else units.MISSING,
        "held": units.percent(share) if share is not None else "",
        "mark": x(kept) if kept else None,
        "dense": line("dense"),
        "compressed": line("compressed"),
    }


def _layers(result: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of the layer table, with the width of a bar on a log scale, and their sum."""
    rows = []
    layers = mappings(result, "layers")
    for layer in layers:
        numel, kept = number(layer, "numel"), number(layer, "kept")
        known = numel is not None and kept is not None and 0 < kept <= numel
        rows.append(
            {
                "site": text(layer, "site"),
                "shape": units.shape(at(layer, "shape")),
                "numel": units.count(numel),
                "kept": units.count(kept),
                "keep": units.percent((kept or 0) / (numel or 1)) if known else units.MISSING,
                "bar": f"{100 * math.log1p(kept or 0) / math.log1p(numel or 1):.1f}" if known else "0",
            }
        )
    numel = sum(number(layer, "numel") or 0 for layer in layers)
    kept = sum(number(layer, "kept") or 0 for layer in layers)
    total = {
        "numel": units.count(numel),
        "kept": units.count(kept),
        "keep": units.percent(kept / numel) if numel else "",
    }
    return {"rows": rows, "total": total}


def _rebuilt(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """For each layer how many of its filters were rebuilt, and from which."""
    rows = []
    for layer in mappings(result, "rebuilt", "layers"):
        made = at(layer, "made")
        known = {int(output): int(of) for output, of in made.items()} if isinstance(made, Mapping) else {}
        filters = int(number(layer, "filters") or 0)
        row = rebuilt.Rebuilt(
            site=text(layer, "site"), family=text(layer, "family"), groups=1, filters=filters, made=known
        )
        listed = row.listed().replace(" of ", f"{_FIRM}of{_FIRM}").replace(", ", f"{_FIRM}· ")
        rows.append({"site": row.site, "count": f"{len(known)} of {filters}", "listed": listed})
    return rows


def _facts(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What one needs to repeat the run: groups of names and values."""
    data = at(result, "data")
    run = {
        "model": text(result, "model", "name"),
        "weights": text(result, "model", "weights"),
        "data": text(data, "name"),
        "training images": units.count(number(data, "train")),
        "test images": units.count(number(data, "test")),
        "input": units.shape(at(data, "input")) if at(data, "input") else "",
        "where": at(result, "where"),
        "rounds": count if (count := number(result, "rounds")) and count > 1 else "",
        "fresh weights after the cut": fresh if (fresh := text(result, "start")) != "none" else "",
        "seed": at(result, "seed"),
        "mixed precision": text(result, "precision"),
        "numbers stored as": text(result, "dtype"),
    }
    groups: list[tuple[str, Any]] = [("Run", run)]
    groups += [(f"Training, {phase}", at(result, "recipe", phase)) for phase in ("dense", "compressed")]
    seconds = at(result, "history", "seconds")
    if isinstance(seconds, Mapping):
        groups.append(("Wall time", {name: f"{value:,.0f} s" for name in seconds if (value := number(seconds, name))}))
    groups += [
        ("Hardware", at(result, "hardware")),
        ("Versions", at(result, "versions")),
        ("Files", at(result, "files")),
    ]
    shown = []
    for title, group in groups:
        if isinstance(group, Mapping):
            rows = [
                (_words(str(name)), _value(value))
                for name, value in group.items()
                if value not in ("", units.MISSING, None, [], {})
            ]
            if rows:
                shown.append({"title": title, "rows": rows})
    return shown


def _words(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


def _value(value: Any) -> str:
    """Any JSON on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_value(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return units.MISSING if value is None else str(value)
