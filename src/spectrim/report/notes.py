"""What the numbers of a run do not say by themselves: sentences for the page, each only where it applies."""

import math
from collections.abc import Mapping
from typing import Any

from spectrim.report import units
from spectrim.report.forms import slower
from spectrim.report.reading import at, mappings, number, text
from spectrim.report.tables import TIMING_NOISE, computes_the_same

_LOSS = 0.01
"""A fraction of the images."""
_GREAT_LOSS = 0.05
"""Likewise: what more training, or another start, may win back."""


def notes(result: Mapping[str, Any]) -> list[str]:
    """Honest remarks on a result.

    Args:
        result: The dictionary of ``result.json``.

    >>> notes({"dense": {"macs": 5}, "compressed": {"macs": 5}})
    ['The compression saves storage and transfer, not time: the weights are decoded when the file is loaded, and ...]
    """
    found = [_chance(result), _untrained(result), _far_off(result), _speed(result), _bands(result)]
    found += [_dtype(result), _plain(result), _loaded(result), _skips(result)]
    return [note for note in found if note]


def _chance(result: Mapping[str, Any]) -> str:
    """How much of the difference in accuracy may be chance."""
    images = number(result, "data", "test")
    before, after = number(result, "dense", "metric"), number(result, "compressed", "metric")
    if not images or before is None or after is None or text(result, "metric", "name") != "accuracy":
        return ""
    error = 100 * math.sqrt(max(before * (1 - before), after * (1 - after), 0.0) / images)
    seed = number(result, "seed")
    return (
        f"The accuracy was measured on {images:,.0f} images: one image is {100 / images:.2g} points, and the standard "
        f"error of each figure is {error:.2g} points. "
        + (f"This is one run with seed {seed:.0f}; others differ." if seed is not None else "This is one run.")
    )


def _untrained(result: Mapping[str, Any]) -> str:
    """What to do about a loss that no training made up for."""
    before, after = number(result, "dense", "metric"), number(result, "compressed", "metric")
    if before is None or after is None or number(result, "recipe", "compressed", "epochs") != 0:
        return ""
    if before - after < _LOSS:
        return ""
    return (
        f"Nothing was trained after the cut ({units.points(before, after)}). Ask for less of a cut, or let the network "
        "train (--epochs; --distill 1 needs no labels)."
    )


def _far_off(result: Mapping[str, Any]) -> str:
    """What to do about rebuilt filters that trained, and not enough."""
    before, after = number(result, "dense", "metric"), number(result, "compressed", "metric")
    if before is None or after is None or before - after <= _GREAT_LOSS or not mappings(result, "rebuilt", "layers"):
        return ""
    if number(result, "recipe", "compressed", "epochs") == 0:
        return ""  # said already
    wanted = {"assign": "outputs", "start": "outputs"}
    settings = " ".join(f"--set {name}={each}" for name, each in wanted.items() if text(result, "method", name) != each)
    scalar = text(result, "method", "family") in {"", "scalar"}
    more = "a larger --target" if text(result, "method", "target") else "more templates (--keep)"
    other = f", or fits of what filters write ({settings})" if settings and scalar else f", or {more}"
    return (
        f"A network with rebuilt filters goes on recovering for many epochs. A loss like this one "
        f"({units.points(before, after)}) asks for more of them (--epochs){other}."
    )


def _bands(result: Mapping[str, Any]) -> str:
    """How many multiplications the plan's bands leave, and how many of them are transforms."""
    costs = _costs(result)
    if not costs:
        return ""
    whole, kept, transforms = (sum(each) for each in zip(*costs, strict=True))
    return (
        f"{units.plural(len(costs), 'pointwise layer')} of {units.short(whole)} multiplications became {units.short(kept)}, and "
        f"{units.short(transforms)} to transform by rows and columns, as the compiled kernels do; both are among the multiply-adds above, unless a stream was left a spectrum. "
        "Plain torch transforms coefficient by coefficient, which are more."
    )


def _costs(result: Mapping[str, Any]) -> list[Any]:
    """Of the pointwise convolutions that were cut to bands: multiplications before, behind, and of the transforms."""
    edits = [edit for plan in mappings(result, "plans") for edit in mappings(plan, "edits")]
    return [spec["macs"] for edit in edits if isinstance(spec := edit.get("spec"), Mapping) and "macs" in spec]


def _speed(result: Mapping[str, Any]) -> str:
    before, after = number(result, "dense", "macs"), number(result, "compressed", "macs")
    if before is None or after is None or before <= 0:
        return ""
    staged = number(result, "compressed", "macs_in_two_stages")
    if after == before and staged is not None and staged < before:
        forms = [at(form, "ms") for form in mappings(result, "compressed", "forms")]
        fused = any("fused" in name for form in forms if isinstance(form, Mapping) for name in form)
        return (
            f"On this machine, at this size, the network is no faster in two stages{', fused or not' * fused}, so it computes what it "
            f"computed before{_chanced(result)}; in two stages there are "
            f"{units.change(before, staged, less='fewer', more='more')} multiplications."
            + ("" if fused else " Compiled forms (spectrim bench --kernels) may win where the plain ones do not.")
        )
    if after == before:
        return (
            "The compression saves storage and transfer, not time: the weights are decoded when the file is loaded, and "
            f"the network then computes what it computed before{_chanced(result)}."
        )
    old, new = number(result, "dense", "latency_ms"), number(result, "compressed", "latency_ms")
    if old and new and after < before and new > 0.97 * old:
        return (
            f"There are {units.change(before, after, less='fewer', more='more')} multiplications, and still the network "
            f"is not faster here: {_why(result)}"
        )
    return ""


def _why(result: Mapping[str, Any]) -> str:
    """What is known of a network that is not faster."""
    losing, banded = slower(result)
    if not losing:
        return "what is left is memory traffic and the cost of calls."
    return (
        f"{losing} of {banded} pointwise layers run slower with their bands than dense, see what was measured of each. "
        "spectrim bench --restore times the network with all frequencies in these; --set pays=time cuts the others alone."
    )


def _chanced(result: Mapping[str, Any]) -> str:
    """That times of one and the same network differ by chance, where they differ."""
    old, new = number(result, "dense", "latency_ms"), number(result, "compressed", "latency_ms")
    differ = old and new and computes_the_same(result) and abs(new - old) > TIMING_NOISE * old
    return " (the times differ by chance)" if differ else ""


def _dtype(result: Mapping[str, Any]) -> str:
    dtype = text(result, "dtype").removeprefix("torch.")
    if dtype not in {"float16", "bfloat16", "F16", "BF16"}:
        return ""
    return (
        f"The dense size is that of its numbers as they lie in memory, usually four bytes each; the file stores two "
        f"({dtype}). A factor of two of the size is therefore the number format, the rest is the method."
    )


def _plain(result: Mapping[str, Any]) -> str:
    plain, payload = number(result, "compressed", "bytes", "plain"), number(result, "compressed", "bytes", "payload")
    total = number(result, "compressed", "bytes", "total")
    if not plain or not total or payload is None or plain < payload:
        return ""
    if _costs(result) or number(result, "compressed", "macs_in_two_stages") is not None:
        return ""  # the layers that were swapped are among these tensors
    if payload == 0:  # channels went, or nothing did
        return "The file holds an ordinary network: nothing is decoded when it is loaded, and it runs as it is."
    return (
        f"{units.percent(plain / total)} of the file are tensors that the method leaves alone: biases, normalisations, "
        "skipped layers. Keeping fewer coefficients makes it hardly smaller."
    )


def _loaded(result: Mapping[str, Any]) -> str:
    if number(result, "compressed", "metric") is None or not at(result, "compressed", "bytes"):
        return ""
    return "The compressed network was evaluated as loaded back from the written file, rounding included."


def _skips(result: Mapping[str, Any]) -> str:
    plans = mappings(result, "plans")
    skipped = mappings(plans[0], "skipped") if plans else []
    if not skipped:
        return ""
    is_are = "is" if len(skipped) == 1 else "are"
    return f"{units.plural(len(skipped), 'candidate')} {is_are} left dense, see the plan for the reasons."
