"""Batch normalisation for inference: four vectors become two, exactly."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spectrim.surgery.sites import dotted

# Exactly these: a subclass may compute something else.
_NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Norm:
    """A batch normalisation whose scale, shift and running statistics all lie in a file as ordinary tensors.

    Attributes:
        path: Dotted name of the module.
        eps: What it adds to the variance.
    """

    path: str
    eps: float

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the running mean, the running variance and the counter."""
        return tuple(dotted(self.path, name) for name in _STATISTICS)

    @property
    def affine(self) -> tuple[str, str]:
        """Names of scale and shift."""
        return dotted(self.path, "weight"), dotted(self.path, "bias")


def foldable(model: nn.Module, names: Collection[str]) -> Iterator[Norm]:
    """The batch normalisations that can be folded: affine, with running statistics, all of them among ``names``.

    >>> from spectrim.artifact.entries import slots
    >>> model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1, affine=False))
    >>> [norm.path for norm in foldable(model, slots(model))]
    ['0']
    """
    for path, module in model.named_modules():
        if type(module) in _NORMS:
            norm = Norm(path, float(module.eps))
            if all(name in names for name in (*norm.affine, *norm.statistics)):
                yield norm


def folded(norm: Norm, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scale and shift that alone do what the four vectors do in eval mode, computed in float64.

    .. code-block:: text

        y = (x - mean) / sqrt(var + eps) * weight + bias = scale * x + shift
    """
    weight, bias = (tensors[name].double() for name in norm.affine)
    mean, variance = (tensors[name].double() for name in norm.statistics[:2])
    scale = weight / torch.sqrt(variance + norm.eps)
    dtype = tensors[norm.affine[0]].dtype
    return dict(zip(norm.affine, (scale.to(dtype), (bias - scale * mean).to(dtype)), strict=True))


def neutral(norm: Norm, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Running statistics that leave scale and shift alone to act: mean 0, variance 1 - eps."""
    mean, variance, counter = (tensors[name] for name in norm.statistics)
    values = (torch.zeros_like(mean), torch.full_like(variance, 1 - norm.eps), torch.zeros_like(counter))
    return dict(zip(norm.statistics, values, strict=True))
