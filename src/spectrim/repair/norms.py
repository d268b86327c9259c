"""Batch normalisations that count their statistics anew, after something before them has changed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spectrim.calibration import Calibration, images_of, see
from spectrim.errors import DataError, SiteError
from spectrim.surgery.channels import still
from spectrim.surgery.sites import walk


def reestimate_norms_(model: nn.Module, calibration: Calibration) -> int:
    """Give every batch normalisation the mean and variance of what it gets for some images, in one pass.

    The statistics of a network belong to the weights they were counted with. After weights were cut, truncated or replaced
    they are off, and with them the output. In the pass each norm normalises by the batch, so that the ones behind it see
    what they will see; everything else is in evaluation mode. Modes, momentum and gradients stay; weights are not touched.

    Args:
        model: With batch normalisations that keep running statistics. Others are left alone.
        calibration: Batches of images, or one tensor of them; a few hundred of the training set, in batches of some dozens:
            a batch is what a norm behind another one sees normalised.

    Returns:
        How many norms were re-estimated. A norm that the batches do not reach keeps its statistics.

    Raises:
        SiteError: The model has no batch normalisation with running statistics.
        ValueError: There is no calibration.
        DataError: It is empty, holds NaN, or does not go through the model, which is then as it was.

    References:
        Ioffe and Szegedy 2015, "Batch Normalization" (arXiv 1502.03167), algorithm 2: population statistics over batches.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    >>> reestimate_norms_(net, 5 + torch.randn(64, 3, 8, 8))
    1
    >>> bool(net.eval()(5 + torch.randn(64, 3, 8, 8)).mean().abs() < 0.1)
    True
    """
    if not (norms := norms_of(model)):
        raise SiteError(
            f"asked to re-estimate batch normalisations, found none with running statistics in {type(model).__name__}. There "
            "is nothing to do."
        )
    return counted_(model, norms, images_of(calibration, model, who="re-estimating norms"))


def norms_of(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch normalisations that keep running statistics, by dotted name."""
    return {
        path: module
        for path, module in walk(model)
        if isinstance(module, _BatchNorm) and module.running_var is not None
    }


def counted_(model: nn.Module, norms: dict[str, _BatchNorm], batches: Iterable[Tensor]) -> int:
    """One pass; the norms then hold its statistics, or, if it fails, what they held before."""
    counts = {path: _Statistics() for path in norms}
    with _by_the_batch(model, norms, counts), torch.no_grad():
        for number, batch in enumerate(batches):
            see(model, batch, number)
    reached = {path: found for path, found in counts.items() if found.size > 1}
    for path, found in reached.items():
        if not bool(torch.isfinite(found.variance).all()):
            raise DataError(f"what {path!r} gets for the calibration images is not finite. Check the model's weights.")
    for path, found in reached.items():
        norm = norms[path]
        cast(Tensor, norm.running_mean).copy_(found.mean)
        cast(Tensor, norm.running_var).copy_(found.variance)
    return len(reached)


class _Statistics:
    """Mean and squared distance from it, of all values so far; in float64, batch by batch (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.size = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, size: int, mean: Tensor, variance: Tensor) -> None:
        if not self.size:
            self.mean, self.squares = (
                torch.zeros_like(mean, dtype=torch.float64),
                torch.zeros_like(mean, dtype=torch.float64),
            )
        total = self.size + size
        away = mean.double() - self.mean
        self.mean = self.mean + away * (size / total)
        self.squares = self.squares + variance.double() * (size - 1) + away.square() * (self.size * size / total)
        self.size = total

    @property
    def variance(self) -> Tensor:
        return self.squares / (self.size - 1)


@contextmanager
def _by_the_batch(model: nn.Module, norms: dict[str, _BatchNorm], counts: dict[str, _Statistics]) -> Iterator[None]:
    """Inside, norms normalise by the batch and count it; outside, everything is as it was."""
    before = {path: (norm.momentum, {name: value.clone() for name, value in norm.named_buffers()})
              for path, norm in norms.items()}  # fmt: skip

    def count(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def add(module: nn.Module, args: tuple[Any, ...], _: Any) -> None:
            norm = cast(_BatchNorm, module)  # momentum 1: torch leaves the statistics of this batch here
            mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
            counts[path].add(args[0].numel() // len(mean), mean, variance)

        return add

    handles = [norm.register_forward_hook(count(path)) for path, norm in norms.items()]
    try:
        with still(model):
            for norm in norms.values():
                norm.reset_running_stats()  # also of NaN, which would outlast momentum 1
                norm.training = True
                norm.momentum = 1.0
            yield
    finally:
        for handle in handles:
            handle.remove()
        for path, norm in norms.items():
            momentum, buffers = before[path]
            norm.momentum = momentum
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)
