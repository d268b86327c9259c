"""One layer of the cut network beside its output in the whole one: how much is lost, and the weights that lose least."""

import dataclasses
import sys
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spectrim.repair.calls import Call, own
from spectrim.repair.original import Target, fitted
from spectrim.repair.ridge import Fit, refit, refit_wide
from spectrim.repair.rows import read

_TOGETHER = 1 << 24  # numbers of the rows that are gathered at a time


class Rows:
    """What a layer reads now and what it should write, at the places that are looked at.

    Args:
        call: Of the layer, in the cut network.
        target: Its output in the whole one.
        kept: Which output channels the cut left.
        images: How many there are, and how many of these, the first ones, are fitted to.
    """

    def __init__(self, call: Call, target: Target, kept: Int[Tensor, "output"], images: tuple[int, int]) -> None:
        self._call = call
        self._target = target
        self._kept = kept.to(target.rows.device)
        self._ends = (fitted(len(call.x), images), len(call.x))
        self._held: tuple[Tensor, Tensor] | None = None

    def fit(self, prior: Float[Tensor, "group output input"], *, ridge: float, offset: bool) -> Fit:
        """The weights that lose least on the images that are fitted to, see :func:`spectrim.repair.ridge.refit`."""
        count = self._ends[0] * self._target.where.shape[1]
        solve = refit_wide if count < prior.shape[2] else refit
        return solve(self._parts(0, self._ends[0]), prior, ridge=ridge, offset=offset)

    def lost(self, weight: Float[Tensor, "group output input"], shift: Float[Tensor, "group output"]) -> float:
        """Share of the output's variance on the held-out images that is not what it was in the whole network.

        Where a norm follows, a constant difference is none.
        """
        if self._held is None:
            parts = list(self._parts(*self._ends))
            self._held = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
        x, y = self._held
        off = y - (x.transpose(0, 1) @ weight.to(x.dtype).mT).transpose(0, 1) - shift.to(x.dtype)
        if self._target.normed:
            off = off - off.mean(0)
        total = (y - y.mean(0)).square().sum(dtype=torch.float64)
        return float(off.square().sum(dtype=torch.float64) / total.clamp(min=sys.float_info.min))

    def _parts(self, begin: int, end: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of some images, not too many at a time."""
        call, target = self._call, self._target
        kernel = tuple(call.settings["weight"].shape[2:])
        looked = target.where.shape[1]
        step = max(1, _TOGETHER // (looked * target.inputs * call.groups))
        for first in range(begin, end, step):
            last = min(first + step, end)
            some = dataclasses.replace(call, x=call.x[first:last])
            y = target.rows[first * looked : last * looked].index_select(1, self._kept)
            yield read(some, kernel, target.size, target.where[first:last]), y.reshape(len(y), call.groups, -1)


def grouped(weight: Tensor, call: Call) -> Float[Tensor, "group output input"]:
    """A layer's weight as one matrix for each of its groups.

    >>> from spectrim.repair.calls import Call
    >>> grouped(torch.zeros(8, 3, 5, 5), Call("", "conv", torch.zeros(()), {"groups": 2})).shape
    torch.Size([2, 4, 75])
    """
    if call.kind == "transposed":
        parts = weight.reshape(call.groups, -1, *weight.shape[1:])
        return own(parts.transpose(1, 2).flatten(2))
    return own(weight.reshape(call.groups, weight.shape[0] // call.groups, -1))


def ungrouped(matrices: Float[Tensor, "group output input"], like: Tensor, call: Call) -> Tensor:
    """The weight that :func:`grouped` made matrices of."""
    if call.kind == "transposed":
        parts = matrices.reshape(call.groups, like.shape[1], -1, *like.shape[2:])
        return parts.transpose(1, 2).reshape(like.shape)
    return matrices.reshape(like.shape)
