"""Frequency Regularization: weights live as truncated cosine spectra."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from spectrim.calibration import Calibration
from spectrim.errors import OrderError
from spectrim.methods.method import Method
from spectrim.nn.component import Layer, Spec, components
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.nn.reconstructed import TemplateConv
from spectrim.nn.spectral import SpectralCodec
from spectrim.surgery import sites
from spectrim.surgery.edits import ParametrizeTensor
from spectrim.surgery.plan import Plan, Skipped
from spectrim.surgery.sites import Site, Where
from spectrim.transforms.dct import Norm
from spectrim.transforms.ordering import ORDERS, Order, box_sides
from spectrim.truncation import CURVES, Curve, Truncation, official_truncation, target_count

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Linear, nn.Bilinear, BandedPointwiseConv2d, TemplateConv)
_LONGEST = 16_384  # a basis with as many frequencies takes 1 GB
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class FrequencyRegularization(Method, name="frequency-regularization"):
    """Keep the first coefficients of every weight's DCT spectrum, reached gradually while the network trains.

    A weight of any rank becomes its spectrum; the forward pass sees the inverse transform of what is kept. Nothing
    joins the loss: the hard limit regularises. Weights of convolutions (plain, transposed, grouped, of any dimension),
    linear layers and attention projections are candidates; any other parameter is coded where ``where`` names it
    (``pos_embed``, ``embed.weight``).

    Args:
        keep: Fraction of each tensor's coefficients that stays, in (0, 1]; or one per glob, first match wins
            (tensors that match none stay dense).
        floor: Least number of coefficients a tensor keeps, or one per glob. 1 if None. With ``compat`` it is the
            release's bound, which keeps one more: 127 for convolutions, 255 for linear layers, 31 for transposed
            convolutions if None.
        order: ``l1-lex`` (the paper's: sum of the indices, ties lexicographic) or ``linf`` (largest index).
        norm: ``ortho`` (default, and what the released weights need) or ``backward`` (the authors' training code).
        schedule: How the kept count falls with progress, see :class:`spectrim.truncation.Truncation`.
        compat: ``"fr2023"`` reproduces the counts and step-by-step traces of the authors' layers.
        decay: With ``compat``, their ``droprate``.

    Raises:
        ValueError: A hyper-parameter is out of range.

    References:
        Zhao, Dong, Zhang, Tan, Basu 2023, "Frequency Regularization: Reducing Information Redundancy in
        Convolutional Neural Networks", IEEE Access 11, arXiv 2304.07973.

    >>> print(FrequencyRegularization(keep=0.1).plan(nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 2))))
    FrequencyRegularization(keep=0.1) on Sequential: 2 edits, 232 → 34 parameters
      0.weight  keep 20 of 200 coefficients
      2.weight  keep 2 of 20 coefficients
    """

    keep: float | Mapping[str, float] = 0.01
    floor: int | Mapping[str, int] | None = None
    order: Order = "l1-lex"
    norm: Norm = "ortho"
    schedule: Curve = "geometric"
    compat: Literal["fr2023"] | None = None
    decay: float = 0.001

    def __post_init__(self) -> None:
        for keep in self.keep.values() if isinstance(self.keep, Mapping) else (self.keep,):
            _check_keep(keep)
        for floor in self.floor.values() if isinstance(self.floor, Mapping) else (self.floor,):
            if floor is not None and (type(floor) is not int or floor < 1):
                raise ValueError(f"floor must be a whole number of at least 1, got {floor!r}.")
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}.")
        if self.norm not in ("ortho", "backward"):
            raise ValueError(f"norm must be 'ortho' or 'backward', got {self.norm!r}.")
        open_curves = [curve for curve in CURVES if not curve.startswith("fr2023")]
        if self.schedule not in open_curves:
            raise ValueError(f"schedule must be one of {', '.join(open_curves)}, got {self.schedule!r}.")
        if self.compat not in (None, "fr2023"):
            raise ValueError(f"compat must be None or 'fr2023', got {self.compat!r}.")
        if not 0 < self.decay < 1:
            raise ValueError(f"decay must lie in (0, 1), got {self.decay!r}.")

    def __repr__(self) -> str:
        """As it would be written: only what differs from the defaults, and ``keep``."""
        fields = {name: value for name, value in vars(self).items() if value != getattr(type(self), name)}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in ({'keep': self.keep} | fields).items())})"

    def plan(self, model: nn.Module, *, where: Where = None, calibration: Calibration = None) -> Plan:
        """One edit per weight tensor; see :meth:`Method.plan`. Needs no calibration."""
        forms = {
            path: each.settled() for path, each in components(model) if isinstance(each, Layer)
        }  # what codes would stand in
        standing = list(sites.parameters(model))  # what where is asked about, so that a function finds its own modules
        candidates = [site for site in standing if _is_weight(site) or sites.names_tensor(site, where)]
        coded = {entry.site: entry for entry in sites.coded(model)}
        there = [Site(entry.path, entry.tensor, entry.module) for entry in coded.values()]
        chosen = sites.selected([*candidates, *there], where, model=model)
        for values in (self.keep, self.floor):
            if isinstance(values, Mapping):
                sites.selected(
                    [*candidates, *there], list(values), model=model
                )  # a glob that matches nothing is refused
        if again := [name for name in coded if name in chosen]:
            raise OrderError(
                f"FrequencyRegularization codes weights, but {len(again)} of those asked for are already coded (first: "
                f"{again[0]!r}, {coded[again[0]].codec.kind}). Name others with where, or decode with "
                "spectrim.finalize_(model)."
            )
        tied = sites.tied(model)
        named = {site.name for site in candidates}
        truncations: dict[Site, Truncation] = {}
        skipped: list[Skipped] = []
        for site in (replace(each, module=forms.get(each.path, each.module)) for each in standing):
            reason = _reason(site, tied, candidate=site.name in named, chosen=site.name in chosen)
            if reason is None and (keep := sites.per_site(self.keep, site)) is None:
                reason = "no pattern of keep matches"
            if reason is None:
                truncation = self._truncation(site, _check_keep(keep))
                reason = _too_long(site, truncation)
                if reason is None:
                    truncations[site] = truncation
            if reason:
                skipped.append(Skipped(site.name, reason))
        skipped += [
            Skipped(site.name, f"already parametrized by {type(stack[0]).__name__}")
            for site, stack in sites.parametrized(model)
        ]
        # One clock for all layers: the official ones advance together and freeze one after the other.
        steps = max((truncation.steps for truncation in truncations.values()), default=0)
        edits = tuple(
            ParametrizeTensor(site.path, site.tensor, SpectralCodec.kind, self._spec(site, replace(each, steps=steps)))
            for site, each in truncations.items()
        )
        before = sum(p.numel() for p in model.parameters() if not isinstance(p, UninitializedParameter))
        after = before - sum(each.numel - each.target for each in truncations.values())
        after -= sum(
            _numel(model.get_submodule(path)) - _numel(forms[path])
            for path in forms.keys() & {s.path for s in truncations}
        )
        return Plan(repr(self), type(model).__name__, edits, tuple(skipped), before, after)

    def _truncation(self, site: Site, keep: float) -> Truncation:
        numel = site.module.get_parameter(site.tensor).numel()
        floor = sites.per_site(self.floor, site)
        if self.compat is None:
            return Truncation(numel, target_count(numel, keep, floor or 1), self.schedule)
        transposed = isinstance(site.module, _TRANSPOSED)
        usual = 31 if transposed else 255 if isinstance(site.module, nn.Linear) else 127
        return official_truncation(
            numel,
            keep,
            decay=self.decay,
            floor=usual if floor is None else floor,
            groups=site.module.groups if isinstance(site.module, _TRANSPOSED) else 1,
            transposed=transposed,
        )

    def _spec(self, site: Site, truncation: Truncation) -> Spec:
        shape = site.module.get_parameter(site.tensor).shape
        spec: Spec = {"shape": [*shape], "truncation": truncation.to_json()}
        if self.order != "l1-lex":
            spec["order"] = self.order
        if self.norm != "ortho":
            spec["norm"] = self.norm
        return spec


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _check_keep(keep: object) -> float:
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise TypeError(f"keep must be a number in (0, 1] or a mapping from glob to number, got {keep!r}.")
    if not 0 < keep <= 1:
        hint = f" For {keep:g} percent, pass keep={keep / 100:g}." if 1 < keep <= 100 else ""
        raise ValueError(f"keep must lie in (0, 1], got {keep:g}.{hint or ' keep=0.01 keeps 1 percent, keep=1 all.'}")
    return float(keep)


def _too_long(site: Site, truncation: Truncation) -> str | None:
    """Why a tensor with a very long axis cannot be annealed: decoding its whole spectrum needs a square basis."""
    shape = site.module.get_parameter(site.tensor).shape
    sides = box_sides(shape, truncation.count(0.0))
    n, side = max(zip(shape, sides, strict=True), key=math.prod)
    if n * side <= _LONGEST**2:
        return None
    return f"an axis of {n:,} needs a basis of {n * side * 4 / 1e9:.1f} GB to start from; use schedule='at-once'"


def _is_weight(site: Site) -> bool:
    """Whether a parameter is coded unless told otherwise."""
    if isinstance(site.module, nn.MultiheadAttention):
        return site.tensor in _PROJECTIONS
    return isinstance(site.module, _WEIGHTED) and site.tensor == "weight"


def _reason(site: Site, tied: Mapping[str, str], *, candidate: bool, chosen: bool) -> str | None:
    """Why a parameter is left alone: None if it is not, the empty string if that is no news."""
    parameter = site.module.get_parameter(site.tensor)
    if isinstance(site.module, TemplateConv) and site.module.rebuilding is not None:
        return (
            "its filters are still to be rebuilt; code the templates when they are, after spectrim.anneal_(model, 1.0)"
        )
    if isinstance(site.module, nn.RNNBase) and parameter.ndim >= 2:
        return "recurrent layers keep their weights packed and do not read a coded one"
    if not candidate:
        return "no convolution or linear weight; name it in where to code it" if parameter.ndim >= 2 else ""
    if not chosen:
        return "left dense by where"
    if isinstance(parameter, UninitializedParameter):
        return "not initialised yet; run one batch through the model first"
    if site.name in tied:
        return f"tied with {tied[site.name]}"
    if not parameter.is_floating_point() or parameter.dtype not in _DTYPES:
        return f"of type {parameter.dtype}, only real floating-point weights have a spectrum"
    if parameter.numel() == 0 or parameter.ndim == 0:
        return "empty or scalar"
    return None


_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
