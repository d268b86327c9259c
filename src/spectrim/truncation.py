"""How many coefficients a spectrum keeps: the final count, and the way there."""

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, cast

import numpy as np

from spectrim import schedules

Curve = Literal["geometric", "halving", "linear", "cosine", "at-once", "fr2023-geometric", "fr2023-linear"]
CURVES: tuple[Curve, ...] = ("geometric", "halving", "linear", "cosine", "at-once", "fr2023-geometric", "fr2023-linear")


def target_count(numel: int, keep: float, floor: int = 1) -> int:
    """``max(round(numel * keep), floor)``, at most ``numel``.

    >>> target_count(589_824, 0.01), target_count(1_728, 0.01, floor=128), target_count(25, 0.01, floor=128)
    (5898, 128, 25)
    """
    return min(max(round(numel * keep), floor), numel)


@dataclass(frozen=True)
class Truncation:
    """The kept count of one spectrum as a function of progress, falling from ``numel`` to ``target``.

    ======================  ==================================================================================
    ``geometric``           the paper's shape: the distance to the target shrinks by a constant factor, to one
                            coefficient at the end
    ``halving``             the count itself shrinks by a constant factor: equal time per halving
    ``linear``, ``cosine``  of :mod:`spectrim.schedules`
    ``at-once``             truncated from the start
    ``fr2023-geometric``    the official layers' trace for convolutions and linear layers, step by step
    ``fr2023-linear``       the official layers' trace for transposed convolutions
    ======================  ==================================================================================

    Args:
        numel: Coefficients in the spectrum.
        target: How many stay in the end, in [1, numel].
        curve: Which way.
        keep, decay, floor, steps: For the two official traces: their ``minrate``, ``droprate``, lower bound on
            the count less one, and how many training steps progress 1 stands for.

    Raises:
        ValueError: A value is out of range or of the wrong type.

    References:
        Zhao et al. 2023 (arXiv 2304.07973), "dynamic tail truncation"; the schedule of the authors' training layers.

    >>> [Truncation(36_864, 369).count(p / 4) for p in range(5)]
    [36864, 3009, 560, 382, 369]
    >>> [Truncation(36_864, 369, "halving").count(p / 4) for p in range(5)]
    [36864, 11661, 3689, 1167, 369]
    """

    numel: int
    target: int
    curve: Curve = "geometric"
    keep: float = 0.0
    decay: float = 0.0
    floor: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise ValueError(f"the schedule must be one of {', '.join(CURVES)}, got {self.curve!r}.")
        if not 1 <= self.target <= self.numel:
            raise ValueError(f"the target must lie in [1, {self.numel}], got {self.target}.")

    def count(self, progress: float) -> int:
        """How many coefficients stay at ``progress`` in [0, 1]: never rises, and is ``target`` at 1."""
        schedules.linear(progress)  # refuses what is out of range
        if progress == 1 or self.curve == "at-once":
            return self.target
        if self.curve.startswith("fr2023"):
            counts: tuple[int, ...] = self._trace()
            step = round(progress * self.steps)
            return self.numel if step == 0 else counts[min(step, len(counts)) - 1]
        if self.curve == "halving":
            return math.ceil(self.numel * math.pow(self.target / self.numel, progress))
        gone = self.numel - self.target
        if self.curve == "geometric":
            return self.numel - math.floor(gone * schedules.exponential(progress, rate=math.log1p(gone)))
        shape = schedules.linear if self.curve == "linear" else schedules.cosine
        return self.numel - math.floor(gone * shape(progress))

    def _trace(self) -> tuple[int, ...]:
        if self.curve == "fr2023-linear":
            return _linear_trace(self.numel, self.decay, self.floor)
        return _geometric_trace(self.numel, self.keep, self.decay, self.floor)

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads; defaults are left out."""
        whole = asdict(self)
        return {name: value for name, value in whole.items() if value != _DEFAULTS.get(name)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_json`.

        Raises:
            ValueError: An entry is unknown, missing or of the wrong type.
        """
        kinds: dict[str, tuple[type, ...]] = {
            "numel": (int,), "target": (int,), "curve": (str,), "keep": (int, float), "decay": (int, float),
            "floor": (int,), "steps": (int,),
        }  # fmt: skip
        for name, value in data.items():
            if name not in kinds or isinstance(value, bool) or not isinstance(value, kinds[name]):
                raise ValueError(f"a truncation has no entry {name!r} of value {value!r}.")
        if missing := {"numel", "target"} - data.keys():
            raise ValueError(f"a truncation lacks {', '.join(sorted(missing))}.")
        return cls(**data)


_DEFAULTS: dict[str, Any] = {"curve": "geometric", "keep": 0.0, "decay": 0.0, "floor": 0, "steps": 0}


def official_truncation(
    numel: int, keep: float, *, decay: float = 0.001, floor: int = 127, groups: int = 1, transposed: bool = False
) -> Truncation:
    """The count and the trace of the authors' training layers, with their rounding: it ends one or two above the target.

    The official step count is the number of training steps after which the layer is frozen.

    Args:
        numel: Coefficients in the tensor.
        keep: The official ``minrate``.
        decay: The official ``droprate``.
        floor: The official lower bound; one more is kept. 127 for convolutions, 255 for linear layers, 31 for transposed.
        groups: Of a transposed convolution, whose bound is rounded per group.
        transposed: Whether the layer is a transposed convolution, whose count falls linearly.

    >>> official_truncation(589_824, 0.01).target, official_truncation(589_824, 0.01).steps
    (5899, 13547)
    >>> official_truncation(819_200, 0.01, floor=31, transposed=True).target
    8192
    """
    bound = max(round(numel * groups * keep // groups), floor) if transposed else max(round(numel * keep), floor)
    if transposed:
        trace, curve = _linear_trace(numel, decay, bound), "fr2023-linear"
    else:
        trace, curve = _geometric_trace(numel, keep, decay, bound), "fr2023-geometric"
    return Truncation(numel, trace[-1], cast(Curve, curve), keep=keep, decay=decay, floor=bound, steps=len(trace))


@functools.lru_cache(maxsize=256)
def _geometric_trace(numel: int, keep: float, decay: float, bound: int) -> tuple[int, ...]:
    """Counts after training steps 1, 2, …: ranks up to and including a float32 threshold stay."""
    counts, rate, threshold = [], 1.0, float(numel)
    if threshold <= bound + 1:
        return (numel,)
    while threshold > bound + 1:
        threshold = max(rate * numel, bound)
        counts.append(min(numel, math.floor(np.float32(threshold)) + 1))
        rate -= decay * (rate - keep)
    return tuple(counts)


@functools.lru_cache(maxsize=256)
def _linear_trace(numel: int, decay: float, bound: int) -> tuple[int, ...]:
    """Counts after training steps 1, 2, …: equal steps, then steps of one; ranks below the threshold stay."""
    counts, speed, drop = [], decay * numel, float(numel)
    while drop > bound:
        counts.append(min(numel, math.ceil(np.float32(drop))))
        drop -= speed
        if drop < bound:
            drop += speed
            if speed == 1:
                break
            speed = 1.0
    return tuple(counts) or (numel,)
