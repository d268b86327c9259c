"""Filters rebuilt from templates so that what a layer writes changes least, rather than its weights."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spectrim.nn.conv_sizes import ConvSizes

_POSITIONS = 4096
_RIDGE = 1e-3
_TOGETHER = 1 << 24  # numbers of the latents that are held at a time


class OutputFit(NamedTuple):
    """The rebuilt filters that come closest to the outputs of given ones.

    Attributes:
        template: For each filter the index of its template.
        factors: Of the taps, for every group and filter.
        shift: What a bias must add for the outputs to keep their mean.
        explained: The share of the variance of each filter's output that is still there.
    """

    template: Int[Tensor, "filter"]
    factors: Float[Tensor, "group filter *kernel"]
    shift: Float[Tensor, "filter"]
    explained: Float[Tensor, "filter"]


def seen(x: Float[Tensor, "batch in *space"], sizes: ConvSizes) -> Tensor:
    """As many images of a batch as are looked at, copied.

    >>> seen(torch.zeros(128, 4, 32, 32), ConvSizes.of(torch.nn.Conv2d(4, 8, 3, padding=1))).shape
    torch.Size([4, 4, 32, 32])
    """
    x = x.detach() if x.ndim == sizes.dims + 2 else x.detach()[None]
    padded = [side + 2 * p for side, p in zip(x.shape[2:], sizes.padding, strict=True)]
    each = max(1, math.prod(sizes.reads(padded)[0]))
    return x[: -(-_POSITIONS // each)].clone()


def patches(x: Float[Tensor, "batch in *space"], sizes: ConvSizes) -> Float[Tensor, "position in tap"]:
    """What a filter reads at some positions: all, or 4096 that are evenly spread.

    >>> patches(torch.arange(4.0).reshape(1, 1, 4), ConvSizes.of(torch.nn.Conv1d(1, 1, 2, stride=2)))
    tensor([[[0., 1.]],
    <BLANKLINE>
            [[2., 3.]]])
    """
    x = F.pad(x, [side for each in reversed(sizes.padding) for side in (each, each)])
    left, places = sizes.reads(x.shape[2:])
    total = len(x) * math.prod(left)
    rows = torch.linspace(0, total - 1, min(total, _POSITIONS), device=x.device).round().long()
    every = (slice(None), slice(None))
    return torch.stack([x[every + place].flatten(2).transpose(1, 2).flatten(0, 1)[rows] for place in places], dim=2)


def white(sizes: ConvSizes) -> Float[Tensor, "position in tap"]:
    """Patches under which filters whose outputs are close have close weights.

    >>> white(ConvSizes.of(torch.nn.Conv1d(1, 1, 2)))
    tensor([[[1., 0.]],
    <BLANKLINE>
            [[0., 1.]]])
    """
    count = sizes.inside * sizes.taps
    return torch.eye(count).reshape(count, sizes.inside, sizes.taps)


@torch.no_grad()
def fitted_to_outputs(
    read: Float[Tensor, "position in tap"],
    wanted: Float[Tensor, "filter in *kernel"],
    templates: Float[Tensor, "template in *kernel"],
    groups: int,
    *,
    template: Sequence[int] | None = None,
    centred: bool = True,
) -> OutputFit:
    """Rebuild filters from templates so that their outputs differ least, by least squares over positions.

    The output of template *m*, not yet summed, is one number for each group and tap; those of a rebuilt filter are its sum
    with the factors as weights. So each pair of filter and template is a regression on as many variables, and of all
    templates that which leaves least is taken.

    Args:
        read: By the layer, see :func:`patches`.
        wanted: The filters to be rebuilt.
        templates: To be rebuilt from.
        groups: Groups of input channels.
        template: Of each filter, where that is settled.
        centred: Whether a constant difference is none, because a norm or a bias takes it.

    >>> read, filters = torch.randn(50, 2, 3), torch.randn(2, 2, 3)
    >>> fit = fitted_to_outputs(read, 3 * filters[1:], filters, 1)
    >>> fit.template, fit.factors.round(decimals=1), bool(fit.explained > 0.99)
    (tensor([1]), tensor([[[3., 3., 3.]]]), True)
    """
    kernel, taps = wanted.shape[2:], read.shape[2]
    read = read.float()
    target = torch.einsum("pck,nck->pn", read, wanted.float().flatten(2))
    middle = target.mean(0)
    if centred:
        target = target - middle
    total = target.square().sum(0).double()
    grouped = read.reshape(len(read), groups, -1, taps)
    best = torch.full((len(wanted),), -math.inf, dtype=torch.float64, device=read.device)
    found = torch.zeros(len(wanted), dtype=torch.long, device=read.device)
    factors = torch.zeros(len(wanted), groups * taps, dtype=torch.float64, device=read.device)
    means = torch.zeros(len(wanted), dtype=torch.float64, device=read.device)
    allowed = None if template is None else torch.as_tensor(template, device=read.device)
    step = max(1, _TOGETHER // (len(read) * groups * taps))
    for first in range(0, len(templates), step):
        some = templates[first : first + step].float().reshape(-1, groups, grouped.shape[2], taps)
        latents = torch.einsum("pgck,mgck->mpgk", grouped, some).flatten(2)
        mean = latents.mean(1).double()
        if centred:
            latents = latents - latents.mean(1, keepdim=True)
        gram, cross = (latents.mT @ latents).double(), (latents.mT @ target).double()
        weight = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-30)
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        solved = torch.linalg.solve(gram + _RIDGE * weight[:, None, None] * eye, cross)
        explained = 2 * (solved * cross).sum(1) - (solved * (gram @ solved)).sum(1)
        if allowed is not None:
            numbers = torch.arange(first, first + len(some), device=read.device)
            explained = explained.where(numbers[:, None] == allowed, -math.inf)
        most, which = explained.max(0)
        better = most > best
        every = torch.arange(len(wanted), device=read.device)
        best = torch.where(better, most, best)
        found = torch.where(better, first + which, found)
        chosen = solved[which, :, every]
        factors = torch.where(better[:, None], chosen, factors)
        means = torch.where(better, (mean[which] * chosen).sum(1), means)
    shaped = factors.reshape(len(wanted), groups, *kernel).transpose(0, 1)
    share = best / total.clamp(min=torch.finfo(torch.float64).tiny)
    return OutputFit(found, shaped.to(wanted.dtype), (middle.double() - means).to(wanted.dtype), share)
