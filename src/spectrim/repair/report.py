"""What a repair did, layer by layer, as a value that prints."""

import json
from dataclasses import asdict, dataclass
from typing import Any, cast

from spectrim.surgery.plan import Skipped


@dataclass(frozen=True)
class Refitted:
    """A layer that got new weights.

    Attributes:
        path: Of the layer.
        inputs: How many numbers one of its outputs is made from, and in the original.
        before, after: Share of its output's variance that is lost against the original, on held-out images: with the
            weights that the cut left, and with the new ones. Layers before it are repaired in both.
    """

    path: str
    inputs: tuple[int, int]
    before: float
    after: float


@dataclass(frozen=True)
class Repair:
    """What :func:`spectrim.repair_` did; print it, or take ``to_json()``.

    Attributes:
        refitted: Layers with new weights, in the order in which they are called.
        left: Convolutions and linear layers that keep theirs, with the reason.
        norms: How many batch normalisations got new statistics.
        images: How many images were fitted to, and how many were held out.
        before, after: Squared error of the model's output against the original's, relative to the original's, on the held-out
            images: as it came, and now.
        undone: What was tried and taken back, because the output got further off, and how far; empty where nothing was.
    """

    refitted: tuple[Refitted, ...]
    left: tuple[Skipped, ...]
    norms: int
    images: tuple[int, int]
    before: float
    after: float
    undone: str = ""

    def __str__(self) -> str:
        """A headline and a line for each layer."""
        names = [row.path for row in self.refitted] + [row.site for row in self.left]
        width = max(map(len, names), default=0)
        headline = (
            f"refitted {len(self.refitted)} of {len(names)} layers and {self.norms} norms to {self.images[0]:,} images; on "
            f"{self.images[1]:,} others {self.before:.1%} → {self.after:.1%} of the output is off"
        )
        lines = [f"{headline}; undone: {self.undone}" if self.undone else headline]
        lines += [
            f"  {row.path:<{width}}  {row.inputs[0]:,} of {row.inputs[1]:,} inputs; {row.before:.1%} → {row.after:.1%} is lost"
            for row in self.refitted
        ]
        lines += [f"  {row.site:<{width}}  left as it is: {row.reason}" for row in self.left]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain JSON."""
        return cast(dict[str, Any], json.loads(json.dumps(asdict(self))))
