"""What the layers of the whole network write, kept as the target for those of the cut one."""

import math
import weakref
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spectrim.repair.calls import Call, Calls, own
from spectrim.repair.rows import LARGEST, SAMPLES, places, written

Moments = tuple[Float[Tensor, "channel"], Float[Tensor, "channel"]]


@dataclass
class Target:
    """One layer's output in the whole network.

    Attributes:
        seen: Shape of what the layer reads, channels left out.
        inputs: How many numbers one of its outputs is made from.
        size: Sides of its maps, or numbers of its tokens.
        where: Places of it that are looked at, for each image.
        rows: The output there, image by image.
        calls: How often the layer was called.
        normed: Whether a batch normalisation reads it, to which a constant shift makes no difference.
    """

    seen: tuple[int, ...]
    inputs: int
    size: tuple[int, ...]
    where: Tensor
    rows: Float[Tensor, "row output"]
    calls: int = 1
    normed: bool = False


class Original(Calls):
    """Watches the whole network run once over all images.

    Args:
        model: The network.
        images: How many images it runs over, and how many of these, the first ones, are fitted to.
    """

    def __init__(self, model: nn.Module, images: tuple[int, int]) -> None:
        super().__init__(model)
        self.images = images
        self.targets: dict[str, Target] = {}
        self.norms: dict[str, Moments | None] = {}
        self._out: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def before(self, call: Call) -> None:
        """Take the moments of what a norm reads, and note whose output that is."""
        if call.kind == "norm":
            self.norms[call.path] = None if call.path in self.norms else moments(call.x, self.images)
            known = self._out.get(id(call.x))
            if known is not None and known[0]() is call.x:
                self.targets[known[1]].normed = True

    def after(self, call: Call, out: Tensor) -> None:
        """Keep a sample of what a layer writes."""
        if call.kind == "norm":
            return
        if call.path in self.targets:
            self.targets[call.path].calls += 1
            return
        shape = seen(call)
        if shape is not None and len(out):
            size = tuple(out.shape[1:-1] if call.kind == "linear" else out.shape[2:])
            inputs = inputs_of(call)
            where = places(math.prod(size), len(out), LARGEST if inputs > LARGEST else SAMPLES)
            self.targets[call.path] = Target(shape, inputs, size, where, written(call, out, where))
            self._out[id(out)] = (weakref.ref(out), call.path)


def seen(call: Call) -> tuple[int, ...] | None:
    """The shape of what a layer reads, channels left out; None where that is no batch."""
    if call.kind == "linear":
        return tuple(call.x.shape[:-1]) if call.x.ndim > 1 else None
    batched = call.x.ndim == cast(Tensor, call.settings["weight"]).ndim
    return (len(call.x), *call.x.shape[2:]) if batched else None


def inputs_of(call: Call) -> int:
    """How many numbers one output of a layer is made from."""
    weight = cast(Tensor, call.settings["weight"])
    channels = call.x.shape[-1 if call.kind == "linear" else 1]
    return channels // call.groups * math.prod(weight.shape[2:])


def fitted(length: int, images: tuple[int, int]) -> int:
    """How many of ``length`` entries along the first axis belong to the images that are fitted to.

    >>> fitted(640, (640, 560)), fitted(6400, (640, 560))
    (560, 5600)
    """
    return length * images[1] // images[0]


def moments(x: Tensor, images: tuple[int, int]) -> Moments:
    """Mean and variance of each channel over the fitted images."""
    part = x[: fitted(len(x), images)]
    variance, mean = torch.var_mean(own(part), [0, *range(2, x.ndim)], correction=0)
    return mean.double(), variance.double()
