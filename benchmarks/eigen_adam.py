"""Adam in the eigenbasis of the gradients' covariance: affordable because a coded network has about a thousand numbers.

Truncated spectra share their low frequencies over all channels, so the coefficients are strongly coupled, and an
optimizer with one step size per coefficient crawls. With about a thousand numbers the whole covariance fits in a few
megabytes, and its eigenvectors are found in a fraction of a second.

References:
    Gupta et al. 2018, "Shampoo" (arXiv 1802.09568); Vyas et al. 2024, "SOAP" (arXiv 2409.11321): the same idea, there
    with one factor per axis of a matrix, here for all numbers of the network at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Block:
    """What is known about a run of numbers: mean gradient, second moments in the basis, covariance, basis."""

    mean: Tensor
    second: Tensor
    covariance: Tensor
    basis: Tensor


class EigenAdam(torch.optim.Optimizer):
    """One Adam for all parameters together, in a basis that is renewed now and then.

    Args:
        groups: Each with ``params``, ``entries`` (for each parameter the flat positions that count - of a code: the kept
            coefficients - or None for all) and ``lr``.
        momentum: Decay of the mean gradient.
        decay: Decay of the covariance and of the second moments.
        every: Steps between two bases.
        damping: Added to the root of each second moment, as a share of the largest.
        block: Of more numbers than these, each run of so many has a covariance of its own: the eigenvectors of larger
            ones take too long.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        momentum: float = 0.9,
        decay: float = 0.99,
        every: int = 100,
        damping: float = 1e-4,
        block: int = 1200,
    ) -> None:
        super().__init__(groups, {})
        self.momentum, self.decay, self.every, self.damping = momentum, decay, every, damping
        count = sum(p.numel() if at is None else len(at) for p, at, _ in self._pieces())
        pieces = math.ceil(count / block)
        sizes = [count // pieces + (number < count % pieces) for number in range(pieces)]
        self.steps = 0
        self.blocks = [Block(torch.zeros(n), torch.zeros(n), torch.zeros(n, n), torch.eye(n)) for n in sizes]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients that are there."""
        gradient = torch.cat(
            [_at(torch.zeros_like(p) if p.grad is None else p.grad, at) for p, at, _ in self._pieces()]
        )
        self.steps += 1
        gradients = gradient.split([len(block.mean) for block in self.blocks])
        update = torch.cat([self._update(block, part) for block, part in zip(self.blocks, gradients, strict=True)])
        for parameter, at, lr in self._pieces():
            flat = parameter.view(-1)
            piece, update = update.split([count := flat.numel() if at is None else len(at), len(update) - count])
            if at is None:
                flat.sub_(piece, alpha=lr)
            else:
                flat[at] -= lr * piece

    def _update(self, block: "Block", gradient: Tensor) -> Tensor:
        block.covariance.mul_(self.decay).addr_(gradient, gradient, alpha=1 - self.decay)
        block.mean.lerp_(gradient, 1 - self.momentum)
        if self.steps % self.every == 0 or self.steps in {20, 50}:
            values, block.basis = torch.linalg.eigh(block.covariance)
            block.second = values.clamp_min(0)
        turned, mean = torch.stack([gradient, block.mean]) @ block.basis
        block.second.mul_(self.decay).addcmul_(turned, turned, value=1 - self.decay)
        root = (block.second / (1 - self.decay**self.steps)).sqrt()
        mean = mean / (1 - self.momentum**self.steps)
        return block.basis @ (mean / (root + self.damping * root.max() + 1e-12))

    def _pieces(self) -> Iterator[tuple[Tensor, Tensor | None, float]]:
        for group in self.param_groups:
            for parameter, at in zip(group["params"], group["entries"], strict=True):
                yield parameter, at, group["lr"]


def _at(tensor: Tensor, entries: Tensor | None) -> Tensor:
    flat = tensor.reshape(-1)
    return flat if entries is None else flat[entries]
