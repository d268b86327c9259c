"""Banded convolutions that hand spectra on: between those that write a linear stream and those that read it no transform is left."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spectrim.errors import UnsupportedError
from spectrim.nn.absorbed import Absorbed
from spectrim.nn.blockwise import Geometry
from spectrim.nn.flat_bands import FlatBandsConv2d
from spectrim.nn.norms import scale_and_shift
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery.channels import still
from spectrim.surgery.edits import replace_module_
from spectrim.surgery.linearity import Stream, streams


@dataclass(frozen=True)
class Chain:
    """What takes the places of the modules of a stream.

    Attributes:
        stream: Which one.
        layers: The convolutions, by dotted name: those that write it leave the inverse transform out, those that read it the other.
        norms: Those that are in the weights of ``layers`` now.
    """

    stream: Stream
    layers: dict[str, FlatBandsConv2d]
    norms: tuple[str, ...]

    def join_(self, model: nn.Module) -> Callable[[], None]:
        """Put it in; the result takes it out again."""
        after = self.layers | {path: Absorbed() for path in self.norms}
        undo = [replace_module_(model, model.get_submodule(path), each) for path, each in after.items()]

        def back() -> None:
            for each in reversed(undo):
                each()

        return back


def chains(model: nn.Module, example: Tensor) -> list[Chain]:
    """The streams of a model that can stay spectra.

    All that write or read such a stream are banded convolutions, called once, with one block and one order, which divides the maps, and each norm
    in it follows one of them. It carries as many coefficients as the reader that keeps most wants; the sums in between are sums of spectra.

    Args:
        model: Runs once in evaluation mode, and is as before.
        example: One batch of the size that it will run on.
    """
    try:
        found = streams(model, [example[:1]])
    except UnsupportedError:
        return []
    banded = {path: each for path, each in model.named_modules() if isinstance(each, BandedPointwiseConv2d)}
    made: list[Chain] = []
    taken: set[str] = set()
    for stream in found:
        members = {*stream.writers, *stream.readers}
        if (
            stream.others
            or not members <= banded.keys()
            or members & taken
            or set(stream.writers) & set(stream.readers)
        ):
            continue
        geometries = [banded[path].geometry for path in members]
        alike = len({(each.block, tuple(each.positions)) for each in geometries}) == 1
        if not alike or any(banded[path].geometry.stride != (1, 1) for path in stream.readers):
            continue
        folded = _norms(model, stream, example[:1], banded[stream.readers[0]].geometry.block)
        if folded is not None:
            made.append(_chain(model, stream, banded, folded))
            taken |= members
    return made


def _chain(model: nn.Module, stream: Stream, banded: dict[str, BandedPointwiseConv2d], folded: dict[str, str]) -> Chain:
    top = max(int(banded[path].kept.max()) for path in stream.readers)
    layers = {}
    for path in stream.writers:
        norm = cast(_BatchNorm, model.get_submodule(folded[path])) if path in folded else None
        weight, bias = _folded(banded[path], norm)
        geometry = banded[path].geometry
        with_bias = Geometry(
            geometry.in_channels,
            geometry.out_channels,
            geometry.block,
            geometry.order,
            geometry.stride,
            bias is not None,
        )
        layers[path] = FlatBandsConv2d.of(with_bias, weight, bias, banded[path].kept.long(), writes=top)
    for path in stream.readers:
        layer = banded[path]
        layers[path] = FlatBandsConv2d.of(layer.geometry, layer.weight, layer.bias, layer.kept.long(), reads="spectra")
    return Chain(stream, {path: each.train(banded[path].training) for path, each in layers.items()}, stream.norms)


def _folded(layer: BandedPointwiseConv2d, norm: _BatchNorm | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution with the norm that follows in them."""
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    if norm is None:
        return weight, bias
    scale, shift = scale_and_shift(norm)
    both = weight * scale[:, None, None, None], (0 if bias is None else bias * scale) + shift
    return both[0].to(weight.dtype), both[1].to(weight.dtype)


def _norms(model: nn.Module, stream: Stream, image: Tensor, block: tuple[int, int]) -> dict[str, str] | None:
    """Which norm follows which convolution of a stream.

    None where one follows something else, the block does not divide the maps, or a convolution or norm is called several times, of which
    some may be outside.
    """
    calls: Counter[str] = Counter()
    written: dict[str, Tensor] = {}
    follows: dict[str, str] = {}
    sizes: set[tuple[int, ...]] = set()

    def write(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            written[path] = output
            sizes.add(tuple(output.shape[-2:]))

        return note

    def read(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            writer = next((name for name, output in written.items() if inputs and output is inputs[0]), None)
            if writer is not None:
                follows[writer] = path

        return note

    def count(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda *_: calls.update([path])

    members = {*stream.writers, *stream.readers, *stream.norms}
    handles = [model.get_submodule(path).register_forward_pre_hook(count(path)) for path in members]
    handles += [model.get_submodule(path).register_forward_hook(write(path)) for path in stream.writers]
    handles += [model.get_submodule(path).register_forward_pre_hook(read(path)) for path in stream.norms]
    try:
        with still(model), torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    divided = all(side % step == 0 for size in sizes for side, step in zip(size, block, strict=True))
    known = all(
        cast(_BatchNorm, model.get_submodule(path)).running_var is not None
        and all(isinstance(child, nn.Identity) for child in model.get_submodule(path).children())
        for path in stream.norms
    )
    once = set(calls.values()) == {1}
    return follows if once and divided and known and set(follows.values()) == set(stream.norms) else None
