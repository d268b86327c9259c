"""The inference form of a banded pointwise convolution: a few dense products, each over the channels that keep as much."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spectrim.kernels.banded import Ready, banded_pointwise, compiled_for, packed, ready, takes
from spectrim.nn.blockwise import Geometry, check_groups
from spectrim.nn.component import Layer, Spec
from spectrim.nn.limits import FREE, Limits, limits_from_json, limits_to_json
from spectrim.transforms.scans import block_basis


class _Held(NamedTuple):
    """What follows from a weight, an order of channels and limits, while they stay; holding tensors keeps others from coming to lie at their addresses."""

    weight: Tensor
    source: Tensor
    versions: tuple[int, int]
    places: tuple[int, int]
    limits: tuple[Limits, Limits]
    in_order: bool
    panels: Tensor | None
    ready: Ready | None

    def fits(self, weight: Tensor, source: Tensor, read: Limits, written: Limits) -> bool:
        return (
            self.places == (weight.data_ptr(), source.data_ptr())
            and self.versions == (weight._version, source._version)
            and self.limits == (read, written)
        )


class GroupedBandsConv2d(Layer, kind="banded-pointwise-groups"):
    """A pointwise convolution of the first coefficients of its input, as dense matrix products.

    The input channels are sorted by how much they keep, most first. Those that keep equally much are a group; group *j* of channels
    :math:`g_j` that keep :math:`K_j` coefficients adds

    .. math::

        \\hat Y_{:K_j} \\mathrel{+}= \\hat X_{:K_j, g_j} W_{:, g_j}^T

    with the coefficients in the order *frequency, block, channel*, so that every factor is a dense matrix, the weight is read once, and
    what a group adds to is the front of the sum. Nothing is gathered, scattered or masked on the way but the input channels, once.
    :mod:`spectrim.kernels` has it compiled, in one pass over tiles of blocks, where each frequency reads just the channels that keep it and
    the number of groups no longer matters. There an activation that only clamps (``ReLU``, ``ReLU6``, ``Hardtanh``) is taken along on the way in and
    on the way out, without a pass over the maps of its own.

    Args:
        geometry: Sizes, block, order, stride, bias.
        groups: Number of channels and kept coefficients of each group, most kept first.
        read, written: Between which numbers what comes in and what goes out is clamped, for the activations whose work it does.

    Raises:
        ValueError: The groups do not fit the sizes, or limits are none.

    >>> layer = GroupedBandsConv2d(Geometry(3, 4, (2, 2)), [(1, 4), (2, 1)])
    >>> layer(torch.zeros(1, 3, 6, 6)).shape
    torch.Size([1, 4, 6, 6])
    """

    source: Int[Tensor, "in"]
    order: Int[Tensor, "frequency"]
    kept: Int[Tensor, "in"]
    active: Int[Tensor, "kept"]
    basis: Float[Tensor, "kept pixel"]

    def __init__(
        self, geometry: Geometry, groups: list[tuple[int, int]], *, read: Limits = FREE, written: Limits = FREE
    ) -> None:
        super().__init__()
        check_groups(geometry, groups)
        for name, (low, high) in {"read": read, "written": written}.items():
            if not low < high:
                raise ValueError(f"{name} must be two numbers, the lower one first, got {(low, high)}.")
        self.read, self.written = read, written
        self.geometry = geometry
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(geometry.in_channels, geometry.out_channels))
        self.bias = nn.Parameter(torch.zeros(geometry.out_channels)) if geometry.bias else None
        self.register_buffer("source", torch.arange(geometry.in_channels, dtype=torch.int32))
        for name, tensor in self._constants().items():
            self.register_buffer(name, tensor, persistent=False)
        self._held: _Held | None = None

    @classmethod
    def of(
        cls, geometry: Geometry, weight: Float[Tensor, "out in 1 1"], bias: Tensor | None, kept: Int[Tensor, "in"]
    ) -> Self:
        """The form that computes what the convolution with these tensors does, where each channel keeps ``kept``.

        Args:
            geometry: Of the convolution.
            weight, bias: Of the convolution.
            kept: How many coefficients each input channel keeps.
        """
        source = kept.argsort(descending=True, stable=True)
        counts, sizes = torch.unique(kept, return_counts=True)
        layer = cls(geometry, [*zip(sizes.flip(0).tolist(), counts.flip(0).tolist(), strict=True)])
        layer.to(weight.device, weight.dtype)
        with torch.no_grad():
            layer.source.copy_(source)
            layer.weight.copy_(weight[:, source, 0, 0].T)
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(bias)
        return layer

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out above across"]:
        """Maps of any size; ``above`` and ``across`` are those of the convolution. With ``last``, channels come and go last."""
        # Not as attributes: torch's look-up of each takes as long as a small product.
        buffers, geometry, held = self._buffers, self.geometry, self._held
        given, bias = self._parameters.get("weight"), self._parameters.get("bias")
        if (
            held is not None
            and held.ready is not None
            and given is not None
            and (bias is not None or not geometry.bias)  # else it is coded
            and takes(x)
            and held.fits(given, buffers["source"], self.read, self.written)  # type: ignore[arg-type]  # it is there
        ):
            return held.ready(x, bias)
        if x.ndim == 3:
            return self.forward(x[None])[0]
        weight: Tensor = self.weight
        held = self._held_for(weight)
        y = banded_pointwise(
            geometry.strided(geometry.channels_first(x)),
            buffers["source"],  # type: ignore[arg-type]  # there are no others
            buffers["order"],  # type: ignore[arg-type]
            buffers["basis"],  # type: ignore[arg-type]
            weight,
            self.bias,
            groups=self.groups,
            kept=buffers["kept"],  # type: ignore[arg-type]
            active=buffers["active"],  # type: ignore[arg-type]
            block=geometry.block,
            in_order=held is not None and held.in_order,
            panels=None if held is None else held.panels,
            read=self.read,
            written=self.written,
        )
        return geometry.as_read(y)

    def _held_for(self, weight: Tensor) -> "_Held | None":
        """What is known of the weight and of the order of the channels; looked up once for each change of them."""
        source = cast(Tensor, self._buffers["source"])
        if torch.compiler.is_compiling() or weight.is_inference() or source.is_inference() or source.is_meta:
            return None
        held, geometry = self._held, self.geometry
        fits = held is not None and held.fits(weight, source, self.read, self.written)
        if held is None or not fits or (held.panels is None and compiled_for(weight)):
            there = torch.arange(geometry.in_channels, dtype=source.dtype, device=source.device)
            in_order, panels = torch.equal(source, there), packed(weight)
            call = None
            if geometry.stride == (1, 1) and not geometry.last:
                call = ready(
                    source, self.order, self.kept, panels,
                    block=geometry.block, outputs=geometry.out_channels, in_order=in_order,
                    read=self.read, written=self.written,
                )  # fmt: skip
            held = self._held = _Held(
                weight.detach(),
                source.detach(),
                (weight._version, source._version),
                (weight.data_ptr(), source.data_ptr()),
                (self.read, self.written),
                in_order,
                panels,
                call,
            )
        return held

    def _in_order(self) -> bool:
        """Whether the channels come sorted."""
        held = self._held_for(self.weight)
        return held is not None and held.in_order

    def __getstate__(self) -> dict[str, Any]:
        # Another machine packs otherwise.
        return self.__dict__ | {"_held": None}

    def finalized(self) -> nn.Module:
        """Itself: this is an inference form."""
        return self

    @property
    def stands_for(self) -> type[nn.Module]:
        """A 1x1 convolution, or a linear layer on maps."""
        return self.geometry.host

    def multiplications(self, shape: Sequence[int]) -> int:
        """Of the products over what is kept, and of the transforms by rows and columns."""
        return self.geometry.multiplications(
            torch.tensor([kept for size, kept in self.groups for _ in range(size)]), shape
        )

    def spec(self) -> Spec:
        """Sizes, block, order and groups, and the limits where there are any, null for infinite ones."""
        limits = {"read": self.read, "written": self.written}
        return (
            self.geometry.to_json()
            | {"groups": [list(group) for group in self.groups]}
            | {name: limits_to_json(each) for name, each in limits.items() if each != FREE}
        )

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """An empty layer of the given sizes."""
        groups = spec.get("groups")
        if not isinstance(groups, list) or not all(isinstance(each, list) and len(each) == 2 for each in groups):
            raise ValueError(f"groups must be a list of pairs, got {groups!r}.")
        own = {"groups", "read", "written"}
        geometry = Geometry.from_json({name: value for name, value in spec.items() if name not in own})
        limits = {name: limits_from_json(name, spec[name]) for name in ("read", "written") if name in spec}
        return cls(geometry, [(each[0], each[1]) for each in groups], **limits)

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """How many products there are, and what they keep."""
        total = sum(size * kept for size, kept in spec["groups"])
        share = f"{total / spec['in'] / (spec['block'][0] * spec['block'][1]):.1%}".replace("%", " %")
        return f"{len(spec['groups'])} dense products over {share} of the coefficients"

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        last = ", last=True" * self.geometry.last
        limits = {"read": self.read, "written": self.written}
        clamps = "".join(f", {name}={each}" for name, each in limits.items() if each != FREE)
        return (
            f"{self.geometry.in_channels}, {self.geometry.out_channels}, block={self.geometry.block}, "
            f"groups={self.groups}{last}{clamps}"
        )

    def _constants(self, precision: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """What follows from geometry and groups: the order, how many coefficients each channel keeps and how many channels each coefficient, the basis."""
        top, dtype = self.groups[0][1], torch.int32
        active = [sum(size for size, kept in self.groups if kept > each) for each in range(top)]
        return {
            "order": torch.tensor(self.geometry.positions, dtype=dtype),
            "kept": torch.cat([torch.full((size,), kept, dtype=dtype) for size, kept in self.groups]),
            "active": torch.tensor(active, dtype=dtype),
            "basis": block_basis(self.geometry.block, self.geometry.positions[:top]).to(precision),
        }

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # .half() must not round the transform, nor .to_empty() lose any: all are laid where they belong anew.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        place, precision = self.basis.device, torch.promote_types(self.basis.dtype, torch.float32)
        for name, tensor in self._constants(precision).items():
            setattr(self, name, tensor.to(place))
        return self
