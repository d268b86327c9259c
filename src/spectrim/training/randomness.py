"""Randomness that needs no memory: what a step draws depends on the seed and on the step, not on what went before.

A run that is stopped and resumed therefore equals one that was not, whatever draws numbers in between.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mixed(*numbers: int) -> int:
    """A 63-bit number that is different for different arguments, in effect.

    >>> mixed(0, 1) == mixed(0, 1), mixed(0, 1) == mixed(1, 0)
    (True, False)
    """
    high, low = np.random.SeedSequence([len(numbers), *numbers]).generate_state(2, np.uint32).tolist()
    return int((high << 32 | low) >> 1)


def seed_everything(*numbers: int) -> None:
    """Set the global generators of Python, numpy and torch (all devices) to a state given by some numbers.

    For programs, between two steps; the library itself draws from generators that it is given.
    """
    state = mixed(*numbers)
    random.seed(state)
    np.random.seed(state % 2**32)  # noqa: NPY002  # the global state is the one that user code may draw from
    torch.manual_seed(state)


def shuffled(count: int, *numbers: int) -> torch.Tensor:
    """The numbers below ``count`` in an order given by some numbers.

    >>> shuffled(4, 0, 1).sort().values
    tensor([0, 1, 2, 3])
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed(*numbers)))


@contextmanager
def deterministic() -> Iterator[None]:
    """Algorithms that give the same bits every time, while the block runs; a warning where torch has none."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
