"""Bands: how many of the first frequencies each channel keeps, softly while that is learned, and in few groups at the end."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROUNDING = 1e-3
"""What a product of a fraction and a count may be off by; a thousandth of a coefficient is none."""


def soft_band(
    kept: Float[Tensor, "channel"], frequencies: int, width: float | Tensor = 1.0
) -> Float[Tensor, "channel frequency"]:
    """The weights that a band of a fractional width gives to each frequency, differentiable in the width.

    .. math::

        m_c(0) = 1, \\qquad m_c(f) = \\min(\\max((t_c - f) / R, 0), 1)

    Args:
        kept: Of each channel, how many coefficients it keeps (t), not necessarily whole.
        frequencies: How many there are.
        width: Of the ramp (R), at least 1.

    References:
        Sukhbaatar et al. 2019, "Adaptive Attention Span in Transformers", equation 4: the same ramp over positions.

    >>> soft_band(torch.tensor([5.5]), 8, 4)
    tensor([[1.0000, 1.0000, 0.8750, 0.6250, 0.3750, 0.1250, 0.0000, 0.0000]])
    """
    f = torch.arange(frequencies, device=kept.device)
    ramp = ((kept[:, None] - f) / width).clamp(0, 1)
    return torch.where(f == 0, 1, ramp)


def hard_counts(kept: Float[Tensor, "channel"], frequencies: int) -> Int[Tensor, "channel"]:
    """The whole numbers of coefficients under the support of :func:`soft_band`: rounded up, at least 1.

    >>> hard_counts(torch.tensor([0.2, 5.5, 6.0, 70.0]), 8)
    tensor([1, 6, 6, 8])
    """
    return torch.ceil(kept.detach().double() - _ROUNDING).long().clamp(1, frequencies)


def grouped(counts: Sequence[int], groups: int) -> list[tuple[int, int]]:
    """Few contiguous groups of the sorted channels, each as wide as its widest: what makes pruned products dense.

    Minimises :math:`\\sum_j |g_j| K_j` with :math:`K_j = \\max_{c \\in g_j} k_c`, exactly, by dynamic programming over the distinct
    counts.

    Args:
        counts: Of the channels, in any order.
        groups: At most how many.

    Returns:
        The size and the count of each group, largest count first.

    >>> grouped([3, 1, 4, 2], 2)
    [(2, 4), (2, 2)]
    """
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}.")
    levels = sorted(set(counts), reverse=True)
    of = Counter(counts)
    if len(levels) <= groups:  # nothing has to be raised; with many levels the search below takes long
        return [(of[level], level) for level in levels]
    ends = list(itertools.accumulate(of[level] for level in levels))  # channels of this level and above
    before = [0, *ends]
    # best[j]: the least cost of the first j levels with the groups used so far, and where its last group begins
    best: list[float] = [0.0] + [math.inf] * len(levels)
    cuts: list[list[int]] = []
    for _ in range(min(groups, len(levels))):
        following, chosen = list(best), list(range(len(levels) + 1))
        for j in range(1, len(levels) + 1):
            for i in range(j):
                cost = best[i] + (ends[j - 1] - before[i]) * levels[i]
                if cost < following[j]:
                    following[j], chosen[j] = cost, i
        best = following
        cuts.append(chosen)
    found: list[tuple[int, int]] = []
    j = len(levels)
    for chosen in reversed(cuts):
        if (i := chosen[j]) < j:
            found.append((ends[j - 1] - before[i], levels[i]))
            j = i
    return found[::-1]


def rounded_up(counts: Int[Tensor, "channel"], levels: int) -> Int[Tensor, "channel"]:
    """The counts raised to at most so many different values, by as little as possible in total.

    >>> rounded_up(torch.tensor([3, 1, 4, 2]), 2)
    tensor([4, 2, 4, 2])
    """
    values = torch.tensor(sorted(count for _, count in grouped(counts.tolist(), levels)), device=counts.device)
    return values[torch.searchsorted(values, counts)].to(counts.dtype)
