"""The two stages of a template convolution in one call: plain torch everywhere, compiled on the processor once it has been built."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spectrim.kernels.building import built
from spectrim.transforms.taps import reads

_OP = "two_stage"
_ROWS = 6
"""Most templates of a panel of the weights; as in the source of the kernel."""
_POINTWISE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

Laid = tuple[Tensor, Tensor, Tensor, Tensor]


def two_stage(
    x: Float[Tensor, "image in *space"],
    latent: Float[Tensor, "tap groups*template in/groups"],
    mixing: Float[Tensor, "template row groups*tap"],
    order: Int[Tensor, "out"],
    bias: Float[Tensor, "out"] | None,
    *,
    groups: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    laid: "LaidOut | None" = None,
) -> Float[Tensor, "image out *left"]:
    """Contract every tap of every template with the channels, then sum shifted latents, times a factor for each tap and output.

    Args:
        x: Maps of one to three dimensions; the compiled form takes two, in either memory format, and gives the same one.
        latent: The templates, tap by tap, those of a group of channels together.
        mixing: For every template and each of its outputs the factors; rows of zeros where a template has fewer.
        order: For every output its row of ``mixing``, counted over all templates.
        bias: One per output.
        groups: Groups of input channels.
        kernel, stride, padding, dilation: Of the convolution that this computes.
        laid: Where the compiled form keeps its weights; without it the plain form computes.
    """
    compiled = (
        laid is not None
        and x.ndim == 4
        and x.device.type == "cpu"
        and x.dtype == latent.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and (x.requires_grad or latent.requires_grad or mixing.requires_grad))
        and not latent.is_inference()
        and not torch.is_autocast_enabled("cpu")
        and built()
    )
    if compiled and laid is not None:
        op: Any = torch.ops.spectrim.two_stage
        y: Tensor = op(x, *laid(latent, mixing, order, groups), bias, groups, kernel, stride, padding, dilation)
        return y
    x = F.pad(x, [side for each in reversed(padding) for side in (each, each)])
    return _plain(x, latent, mixing, order, bias, groups=groups, kernel=kernel, stride=stride, dilation=dilation)


def _plain(
    x: Tensor,
    latent: Tensor,
    mixing: Tensor,
    order: Tensor,
    bias: Tensor | None,
    *,
    groups: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Of a padded input. Latents are computed once, or for layers that move in steps tap by tap."""
    taps, count, depth = latent.shape
    templates, pointwise, ones = count // groups, _POINTWISE[len(kernel)], (1,) * len(kernel)
    left, places = reads(x.shape[2:], kernel, stride, dilation)
    every = (slice(None), slice(None))
    if max(stride) == 1:
        # Groups of a convolution lie together.
        weight = latent.view(taps, groups, templates, depth).transpose(0, 1).reshape(taps * count, depth, *ones)
        z = pointwise(x, weight, groups=groups)
        z = z.reshape(x.shape[0], groups, taps, templates, *z.shape[2:])
        parts = [z[:, group, tap][*every, *places[tap]] for group in range(groups) for tap in range(taps)]
    else:
        by_tap = [
            pointwise(x[*every, *places[tap]], latent[tap].reshape(count, depth, *ones), groups=groups)
            for tap in range(taps)
        ]
        parts = [each[:, group * templates : (group + 1) * templates] for group in range(groups) for each in by_tap]
    y = mixing @ torch.stack([part.flatten(2) for part in parts], dim=2)
    y = y.reshape(x.shape[0], -1, *left).index_select(1, order)
    return y if bias is None else y + bias.reshape(-1, *ones)


class LaidOut:
    """Weights as the compiled form reads them, laid out anew whenever they have changed."""

    def __init__(self) -> None:
        self._of: tuple[Tensor, ...] = ()
        self._versions: tuple[int, ...] = ()
        self._laid: Laid | None = None

    def __call__(self, latent: Tensor, mixing: Tensor, order: Tensor, groups: int) -> Laid:
        """Panels of templates, factors in the order of the templates, their outputs, and where those of each start."""
        given = (latent, mixing, order)
        known = (
            self._laid is not None
            and all(one.data_ptr() == two.data_ptr() for one, two in zip(self._of, given, strict=True))
            and self._versions == _versions(given)
        )
        if self._laid is None or not known:
            latent, mixing, order = (each.detach() for each in given)
            self._of = (latent, mixing, order)  # held, so that nothing else can come to lie there
            self._versions = _versions(given)
            self._laid = _laid_out(latent, mixing, order, groups)
        return self._laid


def _versions(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(each._version for each in tensors)  # noqa: SLF001 - torch has no other name for it


def _laid_out(latent: Tensor, mixing: Tensor, order: Tensor, groups: int) -> Laid:
    taps, count, depth = latent.shape
    templates, rows = count // groups, mixing.shape[1]
    panels = -(-templates // _ROWS)
    ends = [panel * templates // panels for panel in range(panels + 1)]
    by_group = latent.view(taps, groups, templates, depth).transpose(0, 1).reshape(groups * taps, templates, depth)
    parts = [by_group[:, begin:end].transpose(1, 2).flatten(1) for begin, end in itertools.pairwise(ends)]
    outputs = order.long().argsort(stable=True)
    row = order.long()[outputs]
    first = torch.searchsorted((row // rows).contiguous(), torch.arange(templates + 1))
    factors = mixing.flatten(0, 1)[row]
    return torch.cat(parts, 1).flatten(), factors.contiguous(), outputs.int(), first.int()
