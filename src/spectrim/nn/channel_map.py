"""A shortcut that picks channels: what a parameter-free skip connection between different widths really does."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ChannelMap(nn.Module):
    """Output channel *j* is input channel ``source[j]``, or zero where that is -1.

    Padding with zero channels, cropping and gathering are all such maps. Unlike ``F.pad`` with fixed amounts it can
    follow when channels are removed on either side, because its indices are state.

    Args:
        source: Which input channel each output channel takes.

    Raises:
        ValueError: An index is below -1.

    >>> ChannelMap([-1, 0, 1])(torch.ones(1, 2, 1, 1)).flatten()
    tensor([0., 1., 1.])
    """

    source: Tensor

    def __init__(self, source: list[int]) -> None:
        super().__init__()
        if min(source, default=-1) < -1:
            raise ValueError(f"a source is a channel number, or -1 for zero, got {min(source)}.")
        self.register_buffer("source", torch.tensor(source, dtype=torch.int32))

    @classmethod
    def padded(cls, inside: int, outside: int) -> Self:
        """The shortcut of option A: zero channels in front and behind, as evenly as it goes.

        >>> ChannelMap.padded(2, 4).source
        tensor([-1,  0,  1, -1], dtype=torch.int32)
        """
        front = (outside - inside) // 2
        return cls([-1] * front + list(range(inside)) + [-1] * (outside - inside - front))

    def forward(self, x: Float[Tensor, "batch inside *space"]) -> Float[Tensor, "batch outside *space"]:
        """The picked channels."""
        with_zero = nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (1, 0))
        return with_zero.index_select(1, self.source.long() + 1)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # Weights published for the same network with a padded shortcut do not hold it: it is then as it was built.
        present = dict(state_dict)
        present.setdefault(f"{prefix}source", self.source)
        super()._load_from_state_dict(present, prefix, *args)

    def extra_repr(self) -> str:
        """Width, and how many outputs are zero, for ``print(model)``."""
        return f"outside={len(self.source)}, zero={int((self.source < 0).sum())}"
