"""A depthwise convolution and the pointwise ones beside it as one layer, so that the wide maps between them are never written down."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spectrim.kernels.banded import clamped, takes
from spectrim.kernels.fused import KERNELS, SIDES, STRIDES, Padding, Side, fused_call
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.component import JSON, Layer, Spec
from spectrim.nn.folded import FoldedConv2d, Padded
from spectrim.nn.limits import FREE, Limits, limits_from_json, limits_to_json, meet

PARTS = ("expand", "depthwise", "project")
"""In the order in which they run."""

Call: TypeAlias = Callable[[Tensor, Padding], Tensor]


@dataclass(frozen=True)
class Places:
    """Where the parts stood before they were fused; :meth:`at` gives whole names.

    Attributes:
        up: How many names of the layer's own path the places do not share with it.
        parts: For each part its name from there.
        activations: Names from there of the activations that are clamps of the layer, with what they clamp to.
    """

    up: int
    parts: Mapping[str, str]
    activations: Mapping[str, Limits]

    def at(self, path: str, name: str) -> str:
        """The dotted name of a place, for a layer that stands at ``path``.

        >>> Places(2, {}, {}).at("features.3.project.0", "expand.0")
        'features.3.expand.0'
        """
        return ".".join([*path.split(".")[: -self.up], name])

    def to_json(self) -> dict[str, JSON]:
        """As in files."""
        activations: dict[str, JSON] = {name: limits_to_json(each) for name, each in self.activations.items()}
        return {"up": self.up, "parts": dict(self.parts), "activations": activations}

    @classmethod
    def from_json(cls, found: Any) -> Self:
        """Read :meth:`to_json`; nothing in it is trusted.

        Raises:
            ValueError: It is not that.
        """
        keys = {"up", "parts", "activations"}
        if not isinstance(found, dict) or found.keys() != keys or type(found["up"]) is not int or found["up"] < 1:
            raise ValueError(f"places must say {', '.join(sorted(keys))}, got {found!r}.")
        parts, activations = found["parts"], found["activations"]
        named = isinstance(parts, dict) and {"depthwise", "project"} <= parts.keys() <= {*PARTS}
        if not named or not isinstance(activations, dict) or not all(type(each) is str for each in parts.values()):
            raise ValueError(f"places must name parts and activations, got {found!r}.")
        return cls(found["up"], parts, {name: limits_from_json(name, each) for name, each in activations.items()})


@dataclass(frozen=True)
class _Held:
    """What follows from the tensors and the clamps of the parts while they stay; holding tensors keeps others from coming to lie at their addresses.

    Attributes:
        parts: By name.
        tensors: Where each stands, its name there, itself, its address and how often it changed; None where none stands yet.
        limits: Of the layer and of the parts.
        call: The compiled one, if there is one.
    """

    parts: dict[str, nn.Module | None]
    tensors: Sequence[tuple[Mapping[str, Any], str, Tensor | None, int, int]]
    limits: tuple[Any, ...]
    call: Call | None

    def fits(self, parts: Mapping[str, nn.Module | None], limits: tuple[Any, ...]) -> bool:
        """Whether they still are."""
        if parts != self.parts or limits != self.limits:
            return False
        for place, name, tensor, address, version in self.tensors:
            if place.get(name) is not tensor:
                return False
            if tensor is not None and (tensor.data_ptr() != address or tensor._version != version):
                return False
        return True


class FusedDepthwise(Layer, kind="fused-depthwise"):
    """What a depthwise convolution and the pointwise convolutions beside it compute, in one pass.

    The compiled form takes a few channels at a time from their coefficients back to rows of a map, through the depthwise convolution,
    and forward to coefficients again, in the cache (:mod:`spectrim.kernels`). Plain torch runs the parts one by one, and so does this
    layer with gradients, in other precisions, in training mode, where somebody listens to a part with a hook, and where a weight is coded.

    Args:
        depthwise: The convolution.
        project: What reads it: a :class:`GroupedBandsConv2d`, or a 1x1 convolution.
        expand: What it reads, likewise; none where it reads what comes in.
        places: Where the parts stood.
        clamps: Between which numbers activations clamp what ``expand`` and ``depthwise`` write, besides what
            a :class:`GroupedBandsConv2d` clamps itself.
    """

    expand: nn.Module | None
    depthwise: FoldedConv2d
    project: nn.Module

    def __init__(
        self,
        depthwise: FoldedConv2d,
        project: nn.Module,
        *,
        places: Places,
        expand: nn.Module | None = None,
        clamps: tuple[Limits, Limits] = (FREE, FREE),
    ) -> None:
        super().__init__()
        self.register_module("expand", expand)
        self.register_module("depthwise", depthwise)
        self.register_module("project", project)
        self.places, self.clamps = places, clamps
        self._held: _Held | None = None

    def forward(self, x: Float[Tensor, "image in height width"]) -> Float[Tensor, "image out above across"]:
        """Maps of any size."""
        if not self.training and takes(x) and (call := self.compiled()) is not None:
            return call(x, self.depthwise.padding_of(x))
        after_expand, after_depthwise = self.clamps
        if self.expand is not None:
            x = clamped(self.expand(x), after_expand)
        return cast(Tensor, self.project(clamped(self.depthwise(x), after_depthwise)))

    def parts(self) -> dict[str, nn.Module]:
        """Those that there are, in the order in which they run."""
        return {name: part for name in PARTS if (part := self._modules[name]) is not None}

    def compiled(self) -> Call | None:
        """One call of maps and padding, looked up once for each change of the parts; None where there is no compiled form, or somebody listens.

        A change that torch does not count, one through ``.data``, is not seen.
        """
        parts = self._modules
        limits: list[Any] = [self.clamps]
        for part in parts.values():
            if part is not None:
                if (
                    part._forward_hooks or part._forward_pre_hooks or part._modules
                ):  # modules in a part: its weight is coded
                    return None
                if type(part) is GroupedBandsConv2d:
                    limits += (part.read, part.written)
        held = self._held
        if held is None or not held.fits(parts, tuple(limits)):
            places = [each for part in parts.values() if part is not None for each in (part._parameters, part._buffers)]
            tensors = [(place, name, each) for place in places for name, each in place.items()]
            if any(each is not None and each.is_inference() for _, _, each in tensors):  # their changes are not counted
                return None
            seen = [
                (place, name, each, 0, 0) if each is None else (place, name, each, each.data_ptr(), each._version)
                for place, name, each in tensors
            ]
            with torch.no_grad():
                held = self._held = _Held(dict(parts), seen, tuple(limits), self._call())
        return held.call

    def _call(self) -> Call | None:
        after_expand, after_depthwise = self.clamps
        project, depthwise = _side(self.project, FREE), self.depthwise
        if not is_depthwise(depthwise):
            return None
        front = None if self.expand is None else _side(self.expand, after_expand)
        if project is None or (front is None and self.expand is not None):
            return None
        taps: Tensor = depthwise.weight
        shift: Tensor = depthwise.bias
        if project.source is not None:  # the channels in the middle are laid as they are read
            if front is None:
                return None
            order = project.source.long()
            taps, shift, project = taps[order], shift[order], replace(project, source=None)
            front = replace(
                front,
                weight=front.weight[:, order].contiguous(),
                bias=None if front.bias is None else front.bias[order],
            )
        clamp = meet(after_depthwise, project.read)
        return fused_call(front, taps, shift, project, stride=depthwise.stride, clamp=clamp)

    def __getstate__(self) -> dict[str, Any]:
        # Another machine packs otherwise.
        return self.__dict__ | {"_held": None}

    def finalized(self) -> nn.Module:
        """Itself: this is an inference form."""
        return self

    @property
    def stands_for(self) -> type[nn.Module]:
        """The last of its parts, a 1x1 convolution."""
        return nn.Conv2d

    def takes_places(self, path: str) -> list[str]:
        """Of its parts and of the activations."""
        return [self.places.at(path, name) for name in (*self.places.parts.values(), *self.places.activations)]

    def spec(self) -> Spec:
        """Sizes, activations and places; parts that are components say the rest themselves."""
        pointwise = [part for part in (self.expand, self.project) if part is not None]
        return {
            "sizes": [_channels(pointwise[0])[0], *(_channels(part)[1] for part in pointwise)],
            "kernel": self.depthwise.kernel,
            "biases": [part._parameters.get("bias") is not None for part in pointwise],
            "clamps": [limits_to_json(each) for each in self.clamps],
            "places": self.places.to_json(),
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Plain parts of the given sizes, for components to take their places."""
        names = ("sizes", "kernel", "biases", "clamps", "places")
        if spec.keys() != {*names}:
            raise ValueError(f"a fused layer has {', '.join(names)}, got {sorted(spec)}.")
        sizes, kernel, biases, clamps, places = (spec[name] for name in names)
        if not isinstance(sizes, list) or len(sizes) not in (2, 3) or not all(type(n) is int and n > 0 for n in sizes):
            raise ValueError(f"sizes must be two or three positive whole numbers, got {sizes!r}.")
        *first, channels, outputs = sizes
        if not isinstance(biases, list) or len(biases) != len(sizes) - 1 or {type(each) for each in biases} != {bool}:
            raise ValueError(f"biases must say for each pointwise convolution whether it has one, got {biases!r}.")
        if not isinstance(clamps, list) or len(clamps) != 2:
            raise ValueError(f"clamps must be two pairs, got {clamps!r}.")
        one, other = (limits_from_json("clamps", each) for each in clamps)
        layer = cls(
            FoldedConv2d(channels, channels, kernel, 1, channels, Padded(None)),
            nn.Conv2d(channels, outputs, 1, bias=biases[-1]),
            expand=nn.Conv2d(first[0], channels, 1, bias=biases[0]) if first else None,
            places=Places.from_json(places),
            clamps=(one, other),
        )
        if {*layer.parts()} != {*layer.places.parts}:
            raise ValueError(f"places must name {', '.join(layer.parts())}, got {sorted(layer.places.parts)}.")
        return layer

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """What is in it."""
        beside = "the pointwise convolutions beside it" if len(spec["sizes"]) == 3 else "the pointwise one behind it"
        return f"a depthwise convolution of {spec['kernel']} x {spec['kernel']} and {beside}, in one pass"

    def extra_repr(self) -> str:
        """Activations for ``print(model)``."""
        return "" if self.clamps == (FREE, FREE) else f"clamps={self.clamps}"


def is_pointwise(module: nn.Module) -> bool:
    """Whether a module can be ``expand`` or ``project`` of a :class:`FusedDepthwise` that is compiled."""
    if isinstance(module, GroupedBandsConv2d):
        tall, wide = module.geometry.block
        return tall == wide and tall in SIDES and module.geometry.stride == (1, 1) and not module.geometry.last
    if isinstance(module, FoldedConv2d):
        return module.kernel == module.stride == module.groups == 1
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == module.stride == (1, 1)
        and module.groups == 1
        and module.padding in ((0, 0), "valid", "same")
    )


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module can be ``depthwise`` of a :class:`FusedDepthwise` that is compiled."""
    if not isinstance(module, FoldedConv2d):
        return False
    same = module.in_channels == module.out_channels == module.groups
    return same and module.kernel in KERNELS and module.stride in STRIDES


def _side(part: nn.Module, clamp: Limits) -> Side | None:
    """A pointwise convolution and the activation behind it; None where there is no compiled form."""
    if not is_pointwise(part):
        return None
    if isinstance(part, GroupedBandsConv2d):
        source = None if part._in_order() else part.source
        block = part.geometry.block[0]
        return Side(part.weight, part.bias, block, part.order, part.kept, source, part.read, meet(part.written, clamp))
    plain = cast("nn.Conv2d | FoldedConv2d", part)
    return Side(plain.weight[:, :, 0, 0].T.contiguous(), plain.bias, written=clamp)


def _channels(part: nn.Module) -> tuple[int, int]:
    sizes = part.geometry if isinstance(part, GroupedBandsConv2d) else cast(nn.Conv2d, part)
    return sizes.in_channels, sizes.out_channels
