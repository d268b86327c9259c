"""What the output of a model owes to each frequency that a layer reads, channel by channel."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Of one pointwise convolution.

    Attributes:
        path: Of the layer.
        block: Height and width of the blocks.
        worth: Squared change when a frequency is left out of a channel, in the order in which they are kept; the mean of the block, which always
            stays, is not among them.
        kept: How many coefficients, the mean included, each channel keeps at the plan's budget; None where the layer is left dense.
    """

    path: str
    block: tuple[int, int]
    worth: Float[Tensor, "channel frequency"]
    kept: tuple[int, ...] | None

    @property
    def falls(self) -> float:
        """How surely the worth falls with the frequency: the median over the channels of the rank correlation, -1 where it always does.

        NaN where no channel tells two frequencies apart.

        >>> Sensitivity("conv", (2, 2), torch.tensor([[4.0, 2.0, 1.0], [1.0, 2.0, 3.0], [9.0, 5.0, 1.0]]), None).falls
        -1.0
        """
        ranks = np.asarray(rankdata(self.worth.numpy(), axis=1))
        ranks = ranks - ranks.mean(1, keepdims=True)
        order = np.arange(ranks.shape[1]) - (ranks.shape[1] - 1) / 2
        length = np.sqrt((ranks**2).sum(1) * (order**2).sum())
        told = length > 0
        return float(np.median((ranks @ order)[told] / length[told])) if told.any() else float("nan")

    def quantiles(self) -> tuple[float, float, float] | None:
        """The share of its coefficients that a channel keeps: of the lowest tenth at most, the median, of the highest tenth at least."""
        if self.kept is None:
            return None
        share = torch.tensor(self.kept, dtype=torch.float64) / (self.block[0] * self.block[1])
        low, middle, high = torch.quantile(share, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
        return low, middle, high

    def to_json(self) -> dict[str, Any]:
        """The numbers; and every channel's sensitivity, as shares of the layer's, to four digits."""
        total = self.worth.sum().clamp(min=torch.finfo(torch.float64).tiny)
        return {
            "path": self.path,
            "block": list(self.block),
            "falls": self.falls,
            "quantiles": self.quantiles(),
            "kept": None if self.kept is None else list(self.kept),
            "worth": [[float(f"{value:.3e}") for value in row] for row in (self.worth / total).tolist()],
        }
