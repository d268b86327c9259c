"""The widths of the CFDP paper, as the fraction of channels that stays per layer."""

from collections.abc import Mapping
from types import MappingProxyType

# Patterns are tried in this order. The paper's lists say which share goes: 0.21, 0.75, … (README of Skhaki18/CFDP).
_GOOGLENET = {
    f"{name}.{layer}": 1 - rate
    for name, rate in zip(
        ("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5", "b5"), [0.6] * 2 + [0.7] * 5 + [0.8] * 2, strict=True
    )
    for layer in (("branch2.3", "branch3.3", "branch3.6") if name != "b5" else ("branch3.3",))
} | {"a5.branch2.3": 63 / 320}  # in the release's floating point, 320 (1 - 0.8) is a little less than 64


def _vgg(first: float, last: float) -> dict[str, float]:
    """Of the first seven convolutions, and of the five behind them; the thirteenth stays."""
    rates = [first] * 7 + [last] * 5
    places = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37)
    return {f"features.{place}": 1 - rate for place, rate in zip(places, rates, strict=True)}


def _resnet_cifar(stages: float, inner: Mapping[str, float]) -> dict[str, float]:
    return {"layer[12].*.conv2": 1 - stages, **{f"{layer}.conv1": 1 - rate for layer, rate in inner.items()}}


RATES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "vgg16_bn": _vgg(0.21, 0.75),
        "vgg16_bn-2.50M": _vgg(0.3, 0.75),
        "vgg16_bn-1.90M": _vgg(0.45, 0.78),
        "resnet56": _resnet_cifar(0.18, {"layer*": 0.18}),
        "resnet110": _resnet_cifar(0.2, {"layer1.*": 0.3, "layer[23].*": 0.35}),
        "googlenet": _GOOGLENET,
        "resnet50": {"layer[123].*.conv3": 0.9, "layer*.conv[12]": 0.65},
    }
)
"""For ``CFDP(keep=name, round_to=1)``: the networks of :mod:`spectrim.zoo`, and torchvision's ResNet-50.

VGG-16 has two smaller sizes, named as in figure 3 by the parameters that are left; their rates are those of HRankPlus.
"""
