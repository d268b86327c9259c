"""Which pointwise layers can be cut, and why the others are left alone."""

from collections.abc import Collection, Sequence

from torch import nn
from torch.nn.parameter import is_lazy

from spectrim.errors import OrderError
from spectrim.methods.pointwise_hosts import Pointwise
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.flat_bands import FlatBandsConv2d
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery import sites
from spectrim.surgery.sites import Site

_SWAPPED = (BandedPointwiseConv2d, GroupedBandsConv2d, FlatBandsConv2d)


def candidates_of(model: nn.Module, linear: Collection[str] = ()) -> list[Site]:
    """Every 1x1 convolution, those that are already swapped included, and those linear layers that are named."""
    return [
        Site(path, "weight", module)
        for path, module in sites.walk(model)
        if isinstance(module, _SWAPPED)
        or path in linear
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    ]


def check_codes(model: nn.Module) -> None:
    """Refuse a model that carries codes.

    Raises:
        OrderError: It does.
    """
    if codes := sites.coded(model):
        raise OrderError(
            f"PointwisePruning swaps convolutions, but {len(codes)} tensors are already coded (first: {codes[0].site!r}, "
            f"{codes[0].codec.kind}). Swap first and code last, or decode with spectrim.finalize_(model)."
        )


def check_swapped(candidates: Sequence[Site], chosen: set[str]) -> None:
    """Refuse candidates that were chosen although they are swapped.

    Raises:
        OrderError: There is one.
    """
    there = [site for site in candidates if isinstance(site.module, _SWAPPED)]
    if again := [site.path for site in there if site.name in chosen]:
        raise OrderError(
            f"PointwisePruning swaps convolutions, but {len(again)} of those asked for are already swapped (first: "
            f"{again[0]!r}). Name others with where, or start from the dense network."
        )


def reason_against(site: Site, *, chosen: bool) -> str:
    """Why a layer is left alone; empty if it is not."""
    layer = site.module
    if isinstance(layer, _SWAPPED):
        return "already swapped"
    if not chosen:
        return "left dense by where"
    if not site.path:
        return "is the model itself; wrap it in nn.Sequential"
    assert isinstance(layer, Pointwise)  # noqa: S101 - all others are swapped
    weight = layer._parameters.get("weight")  # noqa: SLF001 - a property would be a weight that is made anew
    if weight is None or is_lazy(weight):
        return "its weight is no plain parameter"
    if not weight.is_floating_point():
        return f"its weight is of type {weight.dtype}"
    if isinstance(layer, nn.Linear):
        return ""
    if layer.groups != 1:
        return f"has {layer.groups} groups"
    if type(layer) is nn.Conv2d and layer.padding not in {(0, 0), "same", "valid"}:
        return f"pads its input by {layer.padding}"
    return ""
