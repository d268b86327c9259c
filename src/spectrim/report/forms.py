"""What was measured of layers that can run in several forms, as the page of a run tells it."""

from collections.abc import Mapping
from typing import Any

from spectrim.measure import choice
from spectrim.report import units
from spectrim.report.reading import at, mappings, number, text


def rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """For each layer its input, the milliseconds of every form, which was taken, and how long that takes beside the dense one.

    Args:
        result: The dictionary of ``result.json``.

    >>> form = {"site": "conv", "input": [1, 8, 4, 4], "ms": {"dense": 0.2, "banded": 0.1}, "taken": "banded"}
    >>> rows({"compressed": {"forms": [form]}})[0]["ms"]
    'dense 0.200 · banded 0.100'
    """
    found = []
    for form in mappings(result, "compressed", "forms"):
        ms = at(form, "ms")
        times = {name: value for name in ms if (value := number(ms, name))} if isinstance(ms, Mapping) else {}
        taken, dense = times.get(text(form, "taken")), times.get("dense")
        found.append(
            {
                "site": text(form, "site"),
                "input": units.shape(at(form, "input")) if at(form, "input") else "",
                "ms": " · ".join(f"{name} {value:.3f}" for name, value in times.items()),
                "taken": text(form, "taken"),
                "share": f"{taken / dense:.2f}" if taken and dense else units.MISSING,
            }
        )
    return found


def slower(result: Mapping[str, Any]) -> tuple[int, int]:
    """How many layers with bands run slower than the dense ones would, and of how many.

    >>> slower({"compressed": {"forms": [{"site": "a", "ms": {"dense": 1.0, "banded": 2.0}, "taken": "banded"}]}})
    (1, 1)
    """
    banded = [
        (dense, taken)
        for form in mappings(result, "compressed", "forms")
        if text(form, "taken") in {"banded", "chained"} and text(form, "site") != choice.WHOLE
        if (dense := number(form, "ms", "dense")) and (taken := number(form, "ms", text(form, "taken")))
    ]
    return sum(choice.slower(taken, than=dense) for dense, taken in banded), len(banded)


def summary(result: Mapping[str, Any]) -> str:
    """One line on the layers with bands; empty where there are none.

    >>> summary({"compressed": {"forms": [{"site": "a", "ms": {"dense": 1.0, "banded": 0.5}, "taken": "banded"}]}})
    '1 pointwise layer was timed dense and with bands: none slower with bands'
    """
    losing, banded = slower(result)
    if not banded:
        return ""
    were = "was" if banded == 1 else "were"
    return f"{units.plural(banded, 'pointwise layer')} {were} timed dense and with bands: " + (
        f"{losing} slower with bands, which spectrim bench --restore makes dense"
        if losing
        else "none slower with bands"
    )
