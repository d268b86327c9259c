"""Curves from [0, 1] to [0, 1] along which the methods move: how much of the way is done at a given progress."""

import math


def linear(progress: float) -> float:
    """Equal steps.

    >>> [linear(p / 4) for p in range(5)]
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    return _checked(progress)


def cosine(progress: float) -> float:
    """Slow, fast, slow: half a period of a cosine.

    >>> [round(cosine(p / 4), 3) for p in range(5)]
    [0.0, 0.146, 0.5, 0.854, 1.0]
    """
    return (1 - math.cos(math.pi * _checked(progress))) / 2


def exponential(progress: float, rate: float) -> float:
    """Fast first, then ever slower: the distance to the end shrinks by a constant factor.

    Args:
        progress: Share of the way in time, in [0, 1].
        rate: How many times the distance falls by *e* over the whole way; 0 is linear.

    >>> [round(exponential(p / 4, rate=5.0), 3) for p in range(5)]
    [0.0, 0.718, 0.924, 0.983, 1.0]
    """
    if rate == 0:
        return linear(progress)
    return math.expm1(-rate * _checked(progress)) / math.expm1(-rate)


def _checked(progress: float) -> float:
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must lie in [0, 1], got {progress}. Pass (step + 1) / total_steps.")
    return float(progress)
