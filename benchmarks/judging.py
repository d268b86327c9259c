"""Predictions beside those of the dense network."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def compared(found: Tensor, dense: Tensor, labels: Tensor) -> dict[str, Any]:
    """Top-1 of predictions beside those of the dense network: the difference in points, its 95 % interval, and the agreement."""
    right, was = found == labels, dense == labels
    better, worse, n = int((right & ~was).sum()), int((~right & was).sum()), len(labels)
    spread = 1.96 * math.sqrt(max(better + worse - (better - worse) ** 2 / n, 0)) / n
    points = (better - worse) / n
    return {
        "top1": 100 * right.double().mean().item(),
        "points": 100 * points,
        "interval": [100 * (points - spread), 100 * (points + spread)],
        "changed": {"worse": worse, "better": better},
        "agreement": 100 * (found == dense).double().mean().item(),
    }


def judgement(row: Mapping[str, Any]) -> list[str]:
    """Top-1, points and agreement of :func:`compared`, for a table."""
    low, high = row["interval"]
    return [f"{row['top1']:.2f}", f"{row['points']:+.2f} ({low:+.2f} to {high:+.2f})", f"{row['agreement']:.1f}"]
