"""What was done to the network, as the page lists it: the edits of each plan, and what a repair fitted anew."""

import re
from collections.abc import Mapping
from typing import Any

from spectrim.errors import SpectrimError
from spectrim.report import units
from spectrim.report.reading import mappings, number, numbers, text
from spectrim.surgery.edits import edit_from_json

_TIMES = re.compile(r"(.*?)( \([^()]+ ms\))?", re.DOTALL)


def planned(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The headline of a plan, its edits, and what it skipped, grouped by reason; times behind the site that they were measured of.

    >>> planned({"skipped": [{"site": "fc", "reason": "too small"}]})["skipped"]
    [{'reason': 'too small', 'sites': ['fc']}]
    """
    skipped: dict[str, list[str]] = {}
    for row in mappings(plan, "skipped"):
        reason, measured = _TIMES.fullmatch(text(row, "reason") or "no reason given").groups()  # type: ignore[union-attr]  # everything matches
        skipped.setdefault(reason, []).append(text(row, "site") + (measured or ""))
    edits = mappings(plan, "edits")
    before, after = number(plan, "before"), number(plan, "after")
    line = text(plan, "method")
    if line and edits:
        left = sum(map(len, skipped.values()))
        line += f": {units.plural(len(edits), 'edit')}, {f'{left:,}' if left else 'nothing'} skipped"
        if before is not None and after is not None:
            line += f", {units.count(before)} → {units.count(after)} numbers"
        target, fraction = text(plan, "budget", "target"), number(plan, "budget", "fraction")
        if target and fraction is not None:
            line += f"; asked for {target}, {fraction:.3f} of dense is left"
    return {
        "line": line,
        "edits": [row for edit in edits if (row := _edit(edit))["site"]],
        "skipped": [{"reason": reason, "sites": sites} for reason, sites in skipped.items()],
    }


def _edit(edit: Mapping[str, Any]) -> dict[str, str]:
    """Where, and what; an edit that this version does not know has no words."""
    try:
        known = edit_from_json(dict(edit))
        return {"site": known.site, "what": known.summary()}
    except (SpectrimError, KeyError, TypeError, AttributeError, ValueError):
        return {"site": text(edit, "path"), "what": ""}


def repaired(repair: Mapping[str, Any]) -> dict[str, Any]:
    """The headline of a repair, a row for each layer that was fitted, and what kept its weights, grouped by reason."""
    rows = []
    for row in mappings(repair, "refitted"):
        read = numbers(row, "inputs")
        rows.append(
            {
                "site": text(row, "path"),
                "inputs": " of ".join(map(units.count, read)),
                "before": units.percent(number(row, "before")),
                "after": units.percent(number(row, "after")),
            }
        )
    left: dict[str, list[str]] = {}
    for row in mappings(repair, "left"):
        left.setdefault(text(row, "reason") or "no reason given", []).append(text(row, "site"))
    norms, images = int(number(repair, "norms") or 0), numbers(repair, "images")
    before, after = number(repair, "before"), number(repair, "after")
    line = ""
    if len(images) == 2 and before is not None and after is not None:
        fitted = f"{len(rows)} of {units.plural(len(rows) + sum(map(len, left.values())), 'layer')} and {units.plural(norms, 'norm')}"
        line = (
            f"{fitted} were fitted in closed form to what the network wrote before, on {images[0]:,.0f} training images, without "
            f"labels. On {images[1]:,.0f} others {units.percent(before)} of the output was off after the cut, and {units.percent(after)} after the repair"
        )
    if line and (undone := text(repair, "undone")):
        line += f". All was undone: {undone}"
    return {"line": line, "rows": rows, "left": [{"reason": why, "sites": sites} for why, sites in left.items()]}
