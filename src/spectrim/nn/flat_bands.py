"""The inference form of a banded pointwise convolution for runtimes that know plain operators, and for spectra that stay spectra."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.blockwise import Geometry, check_groups, covered, from_blocks, multiplications, to_blocks, transforms
from spectrim.nn.component import Layer, Spec
from spectrim.transforms.scans import block_basis

_ENDS = ("maps", "spectra")


class FlatBandsConv2d(Layer, kind="banded-pointwise-flat"):
    """A pointwise convolution of the first coefficients of its input, channels first, as one product for each range of frequencies.

    The transform is one product with the kept rows of the flattened basis. Of the sorted channels those that reach a range of
    frequencies are the first :math:`n_j`, so

    .. math::

        \\hat Y_{f_j : f_{j+1}} = W_{:, :n_j} \\hat X_{:n_j, f_j : f_{j+1}}

    and where a block is the whole map, nothing is moved in memory at all. Either end may be open: a layer that writes spectra leaves
    the inverse transform out, one that reads them starts from there. A spectrum is a tensor (image, channel, down, across, frequency),
    so that sums of them are what sums of maps were.

    Args:
        geometry: Sizes, block, order, stride, bias.
        groups: Number of channels and kept coefficients of each group, most kept first.
        reads: ``maps`` or ``spectra``.
        writes: ``maps``, or of spectra how many coefficients.

    Raises:
        ValueError: The groups do not fit the sizes, or spectra are read with a stride.

    >>> layer = FlatBandsConv2d(Geometry(3, 4, (2, 2)), [(1, 4), (2, 1)], writes=3)
    >>> layer(torch.zeros(1, 3, 6, 6)).shape
    torch.Size([1, 4, 3, 3, 3])
    >>> FlatBandsConv2d(Geometry(4, 2, (2, 2)), [(4, 2)], reads="spectra")(torch.zeros(1, 4, 3, 3, 3)).shape
    torch.Size([1, 2, 6, 6])
    """

    source: Int[Tensor, "in"]
    basis: Float[Tensor, "frequency pixel"]

    def __init__(
        self, geometry: Geometry, groups: list[tuple[int, int]], *, reads: str = "maps", writes: int | str = "maps"
    ) -> None:
        super().__init__()
        check_groups(geometry, groups)
        if reads not in _ENDS or (reads == "spectra" and geometry.stride != (1, 1)):
            raise ValueError(f"reads must be 'maps', or 'spectra' without a stride, got {reads!r}.")
        if writes != "maps" and (type(writes) is not int or not 1 <= writes <= geometry.frequencies):
            raise ValueError(f"writes must be 'maps' or at most {geometry.frequencies} coefficients, got {writes!r}.")
        if geometry.last and (reads, writes) != ("maps", "maps"):
            raise ValueError(f"with channels last both ends must be maps, got {reads!r} and {writes!r}.")
        self.geometry = geometry
        self.groups = groups
        self.reads, self.writes = reads, writes
        self.weight = nn.Parameter(torch.zeros(geometry.out_channels, geometry.in_channels))
        self.bias = nn.Parameter(torch.zeros(geometry.out_channels)) if geometry.bias else None
        self.register_buffer("source", torch.arange(geometry.in_channels, dtype=torch.int32))
        self.register_buffer("basis", self._basis().float(), persistent=False)
        self.segments = self._segments()
        self._was_in_order = False

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        weight: Float[Tensor, "out in 1 1"],
        bias: Tensor | None,
        kept: Int[Tensor, "in"],
        *,
        reads: str = "maps",
        writes: int | str = "maps",
    ) -> Self:
        """The form that computes what the convolution with these tensors does, where each channel keeps ``kept``.

        Args:
            geometry, weight, bias: Of the convolution.
            kept: How many coefficients each input channel keeps.
            reads, writes: What comes in, and what goes out.
        """
        source = kept.argsort(descending=True, stable=True)
        counts, sizes = torch.unique(kept, return_counts=True)
        groups = [*zip(sizes.flip(0).tolist(), counts.flip(0).tolist(), strict=True)]
        layer = cls(geometry, groups, reads=reads, writes=writes)
        layer.to(weight.device, weight.dtype)
        with torch.no_grad():
            layer.source.copy_(source)
            layer.weight.copy_(weight[:, source, 0, 0])
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(bias)
        layer._was_in_order = torch.equal(source, torch.arange(len(source), device=source.device))
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Maps (image, channel, height, width) or spectra (image, channel, down, across, frequency), as they were asked for."""
        block = self.geometry.block
        if self.reads == "spectra":
            n, _, down, across, top = x.shape
            height, width = down * block[0], across * block[1]
            rows = self._sorted(x).reshape(n, self.geometry.in_channels, down * across, top)
        else:
            x = self.geometry.strided(self.geometry.channels_first(x))
            height, width = x.shape[-2:]
            x = self._sorted(covered(x, block))
            n, down, across = x.shape[0], x.shape[-2] // block[0], x.shape[-1] // block[1]
            rows = self._cut(x, down * across)
        if self.writes != "maps" and (height % block[0] or width % block[1]):
            raise ValueError(
                f"spectra of blocks of {block} are handed on, found a map of {(height, width)}. Finalize for this size."
            )
        total = self._product(rows)
        if self.writes != "maps":
            assert isinstance(self.writes, int)  # noqa: S101 - checked when it was built
            total = F.pad(total, (0, self.writes - total.shape[-1])) if self.writes > total.shape[-1] else total
            return total.reshape(n, -1, down, across, self.writes)
        pixels = (total.to(self.basis.dtype) @ self.basis[: total.shape[-1]]).to(total.dtype)
        size = (down * block[0], across * block[1])
        if down * across == 1:
            return self.geometry.as_read(pixels.reshape(n, -1, *size)[..., :height, :width])
        return self.geometry.as_read(from_blocks(pixels, block, size)[..., :height, :width])

    def _sorted(self, x: Tensor) -> Tensor:
        return x if self._in_order else x.index_select(1, self.source)

    def _cut(self, x: Tensor, blocks: int) -> Tensor:
        if blocks == 1:
            return x.reshape(*x.shape[:2], 1, self.geometry.frequencies)
        return to_blocks(x, self.geometry.block)

    def _product(self, rows: Tensor) -> Float[Tensor, "image out block frequency"]:
        """The products, range by range."""
        parts = []
        for channels, first, last in self.segments:
            part = rows[:, :channels] if channels < rows.shape[1] else rows
            if self.reads == "spectra":
                part = part[..., first:last]
            else:
                part = (part.to(self.basis.dtype) @ self.basis[first:last].T).to(rows.dtype)
            shape = part.shape
            mixed = F.conv2d(part.reshape(shape[0], channels, 1, -1), self.weight[:, :channels, None, None])
            parts.append(mixed.reshape(shape[0], self.geometry.out_channels, shape[2], last - first))
        total = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
        if self.bias is None:
            return total
        # A constant has one coefficient, the first.
        constant = self.bias * math.sqrt(self.geometry.frequencies)
        return total + F.pad(constant[:, None, None], (0, total.shape[-1] - 1))

    def _segments(self) -> list[tuple[int, int, int]]:
        """For each range of frequencies: how many channels reach it, where it starts and ends."""
        top = self.writes if isinstance(self.writes, int) else self.geometry.frequencies
        reach = list(itertools.accumulate(size for size, _ in self.groups))
        ends = [min(kept, top) for _, kept in self.groups]
        starts = [*ends[1:], 0]
        found = [(n, start, end) for n, start, end in zip(reach, starts, ends, strict=True) if start < end]
        return found[::-1]

    @property
    def _in_order(self) -> bool:
        """Whether the channels come sorted; while a graph is taken, as it was found last."""
        if not (self.source.is_meta or torch.compiler.is_exporting() or torch.compiler.is_compiling()):
            there = torch.arange(self.geometry.in_channels, dtype=self.source.dtype, device=self.source.device)
            self._was_in_order = torch.equal(self.source, there)
        return self._was_in_order

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._was_in_order = False

    def finalized(self) -> nn.Module:
        """Itself: this is an inference form."""
        return self

    @property
    def stands_for(self) -> type[nn.Module]:
        """A 1x1 convolution, or a linear layer on maps."""
        return self.geometry.host

    def multiplications(self, shape: Sequence[int]) -> int:
        """Of the products over what is kept, and of the transforms by rows and columns at those ends that are maps."""
        geometry, block = self.geometry, self.geometry.block
        top = self.writes if isinstance(self.writes, int) else geometry.frequencies
        kept = torch.tensor([min(count, top) for size, count in self.groups for _ in range(size)])
        if self.reads == "spectra":
            images, size = shape[0], (shape[-3] * block[0], shape[-2] * block[1])
        else:
            images, size = geometry.read(shape)
        products, _ = multiplications(kept, geometry.out_channels, block, size)
        there, back = transforms(kept, geometry.out_channels, block, size)
        return images * (products + there * (self.reads == "maps") + back * (self.writes == "maps"))

    def spec(self) -> Spec:
        """Sizes, block, order, groups, and what it reads and writes."""
        return self.geometry.to_json() | {
            "groups": [list(group) for group in self.groups],
            "reads": self.reads,
            "writes": self.writes,
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """An empty layer of the given sizes."""
        groups, ours = spec.get("groups"), {"groups", "reads", "writes"}
        if not isinstance(groups, list) or not all(isinstance(each, list) and len(each) == 2 for each in groups):
            raise ValueError(f"groups must be a list of pairs, got {groups!r}.")
        if not ours <= spec.keys():
            raise ValueError(f"a flat banded convolution needs {sorted(ours)}, got {sorted(spec)}.")
        geometry = Geometry.from_json({name: value for name, value in spec.items() if name not in ours})
        pairs = [(each[0], each[1]) for each in groups]
        return cls(geometry, pairs, reads=spec["reads"], writes=spec["writes"])

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """How many products there are, and what they keep."""
        return GroupedBandsConv2d.summary(spec)

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        ends = f"reads={self.reads!r}, writes={self.writes!r}"
        return f"{self.geometry.in_channels}, {self.geometry.out_channels}, block={self.geometry.block}, groups={self.groups}, {ends}"

    def _basis(self) -> Float[Tensor, "frequency pixel"]:
        return block_basis(self.geometry.block, self.geometry.positions[: self.groups[0][1]])

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # .half() must not round the transform: the basis is laid where it belongs anew.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        dtype = torch.promote_types(self.basis.dtype, torch.float32)
        self.basis = self._basis().to(self.basis.device, dtype)
        return self
