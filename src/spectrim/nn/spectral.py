"""The codec of Frequency Regularization: a tensor lives as the first coefficients of its cosine spectrum."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spectrim.nn import factored
from spectrim.nn.component import Codec, Spec
from spectrim.transforms.dct import Norm, apply_along, inverse_basis, leading_dctn
from spectrim.transforms.ordering import ORDERS, Order, box_sides, cut_key, kept_inside, positions
from spectrim.truncation import Truncation

_MILESTONES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
_FUSED_TAIL = 256
_BASES: WeakValueDictionary[tuple[object, ...], Tensor] = WeakValueDictionary()
"""The constant bases in use, so that layers of equal sizes hold one and the same tensor."""


class SpectralCodec(Codec, kind="spectral"):
    """A dense tensor as its truncated DCT spectrum: :math:`W = \\mathrm{IDCT}(M \\odot \\tilde W)`.

    The code is the spectrum in its natural layout, of the shape and dtype of the dense tensor. Which coefficients
    count is one integer, ``kept``: the first so many in the order. Decoding looks at nothing outside the smallest
    box that holds them, and at nothing in the box behind the cut, so what an optimizer's momentum or weight decay
    does to a dropped coefficient has no effect.

    The box follows the count at a few milestones only (progress 1/16, 1/8, 1/4, 1/2 and 1), so that a compiled model
    is specialised a handful of times. In eval mode without gradients the decoded tensor is cached; a write to the code
    is noticed, except one through ``.data``, which torch does not count.

    Args:
        shape: Of the dense tensor, rank at least 1.
        kept: How many coefficients count now; the start of the truncation if None.
        order: In which order they are kept.
        norm: ``ortho``, or ``backward`` for spectra of the authors' training code.
        truncation: How the count falls with progress; stays at ``kept`` if None.

    Raises:
        ValueError: A value is out of range.

    References:
        Zhao et al. 2023, "Frequency Regularization" (arXiv 2304.07973), section 3.

    >>> codec = SpectralCodec((4, 4), kept=1)
    >>> codec(codec.right_inverse(torch.arange(16.0).reshape(4, 4)))[0]
    tensor([7.5000, 7.5000, 7.5000, 7.5000])
    """

    kept: Tensor
    cut: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        kept: int | None = None,
        *,
        order: Order = "l1-lex",
        norm: Norm = "ortho",
        truncation: Truncation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        numel = math.prod(self.shape)
        if truncation is not None and truncation.numel != numel:
            raise ValueError(
                f"the truncation is for {truncation.numel} coefficients, the shape {self.shape} has {numel}."
            )
        count = kept if kept is not None else truncation.count(0.0) if truncation is not None else numel
        self.order: Order = order
        self.norm: Norm = norm
        self.truncation = truncation
        self._levels = sorted({numel, *(truncation.count(p) for p in _MILESTONES)} if truncation else {count})
        self._dtype = torch.promote_types(dtype or torch.float32, torch.float32)
        self._cached: tuple[object, Tensor] | None = None
        self.count = count
        self._level = 0
        self.box: tuple[int, ...] = ()
        self.register_buffer("kept", torch.tensor(count, dtype=torch.int64, device=device))
        self.register_buffer("cut", torch.tensor(0, dtype=torch.int64, device=device), persistent=False)
        self._settle(count)

    # -- the transform --------------------------------------------------------------------------------------------

    def right_inverse(self, dense: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The spectrum of a dense tensor, in its dtype; zero outside the box, which is everything before annealing."""
        dtype = torch.promote_types(dense.dtype, torch.float32)
        if (dtype, dense.device) != (self._dtype, self.get_buffer("basis_0").device):
            self._dtype = dtype
            self._place(dense.device)
        code = torch.zeros_like(dense, memory_format=torch.contiguous_format)
        code[tuple(slice(side) for side in self.box)] = leading_dctn(dense, self.box, norm=self.norm).to(dense.dtype)
        return code

    def forward(self, code: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The dense tensor of a spectrum, in the dtype of the code; computed in float32 or wider, autocast or not."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or code.is_inference():
            return self._decode(code)
        version = (code._version, code.data_ptr(), code.dtype, code.device, self.count)
        if self._cached is None or self._cached[0] != version or _was_written(self._cached[1]):
            self._cached = (version, self._decode(code))
        return self._cached[1]

    def _decode(self, code: Tensor) -> Tensor:
        with torch.autocast(code.device.type, enabled=False):
            bases = [self.get_buffer(f"basis_{number}") for number in range(len(self._axes()))]
            decoded = self.core(code).to(self._dtype).reshape([basis.shape[1] for basis in bases])
            # The kernel's axes first, while the tensor is small; then C_in, and C_out last, in place.
            for number in reversed(range(len(bases))):
                decoded = apply_along(decoded, bases[number], number)
            return decoded.reshape(self.shape).to(code.dtype)

    def core(self, code: Float[Tensor, "*shape"]) -> Float[Tensor, "*box"]:
        """The box of the spectrum that holds every kept coefficient, zero behind the cut."""
        corner = code[tuple(slice(side) for side in self.box)]
        return torch.where(kept_inside(self.shape, self.box, self.cut, order=self.order), corner, 0)

    def _axes(self) -> list[tuple[int, ...]]:
        """Groups of axes that are transformed together: a kernel's small axes share one Kronecker product."""
        rank = len(self.shape)
        if rank > 3 and math.prod(self.shape[2:]) <= _FUSED_TAIL:
            return [(0,), (1,), tuple(range(2, rank))]
        return [(axis,) for axis in range(rank)]

    # -- the count ------------------------------------------------------------------------------------------------

    @classmethod
    def anneal_together_(cls, components: Sequence[Self], progress: float) -> None:
        """Lower each count to what its truncation says at ``progress``."""
        for codec in components:
            if codec.truncation is not None and (count := codec.truncation.count(progress)) < codec.count:
                codec._settle(count)

    def _settle(self, count: int) -> None:
        """Make ``count`` the kept count, and the box and the bases follow where it passed a milestone."""
        self.count = count
        self._cached = None
        self.kept.fill_(count)
        self.cut.fill_(cut_key(self.shape, count, order=self.order))
        level = min((level for level in self._levels if level >= count), default=count)
        if level != self._level:
            self._level = level
            self.box = box_sides(self.shape, level, order=self.order)
            self._place(self.kept.device)

    def _place(self, device: torch.device) -> None:
        """Lay the cropped bases on a device, in the dtype of the transform."""
        for number, group in enumerate(self._axes()):
            sizes, sides = [self.shape[axis] for axis in group], [self.box[axis] for axis in group]
            basis = _basis(tuple(sizes), tuple(sides), self.norm, self._dtype, device)
            self.register_buffer(f"basis_{number}", basis, persistent=False)

    # -- what torch does to modules -------------------------------------------------------------------------------

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Moves and casts show where the bases belong; they are laid there anew, because .half() must not round them.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        basis = self.get_buffer("basis_0")
        self._dtype = torch.promote_types(basis.dtype, torch.float32)
        self._place(basis.device)
        self._settle(self.count)  # .to_empty() leaves no numbers behind
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.cut.device != self.kept.device:  # assigned to a model on the meta device
            self.cut = torch.zeros_like(self.kept)
            self._place(self.kept.device)
        self._settle(int(self.kept))

    def train(self, mode: bool = True) -> Self:
        """As ever; also drops the cached tensor."""
        self._cached = None
        return super().train(mode)

    # -- what files know ------------------------------------------------------------------------------------------

    def spec(self) -> Spec:
        """Shape and kept count, and order and norm where they are not the default. No schedule: that is history."""
        spec: Spec = {"shape": list(self.shape), "kept": self.count}
        if self.order != "l1-lex":
            spec["order"] = self.order
        if self.norm != "ortho":
            spec["norm"] = self.norm
        return spec

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Build from :meth:`spec`, or from a plan's, which also holds a ``truncation``."""
        if unknown := spec.keys() - {"shape", "kept", "order", "norm", "truncation"}:
            raise ValueError(f"a spectral codec has no {', '.join(sorted(map(repr, unknown)))}.")
        shape, kept, truncation = spec.get("shape"), spec.get("kept"), spec.get("truncation")
        if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"shape must be a list of positive whole numbers, got {shape!r}.")
        numel = math.prod(shape)
        if kept is not None and (type(kept) is not int or not 1 <= kept <= numel):
            raise ValueError(f"kept must be a whole number in [1, {numel}], got {kept!r}.")
        order, norm = spec.get("order", "l1-lex"), spec.get("norm", "ortho")
        if order not in ORDERS or norm not in ("ortho", "backward"):
            raise ValueError(f"unknown order {order!r} or norm {norm!r}.")
        if truncation is not None and not isinstance(truncation, dict):
            raise ValueError(f"truncation must be an object, got {truncation!r}.")
        return cls(
            shape,
            kept,
            order=order,
            norm=norm,
            truncation=None if truncation is None else Truncation.from_json(truncation),
        )

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """The share of the coefficients that stays.

        >>> SpectralCodec.summary({"shape": [64, 64, 3, 3], "kept": 370})
        'keep 370 of 36,864 coefficients'
        """
        truncation = spec.get("truncation")
        kept = truncation["target"] if truncation else spec.get("kept")
        return f"keep {kept:,} of {math.prod(spec['shape']):,} coefficients"

    def numbers(self) -> int:
        """The kept count."""
        return self.count

    def packed(self, code: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "kept"]]:
        """The kept coefficients, in the order."""
        where = positions(self.shape, self.count, order=self.order).to(code.device)
        return (code.detach().flatten()[where],)

    def unpacked(self, *packed: Tensor) -> Float[Tensor, "*shape"]:
        """The spectrum with these first coefficients and zeros behind."""
        if [tuple(part.shape) for part in packed] != [(self.count,)]:
            found = [tuple(part.shape) for part in packed]
            raise ValueError(
                f"a spectrum of {self.count} kept coefficients needs one part of that length, got {found}."
            )
        where = positions(self.shape, self.count, order=self.order).to(packed[0].device)
        code = packed[0].new_zeros(math.prod(self.shape))
        code[where] = packed[0]
        return code.reshape(self.shape)

    def alternative(self, host: nn.Module, code: Tensor) -> nn.Module | None:
        """The factored layer, see :mod:`spectrim.nn.factored`."""
        with torch.no_grad():
            core = self.core(code)
            bases = [inverse_basis(n, side, norm=self.norm) for n, side in zip(self.shape, self.box, strict=True)]
            for axis in range(2, core.ndim):
                core = apply_along(core, bases[axis].to(core), axis)
        return factored.factored(host, core.contiguous(), norm=self.norm)

    def extra_repr(self) -> str:
        """Shape and counts for ``print(model)``."""
        return f"shape={self.shape}, kept={self.count}"


@torch.inference_mode(mode=False)
def _basis(
    sizes: tuple[int, ...], sides: tuple[int, ...], norm: Norm, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The Kronecker product of the inverse bases of these axes, shared with every codec that holds the same."""
    key = (sizes, sides, norm, dtype, device)
    basis = _BASES.get(key)
    if basis is None:
        factors = [inverse_basis(n, side, norm=norm) for n, side in zip(sizes, sides, strict=True)]
        basis = functools.reduce(torch.kron, factors).to(device, dtype)
        _BASES[key] = basis
    return basis


def draw_spectra_(model: nn.Module, std: float = 0.1, *, generator: torch.Generator | None = None) -> nn.Module:
    """Draw every spectrum of a coded model from N(0, std²), as the authors do when they train from scratch.

    Works with normalisation layers only; starting from the spectrum of an ordinary initialisation is safer.

    Args:
        model: With spectral codecs in it.
        std: Standard deviation of each coefficient.
        generator: Source of randomness.

    Returns:
        The model.
    """
    for module in model.modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList) and isinstance(module[0], SpectralCodec):
            with torch.no_grad():
                module.original.normal_(0.0, std, generator=generator)
    return model


def _was_written(cached: Tensor) -> bool:
    """Whether somebody wrote into a tensor that was decoded once and handed out since."""
    return not cached.is_inference() and cached._version > 0
